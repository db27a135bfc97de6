"""Results as JSON Lines in a hash chain."""
