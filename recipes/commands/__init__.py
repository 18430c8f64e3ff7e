"""The commands of `prompter`, one file each."""
