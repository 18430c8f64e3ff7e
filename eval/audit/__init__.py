"""Where predictions agree with each other and not with the label: a queue, a page, a repaired split."""
