"""What `prompter bench step` and `prompter bench rollout` measure: whole training steps, and rollouts alone."""
