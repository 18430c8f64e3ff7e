"""`box-tokens`: Qwen2-VL, `<|object_ref_start|>…<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>`.

The tokens are special, so most decoders drop them: `ships(x1,y1),(x2,y2)` is read as well. Where they
stand, only what stands between `<|box_start|>` and `<|box_end|>` is read, and one pair is a point. 0 to
1000. `<box>(x1,y1),(x2,y2)</box>` is the first Qwen-VL's form of the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from prompter.dialects.base import FREE, Dialect, Entry, Found, Refused
from prompter.dialects.region import without_fences
from prompter.types import FailureKind

_NUMBER = r"\s*([-+]?\d+(?:\.\d+)?)\s*"
_PAIR = rf"\({_NUMBER},{_NUMBER}\)"
_BOX = re.compile(rf"{_PAIR}\s*,?\s*{_PAIR}")
_POINT = re.compile(_PAIR)
_STARTS = re.compile(r"<\|box_start\|>|<box>")
_ENDS = re.compile(r"<\|box_end\|>|</box>")
_EMPTY_LIST = re.compile(r"\[\s*\]")
_HALF = re.compile(rf"\({_NUMBER}(?:,{_NUMBER}\)?)?[\s,(]*\Z")


@dataclass(frozen=True)
class BoxTokenDialect(Dialect):
    """Answers as boxes in running text; see the module."""

    def find(self, text: str, *, tagged: bool) -> Found:
        """See `Dialect.find`: all boxes of a block are one answer, each once."""
        body = without_fences(text)
        found = Found()
        entries = self._marked(body, found) if _STARTS.search(body) else self._unmarked(body, found)
        if entries:
            found.answers.append(list(dict.fromkeys(entries)))
            found.open_end = True
        elif body == "null" or (not found.problem and _EMPTY_LIST.search(body)):
            found.answers.append([])
        return found

    def entry(self, raw: Any, where: str) -> Entry:
        """See `Dialect.entry`."""
        numbers = list(raw)
        if len(numbers) == 4:
            return Entry(boxes=(("the box", numbers),))
        if len(numbers) == 2:
            return Entry(positive=(("the point", numbers),))
        raise Refused(FailureKind.WRONG_SHAPE, f"expected 2 or 4 numbers at {where}, but got {len(numbers)}")

    def _marked(self, body: str, found: Found) -> list[tuple[float, ...]]:
        entries = []
        for part in _STARTS.split(body)[1:]:
            ending = _ENDS.search(part)
            inside = part if ending is None else part[: ending.start()]
            whole = _BOX.fullmatch(inside.strip()) or _POINT.fullmatch(inside.strip())
            if whole is None or ending is None:
                missing = "" if ending else ", and no <|box_end|> follows"
                found.problem = f"behind <|box_start|> stands {inside!r:.60}{missing}"
                found.spoils, found.unfinished = True, ending is None
                continue
            entries.append(tuple(map(float, whole.groups())))
        return entries

    def _unmarked(self, body: str, found: Found) -> list[tuple[float, ...]]:
        boxes = [tuple(map(float, match.groups())) for match in _BOX.finditer(body)]
        rest = _BOX.sub(" ", body)
        if _POINT.search(rest) or _HALF.search(rest):
            found.problem, found.spoils = "a pair of numbers stands alone, which is half a box", True
            found.unfinished = _HALF.search(body) is not None
        return boxes


BOX_TOKENS = BoxTokenDialect(
    name="box-tokens",
    source=(
        "the Qwen2-VL paper (arXiv 2409.12191, section 2) and its tokenizer's special tokens; 0 to 1000: "
        "github.com/QwenLM/Qwen3-VL, qwen-vl-finetune/tools/process_bbox.ipynb (convert_to_qwen2vl_format)"
    ),
    prompt="Detect the bounding box of: {query}",
    frame="thousandths",
    action_space=FREE,
    special_tokens=(
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
    ),
    out_of_frame="clip",
    swapped_corners="sort",
)
