"""Masks that a frozen segmenter proposes without a question: a grid of points or given boxes, then filters.

`grid` makes prompts, `propose` turns prompts into masks with scores and filters them, `store` keeps what was
proposed for an image on disk. The whole of an image costs one encoding, whatever the grid.
"""
