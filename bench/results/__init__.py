"""The files that results are kept in, and their charts."""
