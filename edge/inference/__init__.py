"""Picture to score."""
