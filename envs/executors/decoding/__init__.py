"""Prompt decoders: what turns the prompts of many completions into masks, once an image is encoded."""
