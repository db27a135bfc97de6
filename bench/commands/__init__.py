"""The commands of `fthnet bench`."""
