"""Image sets, training samples, training, agreement of scores."""
