"""Prompter: train a vision-language model to prompt a frozen Segment Anything Model.

This package is the policy's side: what is asked, how it is answered, and how answers are read.
Importing it, or `prompter.types`, never imports torch.
"""

__version__ = "0.1.0"
