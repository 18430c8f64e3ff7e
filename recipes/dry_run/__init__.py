"""What can be known of a run before it starts, for `prompter train CONFIG --dry-run`."""
