"""What `prompter bench step` and `prompter bench rollout` measure: whole steps, and rollouts alone."""
