"""Where in a completion the answer stands: outside of thoughts, within `<answer>` where there is one."""

from __future__ import annotations

import re
from dataclasses import dataclass

_THOUGHT = re.compile(
    r"<(?P<close>/?)(?:(?:seed:)?think(?:ing)?|rethink|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
    r"(?:\s[^<>]*)?>|◁(?P<shut>/?)think▷|\[(?P<end>/?)THINK\]",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"<\s*(?P<close>/?)\s*answer\s*>", re.IGNORECASE)
_FENCE = re.compile(r"```(?:(?!null\b)[a-zA-Z]+)?")

BLANK = " \t\r\n\f\v\ufeff\u200b\u2060"
"""What may stand around an answer unseen: white space, the byte-order mark, signs of no width."""


@dataclass(frozen=True)
class Block:
    """A piece of a completion that should hold an answer.

    Args:
        text: what stands there.
        tagged: whether it stands within `<answer>`.
        closed: whether `</answer>` ends it.
    """

    text: str
    tagged: bool
    closed: bool


def outside_thought(text: str, *, opened: bool = False) -> str:
    """Return a completion without what was thought in it, as `split_thought` tells the two apart."""
    return split_thought(text, opened=opened)[1]


def split_thought(text: str, *, opened: bool = False) -> tuple[str, str]:
    """Part a completion into what was thought in it and the rest.

    Args:
        text: the completion.
        opened: whether the prompt ended in `<think>`, so that the completion begins inside a thought.

    Returns:
        (thoughts, rest), several pieces of either joined by newlines; tags of thoughts are in neither.

    Thoughts are `<think>…</think>` and what else models call it (`_THOUGHT`), in any case. One that never
    ends takes all that follows. `</think>` without its beginning makes all that precedes it a thought:
    templates that open the thought in the prompt send no more. A tag that is named within a thought
    changes nothing.
    """
    thought: list[str] = []
    kept: list[str] = []
    start, inside = 0, opened
    for tag in _THOUGHT.finditer(text):
        if tag["close"] or tag["shut"] or tag["end"]:
            if not inside:
                thought += kept
                kept.clear()
            thought.append(text[start : tag.start()])
            start, inside = tag.end(), False
        elif not inside:
            kept.append(text[start : tag.start()])
            start, inside = tag.end(), True
    (thought if inside else kept).append(text[start:])
    return "\n".join(thought), "\n".join(kept)


def answer_blocks(region: str) -> list[Block]:
    """The `<answer>` blocks of what `outside_thought` left, or all of it as one block if there is none."""
    blocks: list[Block] = []
    start: int | None = None
    for tag in _ANSWER.finditer(region):
        if start is not None:
            blocks.append(Block(region[start : tag.start()], True, bool(tag["close"])))
        start = None if tag["close"] else tag.end()
    if start is not None:
        blocks.append(Block(region[start:], True, False))
    return blocks or [Block(region, False, False)]


def without_fences(text: str) -> str:
    """A block's text without code fences and the language behind them, and without blanks at its ends."""
    return _FENCE.sub(" ", text).strip(BLANK)
