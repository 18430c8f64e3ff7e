"""LISA's files as people keep them: other scripts, sizes of other images, values of other types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from envs.datasets import open_dataset
from envs.datasets.check import check_split
from envs.datasets.reading.layouts.lisa_style import read_lisa_annotation
from prompter.errors import UserError

WIDTH, HEIGHT = 40, 30
SQUARE = [[4, 6], [18, 6], [18, 20], [4, 20]]


def shape(points: Any = SQUARE, label: str = "target", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": "polygon", **more}


def written(root: Path, stem: str = "1", **changes: Any) -> dict[str, Any]:
    """Write an image and its annotation into `root/val`; the options that open them."""
    folder = root / "val"
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(folder / f"{stem}.jpg")
    data = {"text": ["where?"], "is_sentence": True, "shapes": [shape()], **changes}
    (folder / f"{stem}.json").write_text(json.dumps(data))
    return {"root": root}


SCRIPTS = {
    "gbk": (0x4E00, 0x9FA5),
    "big5": (0x4E00, 0x9FA5),
    "euc_kr": (0xAC00, 0xD7A3),
    "shift_jis": (0x3042, 0x3093),  # hiragana
    "cp1251": (0x0410, 0x044F),
    "koi8_r": (0x0410, 0x044F),
    "iso8859_7": (0x03B1, 0x03C9),
}


def can(name: str, sign: str) -> bool:
    try:
        return len(sign.encode(name)) > 0
    except UnicodeEncodeError:
        return False


def is_utf_8(raw: bytes) -> bool:
    try:
        return len(raw.decode()) > 0
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("name", SCRIPTS)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_another_script_is_never_read_as_latin(tmp_path: Path, name: str, data: st.DataObject) -> None:
    low, high = SCRIPTS[name]
    signs = [chr(code) for code in range(low, high + 1, 7) if can(name, chr(code))]
    text = "".join(data.draw(st.lists(st.sampled_from(signs), min_size=6, max_size=20)))
    path = tmp_path / "1.json"
    raw = json.dumps({"text": [text], "shapes": []}, ensure_ascii=False).encode(name)
    assume(not is_utf_8(raw))  # a few pairs of GBK are UTF-8 as well, which nothing can tell
    path.write_bytes(raw)
    try:
        texts = read_lisa_annotation(path).texts
    except UserError as error:
        assert "encoding" in str(error)
    else:  # nothing of it may be read otherwise than it was written
        assert texts == (text,)
    assert read_lisa_annotation(path, name).texts == (text,)


@given(
    st.lists(
        st.sampled_from([*"abc ,.'", "\u2019", "\u201c", "\u2026", "\u2014", "\xe9", "\xfc"]), max_size=12
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_english_in_cp1252_is_read_as_lisa_reads_it(tmp_path: Path, signs: list[str]) -> None:
    text = "".join(sign + ("n " if sign in "\xe9\xfc" else "") for sign in ["w", *signs])
    path = tmp_path / "1.json"
    path.write_bytes(json.dumps({"text": [text], "shapes": []}, ensure_ascii=False).encode("cp1252"))
    assert read_lisa_annotation(path).texts == (text,)


@pytest.mark.parametrize(
    ("value", "length"),
    [(True, "long"), (False, "short"), ("False", "short"), ("true", "long"), (0, "short"), (1, "long")],
)
def test_what_is_a_sentence_may_be_said_in_text(tmp_path: Path, value: Any, length: str) -> None:
    [sample] = open_dataset("reasonseg", "val", **written(tmp_path, is_sentence=value))
    assert sample.tags == {"length": length}


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"1\.json: the key 'is_sentence' must be true or false, but is 'no idea'"
    ):
        open_dataset("reasonseg", "val", **written(tmp_path, is_sentence="no idea"))


@pytest.mark.parametrize("factor", [2, 3])
def test_shapes_drawn_on_another_size_are_told_or_scaled(tmp_path: Path, factor: int) -> None:
    larger = [[x * factor, y * factor] for x, y in SQUARE]
    options = written(
        tmp_path, shapes=[shape(larger)], imageWidth=WIDTH * factor, imageHeight=HEIGHT * factor
    )
    problems = check_split("reasonseg", "val", options).problems
    assert f"drawn on an image of {WIDTH * factor} x {HEIGHT * factor}" in problems["mask_size"][0]
    report = check_split("reasonseg", "val", {**options, "mask_size": "resize"})
    assert not report.problems["mask_size"] and len(report.notes["resized"]) == 1
    [sample] = open_dataset("reasonseg", "val", **options, mask_size="resize")
    mask = sample.target_mask()
    rows, columns = np.nonzero(mask)
    assert (columns.min(), rows.min()) == (4, 6)
    assert (columns.max(), rows.max()) == (18, 20)


def test_shapes_that_are_no_list_are_one_sentence(tmp_path: Path) -> None:
    for shapes in (None, {"a": 1}, ["x"]):
        with pytest.raises(UserError, match="the key 'shapes' must be a list of objects"):
            open_dataset("reasonseg", "val", **written(tmp_path, shapes=shapes))
    with pytest.raises(UserError, match=r"shape 0 is of type \{'a': 1\}; only polygon"):
        open_dataset("reasonseg", "val", **written(tmp_path, shapes=[shape(shape_type={"a": 1})]))


def test_what_macos_puts_beside_a_file_is_no_file_of_the_set(tmp_path: Path) -> None:
    options = written(tmp_path)
    for suffix in (".jpg", ".json"):
        (tmp_path / "val" / f"._1{suffix}").write_bytes(b"\0\5\x16\7")
    assert [sample.sample_id for sample in open_dataset("reasonseg", "val", **options)] == ["1/0"]
