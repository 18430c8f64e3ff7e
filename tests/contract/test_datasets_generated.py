"""Generated sets with every fault their kind can have: what is read is right, the rest is refused or counted.

Each case writes a small set of which an oracle knows what every record holds. `PROMPTER_GENERATED_SETS` says
how many of each kind are made.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from envs.datasets import open_dataset
from prompter.errors import UserError

CASES = int(os.environ.get("PROMPTER_GENERATED_SETS", "40"))
SIDES = (9, 7)  # width, height
WORDS = ("the ship", "le café", "the harbour’s ship", "码头", "a\u2028b", "x\u0085y", '[SEG] {"a": 1}')
WITHOUT_QUESTION = "records without a question"


@dataclass
class Truth:
    """What a generated set holds: (query, target) of what is to be read, in order, and how much is not."""

    samples: list[tuple[str, np.ndarray]] = field(default_factory=list)
    refused: int = 0
    empty: int = 0


def drawn(draw: random.Random) -> np.ndarray:
    """A mask [height, width] that is not empty."""
    mask = np.zeros((SIDES[1], SIDES[0]), dtype=np.bool_)
    x, y = draw.randrange(SIDES[0]), draw.randrange(SIDES[1])
    mask[y : y + draw.randrange(1, 4), x : x + draw.randrange(1, 4)] = True
    return mask


def write_image(path: Path, draw: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((SIDES[1], SIDES[0], 3), draw.randrange(256), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_mask(path: Path, mask: np.ndarray, draw: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    label = np.where(mask, draw.choice([1, 38, 255]), 0).astype(np.uint8)
    image = Image.fromarray(np.stack([label] * 3, axis=-1) if draw.random() < 0.3 else label)
    image.save(path)


def encoded(text: str, draw: random.Random) -> tuple[bytes, bool]:
    """Text in some encoding, and whether it is one that is read without being named."""
    data = text.encode(draw.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    if draw.random() < 0.1:
        data = text.encode("gb18030")
    return data, _is_unicode(data)


def _is_unicode(data: bytes) -> bool:
    try:
        data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def check(name: str, split: str, truth: Truth, **options: Any) -> None:
    """Strict opening reads all or refuses; lenient opening reads the good records and counts the others."""
    if not truth.samples:
        with pytest.raises(UserError):
            list(open_dataset(name, split, **options, skip_bad=True))
        return
    source: Any = open_dataset(name, split, **options, skip_bad=True)
    assert [sample.query for sample in source] == [query for query, _ in truth.samples]
    for sample, (_, target) in zip(source, truth.samples, strict=True):
        assert np.array_equal(sample.target_mask(), target)
    assert len(source.skipped) == truth.refused
    assert source.left_out.get(WITHOUT_QUESTION, 0) == truth.empty
    if truth.refused:
        with pytest.raises(UserError):
            list(open_dataset(name, split, **options))
    else:
        assert list(open_dataset(name, split, **options)) == list(source)


def earthreason(root: Path, draw: random.Random) -> tuple[str, str, Truth, dict[str, Any]]:
    """Folders with stems that are there twice or not at all, blank questions, answers against labels."""
    truth = Truth()
    rule = draw.choice(["no_target", "label", "refuse"])
    for stem in sorted(draw.sample(["a", "b", "a.b", "c d", "ä"], draw.randrange(1, 5))):
        place = draw.choice(["val", "val/val"])
        is_bad = False
        write_image(root / draw.choice(["val", "val/val"]) / "images" / f"{stem}.png", draw)
        if draw.random() < 0.15:  # another picture of that stem
            write_image(root / "val" / "images" / f"{stem}.bmp", draw)
            pictures = [p.read_bytes() for p in root.rglob("images/*") if p.stem == stem]
            is_bad |= len(set(pictures)) > 1
        target = drawn(draw)
        has_label, answer = draw.random() < 0.85, draw.choice([["here"], ["here"], []])
        if has_label:
            write_mask(root / place / "labels" / f"{stem}.png", target, draw)
        is_bad |= bool(answer) and not has_label
        questions = [draw.choice([*WORDS, "", " "]) for _ in range(draw.randrange(4))]
        data, is_read = encoded(
            json.dumps({"questions": questions, "answer": answer}, ensure_ascii=False), draw
        )
        path = root / place / "QAs" / f"{stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        asked = [question.strip() for question in questions if question.strip()]
        if is_bad or not is_read:
            truth.refused += 1
        elif not asked:
            truth.empty += 1
        elif not answer and has_label and rule == "refuse":
            truth.refused += len(asked)
        else:
            is_target = bool(answer) or (has_label and rule == "label")
            shown = target if is_target else np.zeros_like(target)
            truth.samples += [(question, shown) for question in asked]
    for kind in ("images", "labels", "QAs"):
        (root / "val" / kind).mkdir(parents=True, exist_ok=True)
    return "earthreason", "val", truth, {"root": root, "question": "all", "empty_answer": rule}


def phrases(root: Path, draw: random.Random) -> tuple[str, str, Truth, dict[str, Any]]:
    """A list of lines with marks, other ends, other spaces, missing phrases and missing files."""
    truth = Truth()
    lines = []
    for number in range(draw.randrange(1, 6)):
        target = drawn(draw)
        write_image(root / "images" / f"{number}.png", draw)
        has_label = draw.random() < 0.9
        if has_label:
            write_mask(root / "masks" / f"{number}.png", target, draw)
        phrase = draw.choice([*WORDS, ""])
        name = draw.choice([f"{number}", f"{number}.png"])
        lines.append(draw.choice(["", " "]) + name + draw.choice([" ", "\t", "  "]) + phrase)
        if phrase and has_label:
            truth.samples.append((phrase, target))
        else:
            truth.refused += 1
        lines += [""] * (draw.random() < 0.2)
    data, is_read = encoded(draw.choice(["\n", "\r\n"]).join(lines), draw)
    if not is_read:
        truth = Truth()
    root.mkdir(exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    (root / "masks").mkdir(exist_ok=True)
    (root / "output_phrase_test.txt").write_bytes(data)
    return "risbench", "test", truth, {"root": root}


def json_lines(root: Path, draw: random.Random) -> tuple[str, str, Truth, dict[str, Any]]:
    """JSON lines with paths; a line for each question or a list of them; masks as files, rows or polygons."""
    truth = Truth()
    lines = []
    for number in range(draw.randrange(1, 6)):
        target = drawn(draw)
        write_image(root / "data" / f"{number}.png", draw)
        form = draw.choice(["path", "rows", "none", "absent", "gone"])
        mask: Any = None
        if form == "path":
            mask = f"data/{number}_mask.png"
            write_mask(root / mask, target, draw)
        elif form == "rows":
            mask = target.tolist()
        elif form == "gone":
            mask = "data/gone.png"
        texts = [draw.choice([*WORDS, "", " "]) for _ in range(draw.randrange(1, 3))]
        line = {"image": f"data/{number}.png", "questions": texts, "mask": mask}
        if form == "absent" and number:  # the first line says which columns there are
            del line["mask"]
        lines.append(json.dumps(line, ensure_ascii=draw.random() < 0.5))
        asked = [text.strip() for text in texts if text.strip()]
        shown = target if form in ("path", "rows") else np.zeros_like(target)
        if not asked:
            truth.empty += 1
        elif form == "gone":
            truth.refused += len(asked)
        else:
            truth.samples += [(text, shown) for text in asked]
    mark = draw.choice(["", "\ufeff"])
    (root / "test.jsonl").write_text(mark + "\n\n".join(lines), encoding="utf-8")
    return "earthreason", "test", truth, {"root": root, "question": "all"}


@pytest.mark.parametrize("make", [earthreason, phrases, json_lines], ids=lambda make: make.__name__)
def test_generated_sets(make: Callable[..., Any], tmp_path: Path) -> None:
    read = refused = empty = 0
    for case in range(CASES):
        draw = random.Random(f"{make.__name__}/{case}")
        name, split, truth, options = make(tmp_path / f"{case}", draw)
        try:
            check(name, split, truth, **options)
        except AssertionError as error:
            raise AssertionError(f"case {case} of {make.__name__} in {tmp_path / str(case)}") from error
        read, refused, empty = read + len(truth.samples), refused + truth.refused, empty + truth.empty
    print(f"{make.__name__}: {CASES} sets, {read} read, {refused} refused, {empty} left out")  # shown by -s
    assert min(read, refused) > 0
