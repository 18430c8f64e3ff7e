"""Damaged annotation files: each gives an error that names the file, or counted skips; nothing else."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from envs.datasets import open_dataset
from envs.datasets.check import check_split
from prompter.errors import UserError
from tests.fixtures.layouts import FETCHED, FIXTURES, Fixture

TABLES = (".parquet", ".arrow")


def mutations(key: str) -> int:
    """How often a fixture is damaged; tables are slow to load."""
    return 4 if FIXTURES[key].annotations.endswith(TABLES) else 10


def truncate(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def flip_bytes(data: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(draw.randrange(1, 6)):
        damaged[draw.randrange(len(damaged))] = draw.randrange(256)
    return bytes(damaged)


def drop_slice(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randrange(1, 40) :]


def repeat_slice(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start : start + draw.randrange(1, 40)] * 2 + data[start:]


def replace_digits(data: bytes, draw: random.Random) -> bytes:
    """Swap ids, sizes and coordinates: the file stays readable and says something else."""
    places = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    damaged = bytearray(data)
    for place in draw.sample(places, min(len(places), 6)):
        damaged[place] = 48 + draw.randrange(10)
    return bytes(damaged)


def transpose_rle(data: bytes, draw: random.Random) -> bytes:
    """Swap height and width of a mask, as a tool with the other order would; else damage bytes."""
    places = list(re.finditer(rb'"size": ?\[(\d+), ?(\d+)\]', data))
    if not places:
        return flip_bytes(data, draw)
    place = draw.choice(places)
    return b'%s"size": [%s, %s]%s' % (data[: place.start()], place[2], place[1], data[place.end() :])


def replace_values(data: bytes, draw: random.Random) -> bytes:
    """Put a value of another type or size somewhere into JSON or a pickle; else damage bytes."""
    for load, dump in ((json.loads, lambda v: json.dumps(v).encode()), (pickle.loads, pickle.dumps)):
        try:
            value = load(data)
        except (ValueError, pickle.UnpicklingError, EOFError, IndexError, KeyError):
            continue
        places = list(_places(value))
        container, key = draw.choice(places)
        junk = [None, -1, 10**20, "", "x", [], {}, [[1, 2]], {"size": [1, 1], "counts": "0"}, 1e300, True]
        container[key] = draw.choice(junk)
        return dump(value)
    return flip_bytes(data, draw)


def _places(value: Any) -> Any:
    """Every (container, key) below a JSON-like value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    truncate,
    flip_bytes,
    drop_slice,
    repeat_slice,
    replace_digits,
    replace_values,
    transpose_rle,
    replace_values,
]

TALLY: Counter[str] = Counter()
"""What became of the mutations so far: an error, counted skips, or read without complaint."""


@pytest.fixture(autouse=True)
def _hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_DISABLE_PROGRESS_BARS", True, raising=False)


def outcome(fixture: Fixture, options: dict[str, Any], files: Sequence[Path]) -> str:
    """Read everything strictly, then leniently; the two must agree on whether something is wrong.

    An error is one sentence that names an annotation file (where two contradict each other, either),
    or the row of a table.
    """
    try:
        for sample in open_dataset(fixture.name, fixture.split, **options):
            sample.image_array()
            if sample.target is not None:
                sample.target_mask()
        strict = "fine"
    except UserError as error:
        message = str(error)
        assert message.strip() and "\n" not in message and len(message) < 1000, message
        is_row = fixture.annotations.endswith(TABLES) and ", row " in message
        assert is_row or any(path.stem in message for path in files), message
        strict = "error"
    if fixture.name in FETCHED:
        return strict  # has no skip_bad: its files are ours to fetch, not the user's
    try:
        source = open_dataset(fixture.name, fixture.split, **options, skip_bad=True)
        lenient = "skipped" if source.skipped else "fine"
        for sample in source:
            sample.image_array()
    except UserError:
        lenient = "error"
    assert (strict == "fine") == (lenient == "fine")
    return "fine" if strict == "fine" else lenient


@pytest.mark.parametrize("key", FIXTURES)
def test_mutated_annotations(key: str, tmp_path: Path, record_property: Any) -> None:
    fixture = FIXTURES[key]
    options = fixture.build(tmp_path / "set")
    files = sorted(path for path in (tmp_path / "set").glob(fixture.annotations) if path.is_file())
    assert files
    draw = random.Random(key)
    results: Counter[str] = Counter()
    for number in range(mutations(key)):
        path = draw.choice(files)
        original = path.read_bytes()
        path.write_bytes(MUTATIONS[number % len(MUTATIONS)](original, draw))
        results[outcome(fixture, options, files)] += 1
        path.write_bytes(original)
    record_property("results", dict(results))
    TALLY.update(results)
    assert outcome(fixture, options, files) == "fine"
    assert results["error"] + results["skipped"] >= 2  # the damage was real


def test_there_are_at_least_200_mutations() -> None:
    assert sum(mutations(key) for key in FIXTURES) >= 200
    print(f"{TALLY.total()} damaged annotation files: {dict(TALLY)}")  # shown by -s


class Touches:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("key", ["rrsis-d", "nwpu-refer", "refcoco", "refcoco+", "refcocog"])
def test_a_malicious_pickle_runs_nothing(key: str, tmp_path: Path) -> None:
    fixture = FIXTURES[key]
    options = fixture.build(tmp_path / "set")
    files = [path for path in (tmp_path / "set").rglob("*.p") if path.is_file()]
    assert files
    for path in files:
        records = pickle.loads(path.read_bytes())
        records[-1]["sentences"] = Touches(tmp_path / "was-here")
        path.write_bytes(pickle.dumps(records))
    for skip_bad in (False, True):  # a file that runs code is never skipped in part
        with pytest.raises(UserError, match=rf"{re.escape(files[0].name)}.* names \w+\.system") as caught:
            open_dataset(fixture.name, fixture.split, **options, skip_bad=skip_bad)[0]
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize(
    "key", ["earthreason", "rrsis-d", "risbench", "lasers", "reasonseg", "muse", "manifest"]
)
def test_missing_images_are_named_or_skipped(key: str, tmp_path: Path) -> None:
    fixture = FIXTURES[key]
    options = fixture.build(tmp_path)
    folder_names = {"labels", "masks", "mask"}
    images = [p for p in sorted(tmp_path.rglob("*")) if p.suffix in (".jpg", ".jpeg", ".png")]
    gone = next(
        p for p in images if p.parent.name not in folder_names and fixture.split in (*p.parts, fixture.split)
    )
    source = open_dataset(fixture.name, fixture.split, **options)
    gone = Path(source[0].load_image.path)
    gone.write_bytes(gone.read_bytes()[:200])  # cut off
    assert _strict_error(fixture, options, gone)
    skipping = open_dataset(fixture.name, fixture.split, **options, skip_bad=True)
    assert skipping.skipped
    gone.unlink()
    assert _strict_error(fixture, options, gone)
    assert open_dataset(fixture.name, fixture.split, **options, skip_bad=True).skipped


def _strict_error(fixture: Fixture, options: dict[str, Any], image: Path) -> bool:
    with pytest.raises(UserError) as caught:
        for sample in open_dataset(fixture.name, fixture.split, **options):
            sample.load_image()
    return image.stem in str(caught.value)


def test_swapped_masks_of_another_size_are_named(tmp_path: Path) -> None:
    fixture = FIXTURES["risbench"]
    options = fixture.build(tmp_path)
    Image.new("L", (5, 7)).save(tmp_path / "mask" / "test_0_0.png")
    report = check_split(fixture.name, fixture.split, options)
    assert len(report.problems["mask_size"]) == 2
    assert (
        "test_0_0.png: it is 5 x 7 (width x height), but its image is 96 x 64"
        in report.problems["mask_size"][0]
    )
