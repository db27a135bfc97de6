"""The best frame of an eye, kept with what is known about it."""
