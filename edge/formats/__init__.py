"""Picture files: every format, one way in, whole or not at all."""
