"""Question-answer pairs without masks, read from JSON."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from prompter.errors import UserError
from recipes.seg_token.drawn_pairs import write_pairs
from recipes.seg_token.pairs import Pairs, PairStream

SAID = [
    {"from": "human", "value": "<image>\nhow many ships?"},
    {"from": "gpt", "value": "two"},
    {"from": "human", "value": "where?"},
    {"from": "gpt", "value": "in the harbour"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 6), (name == "a" and "red") or "blue").save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def write(folder: Path, records: list[dict[str, Any]], name: str = "pairs.json") -> Path:
    path = folder / name
    lines = name.endswith(".jsonl")
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records), encoding="utf-8")
    return path


RECORDS: list[dict[str, Any]] = [
    {"image": "images/a.png", "question": "what is it?", "answer": "a [SEG] sign"},
    {"image": "images/b.png", "conversations": SAID, "id": 7},
]


@pytest.mark.parametrize("name", ["pairs.json", "pairs.jsonl"])
def test_both_kinds_of_records_are_pairs(folder: Path, name: str) -> None:
    pairs = Pairs(write(folder, RECORDS, name))
    assert [(one.image_id, one.question, one.answer) for one in (pairs[i] for i in range(len(pairs)))] == [
        ("images/a.png", "what is it?", "a [SEG] sign"),
        ("images/b.png", "<image>\nhow many ships?", "two"),
        ("images/b.png", "where?", "in the harbour"),
    ]
    assert pairs[2].load_image().size == (8, 6)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    assert len(Pairs(write(elsewhere, RECORDS, name), folder)) == 3


def test_no_text_of_a_file_becomes_a_mark(folder: Path) -> None:
    policy: Any = SimpleNamespace(special_tokens=("[SEG]", "[REJ]"), model_image=lambda image: image)
    stream = PairStream(Pairs(write(folder, RECORDS)), policy, seed=0, together=1)
    examples = list(islice(iter(stream), 6))
    assert sorted({one.answer for one in examples}) == ["a [ SEG] sign", "in the harbour", "two"]
    assert all(one.masks == () for one in examples)
    later = PairStream(stream.pairs, policy, seed=0, together=1, skip=4)
    assert next(iter(later)).answer == examples[4].answer


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image": "images/a.png", "question": "what?"}, r"record 1: the key 'answer' is missing"),
        ({"image": "images/a.png", "question": " ", "answer": "x"}, r"record 1: 'question' should be a text"),
        (
            {"image": "images/c.png", "question": "what?", "answer": "x"},
            r"record 1: there is no file .*c\.png",
        ),
        ({"image": "images/a.png", "conversations": SAID[:3]}, r"record 1: .*each followed by its answer"),
        ({"image": "images/a.png", "conversations": SAID[1:3]}, r"record 1: turn 0 .* from human or user"),
    ],
)
def test_a_record_that_is_no_pair_is_named(folder: Path, record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pairs(write(folder, [RECORDS[0], record]))


def test_drawn_pairs_are_pairs(tmp_path: Path) -> None:
    pairs = Pairs(write_pairs(tmp_path / "drawn", scenes=2, queries=3))
    assert len(pairs) == 6
    assert len({pairs[i].image_id for i in range(6)}) == 2
    assert all(
        pairs[i].answer.split(":")[0].split()[0] in ("no", "one", "two", "three", "four") for i in range(6)
    )
