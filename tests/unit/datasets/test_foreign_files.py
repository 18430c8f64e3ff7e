"""Generated files of every kind: read right, as an oracle apart from the package says, or refused by name.

`PROMPTER_FOREIGN_FILES` sets how many are made (and -s shows the table); without it, a few of each kind.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.datasets import open_dataset
from envs.datasets.check import CheckReport, check_split
from envs.datasets.reading.faults import kind_of
from envs.datasets.reading.pixels.pictures import read_rgb
from envs.datasets.reading.rules import ReadingRules, applied
from prompter.errors import UserError
from tests.fixtures.foreign_images import IMAGE_KINDS, ForeignImage
from tests.fixtures.foreign_masks import MASK_KINDS, ForeignMask, write_mask

KINDS = len(IMAGE_KINDS) + len(MASK_KINDS)
EACH = -(-int(os.environ.get("PROMPTER_FOREIGN_FILES", "144")) // KINDS)
FIRST = int(os.environ.get("PROMPTER_FOREIGN_SEED", "0"))


def seeded(kind: str, number: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(kind.encode()), FIRST + number])


def told(report: CheckReport) -> set[str]:
    return {kind for kind, found in {**report.problems, **report.notes}.items() if found}


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_images(kind: str, tmp_path: Path) -> None:
    results: Counter[str] = Counter()
    for number in range(EACH):
        case = IMAGE_KINDS[kind](seeded(kind, number))
        folder = tmp_path / str(number)
        folder.mkdir()
        results[_judge_image(case, folder, f"{kind} {number}")] += 1
    _print(kind, results)
    assert sum(results.values()) == EACH


def _judge_image(case: ForeignImage, folder: Path, name: str) -> str:
    path = folder / f"image{case.suffix}"
    path.write_bytes(case.data)
    line = {"image": path.name, "query": "x", "boxes": [[0, 0, 1, 1.5]]}
    (folder / "data.jsonl").write_text(json.dumps(line) + "\n")
    options = {"path": folder / "data.jsonl", **case.options}
    try:
        sample = open_dataset("manifest", "all", **options)[0]
        pixels = sample.image_array()
    except UserError as error:
        allowed = {case.fault, "unreadable"} if case.may_fail else {case.fault}
        assert kind_of(error) in allowed, (name, error)
        assert path.name in str(error) and "\n" not in str(error), (name, error)
        with pytest.raises(UserError, match="holds no usable record"):
            open_dataset("manifest", "all", **options, skip_bad=True)
        return f"refused as {kind_of(error)}"
    assert case.pixels is not None, name
    _same(pixels, case.pixels, case.tolerance, name)
    assert sample.image_wh == (pixels.shape[1], pixels.shape[0]), name
    with applied(ReadingRules(**case.options)):  # as a table on the hub holds it
        _same(np.asarray(read_rgb(case.data)), case.pixels, case.tolerance, name)
    if case.notes:
        assert set(case.notes) <= told(check_split("manifest", "all", options)), name
    return "right"


def _same(found: np.ndarray, right: np.ndarray, tolerance: int, name: str) -> None:
    assert found.shape == right.shape, (name, found.shape, right.shape)
    difference = np.abs(found.astype(int) - right.astype(int)).max(initial=0)
    assert difference <= tolerance, (name, difference)


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_masks(kind: str, tmp_path: Path) -> None:
    results: Counter[str] = Counter()
    for number in range(EACH):
        case = MASK_KINDS[kind](seeded(kind, number))
        folder = tmp_path / str(number)
        folder.mkdir()
        results[_judge_mask(case, folder, f"{kind} {number}")] += 1
    _print(kind, results)
    assert sum(results.values()) == EACH


def _judge_mask(case: ForeignMask, folder: Path, name: str) -> str:
    dataset, split, options = write_mask(case, folder)
    try:
        sample = open_dataset(dataset, split, **options)[0]
        target = None if sample.target is None else sample.target_mask()
    except UserError as error:
        assert kind_of(error) == case.fault, (name, error)
        assert "\n" not in str(error), (name, error)
        assert str(folder) in str(error), (name, error)
        with pytest.raises(UserError, match="holds no usable record"):
            open_dataset(dataset, split, **options, skip_bad=True)
        return f"refused as {case.fault}"
    assert case.fault is None, (name, "should be refused", case.fault)
    if case.target is not None:
        assert target is not None and np.array_equal(target, case.target), name
    if case.ignore is not None:
        from envs.masks import decode_rle

        assert sample.ignore is not None and np.array_equal(decode_rle(sample.ignore), case.ignore), name
    assert np.allclose(np.asarray(sample.boxes), np.asarray(case.boxes)), name
    if case.notes:
        assert set(case.notes) <= told(check_split(dataset, split, options)), name
    return "right"


def _print(kind: str, results: Counter[str]) -> None:
    print(f"\n{kind}: {results.total()} files: " + ", ".join(f"{n} {what}" for what, n in results.items()))


def test_skip_bad_and_data_check_count_each_kind(tmp_path: Path) -> None:
    """One good record, and one of each kind that is refused."""
    lines: list[dict[str, Any]] = [{"image": "a.png", "query": "good", "mask": [[2, 2, 9, 2, 9, 9, 2, 9]]}]
    wanted: Counter[str] = Counter()
    kinds = {**IMAGE_KINDS, **MASK_KINDS}
    for kind in kinds:
        for number in range(40):
            case = kinds[kind](seeded(kind, number))
            if case.fault is None or case.options or getattr(case, "is_lisa", False):
                continue
            if getattr(case, "may_fail", False) or wanted[case.fault]:
                continue
            stem = f"{case.fault}-{number}"
            if isinstance(case, ForeignImage):
                (tmp_path / f"{stem}{case.suffix}").write_bytes(case.data)
                lines.append({"image": f"{stem}{case.suffix}", "query": stem, "mask": None})
            else:
                (tmp_path / stem).mkdir()
                write_mask(case, tmp_path / stem)
                keys = {
                    key: f"{stem}/{value}" if isinstance(value, str) else value
                    for key, value in case.keys.items()
                }
                lines.append({"image": f"{stem}/a.png", "query": stem, **keys})
            wanted[case.fault] += 1
    from PIL import Image

    Image.new("RGB", (20, 20), "grey").save(tmp_path / "a.png")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert {"depth", "huge", "nothing_drawn", "mask_values", "units", "mask_size"} <= set(wanted)
    source = open_dataset("manifest", "all", path=tmp_path / "data.jsonl", skip_bad=True)
    assert len(source) == 1
    assert Counter(kind for kind, _ in source.faults) == wanted
    report = check_split("manifest", "all", {"path": tmp_path / "data.jsonl"})
    found = {kind: len(sentences) for kind, sentences in report.problems.items() if sentences}
    found.pop("part", None)  # what is told of the parts of an object that is refused
    assert found == wanted
    assert not report.is_clean
