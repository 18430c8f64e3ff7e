"""Different systems trained from one base on one set, and compared on the same held-out questions."""
