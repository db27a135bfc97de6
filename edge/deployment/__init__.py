"""A machine set up for a run."""
