"""GRPO on TRL: the window of rollouts, its scoring, the seam to TRL, logs and checkpoints."""
