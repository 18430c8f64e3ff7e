"""Samplers: what turns a chat and an image into completions."""
