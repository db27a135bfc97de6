"""Whose a bundle is: keys, signatures, and releases that only count up."""
