"""What `prompter bench` measures of whole training steps, of rollouts and of pools of engines."""
