"""How fast a score is, and how fast it could be."""
