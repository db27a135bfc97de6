"""Bundles written: from a checkpoint, from a training, with more precisions."""
