"""Large JSON files read by element give what `json.load` gives, and say where they are broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.datasets.reading.json_index import index_arrays, index_records
from prompter.errors import UserError

TEXT = st.text(alphabet='ab"\\{}[]:,é\n ', max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(TEXT, VALUES, max_size=3), max_size=4)


def written(folder: Path, data: Any, indent: int | None = None, ascii_only: bool = True) -> Path:
    path = folder / "data.json"
    path.write_text(json.dumps(data, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    return path


@settings(max_examples=60)
@given(RECORDS, st.sampled_from([None, 1]), st.booleans())
def test_a_list_of_records(
    tmp_path_factory: pytest.TempPathFactory, data: Any, indent: Any, ascii_only: bool
) -> None:
    path = written(tmp_path_factory.getbasetemp(), data, indent, ascii_only)
    records = index_records(path)
    assert list(records) == data
    assert [records[i] for i in range(len(records))] == data


@settings(max_examples=60)
@given(RECORDS, RECORDS, VALUES, st.sampled_from([None, 1]))
def test_arrays_under_keys(
    tmp_path_factory: pytest.TempPathFactory, images: Any, annotations: Any, other: Any, indent: Any
) -> None:
    data = {"info": other, "images": images, "other": [other, {"images": [1]}], "annotations": annotations}
    arrays = index_arrays(written(tmp_path_factory.getbasetemp(), data, indent), ["images", "annotations"])
    assert list(arrays["images"]) == images
    assert list(arrays["annotations"]) == annotations


@settings(max_examples=60)
@given(RECORDS.filter(bool), st.data())
def test_a_file_cut_off_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: Any, draw: st.DataObject
) -> None:
    path = written(tmp_path_factory.getbasetemp(), data)
    whole = path.read_bytes()
    path.write_bytes(whole[: draw.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(UserError, match=r"data\.json"):
        list(index_records(path))


BROKEN = {
    "a missing file": (None, r"there is no file"),
    "an object": ("{}", r"the top level must be a JSON array"),
    "a number": ("5", r"the top level must be a JSON array of objects"),
    "numbers": ("[1, 2]", r"the top level must be a JSON array of objects"),
    "wrong brackets": ('[{"a": [1}]]', r"brackets do not match at byte 9"),
    "one bracket too many": ('[{"a": 1}]]', r"brackets do not match at byte 10"),
    "no JSON inside": ('[{"a": 1}, {"b" 2}]', r"record 1: "),
    "a list inside": ('[{"a": 1}, [2]]', r"record 1: it must be a JSON object"),
    "bad UTF-8": (b'[{"a": "\xff"}]', r"record 0: "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named(tmp_path: Path, case: str) -> None:
    content, message = BROKEN[case]
    path = tmp_path / "data.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        list(index_records(path))


def test_a_missing_key_and_a_key_without_a_list(tmp_path: Path) -> None:
    path = written(tmp_path, {"images": [], "annotations": None, "categories": [{}]})
    with pytest.raises(UserError, match="the key 'annotations' is missing"):
        index_arrays(path, ["images", "annotations"])
    path = written(tmp_path, {"images": {}})
    with pytest.raises(UserError, match="the key 'images' must hold a list"):
        index_arrays(path, ["images"])
