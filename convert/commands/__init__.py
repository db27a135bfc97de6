"""The commands that export, train, quantise, verify and build."""
