"""Runnable programs: the cold start, GRPO, and the command line."""
