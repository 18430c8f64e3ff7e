"""The report of a training run: learning curve, before and after, and the samples that changed most."""
