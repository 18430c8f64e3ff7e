"""Cold start: a small policy from scratch, its data, its model and its training."""
