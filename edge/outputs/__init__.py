"""Where results go: one folder or file an output."""
