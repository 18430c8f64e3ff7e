"""Embedding-as-mask: training of policies whose `[SEG]` tokens carry their masks (LISA's way)."""
