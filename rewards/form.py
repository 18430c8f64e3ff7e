"""Opt-in rewards for the form of the answer. Neither is part of the default recipe.

They look at the text alone and never at where the prompts point, so they can be earned without
looking at the image. Give them a small weight, and only while answers do not parse.
"""

from __future__ import annotations

import re

from envs.rollout import Rollout
from prompter.types import ParseFailure

_TAGGED = re.compile(r"\s*<think>.*?</think>\s*<answer>.*?</answer>\s*", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>")


def valid_answer(rollout: Rollout) -> float:
    """1 if the completion was read as an answer (the empty one included), else 0."""
    return 0.0 if isinstance(rollout.reading, ParseFailure) else 1.0


def tag_format(rollout: Rollout) -> float:
    """1 if the completion is `<think>…</think><answer>…</answer>` and nothing else, else 0.

    Each tag must appear once; white space around and between the two is allowed.
    """
    text = rollout.completion
    return 1.0 if _TAGGED.fullmatch(text) and len(_TAG.findall(text)) == 4 else 0.0
