"""Camera to frame."""
