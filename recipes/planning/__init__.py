"""What a run will take, before it is started: memory of every device, time, and what to turn."""
