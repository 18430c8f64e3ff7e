"""Run-length encodings: as pycocotools writes and reads them, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from envs.masks import Mask, decode_rle, encode_rle

MASKS = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))
DIGITS = "".join(chr(48 + digit) for digit in range(64))


def read_slowly(text: str) -> list[int]:
    """The runs of a text, digit by digit, as COCO's own code reads them.

    Raises:
        IndexError: if the text ends in the middle of a number, or a number has more than seven digits.
    """
    runs: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        while True:
            if shift == 35:
                raise IndexError("an eighth digit")
            digit = ord(text[position]) - 48
            position += 1
            value |= (digit & 31) << shift
            shift += 5
            if digit < 32:
                break
        if digit & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


@given(MASKS)
def test_a_mask_survives(mask: Mask) -> None:
    encoded = encode_rle(mask)
    decoded = decode_rle(encoded, mask.shape)
    assert decoded.dtype == bool and np.array_equal(decoded, mask)
    assert encoded == encode_rle(decoded) == encode_rle(mask.astype(np.int64) * 7)


@given(MASKS)
def test_pycocotools_writes_and_reads_the_same(mask: Mask) -> None:
    encoded = encode_rle(mask)
    theirs = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert encoded == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    assert np.array_equal(coco.decode(encoded), mask)
    assert np.array_equal(decode_rle(theirs), mask)  # bytes


@pytest.mark.parametrize("layout", ["rows", "columns", "part", "turned"])
def test_the_layout_in_memory_does_not_matter(layout: str) -> None:
    mask = np.random.default_rng(3).random((23, 17)) < 0.4
    wide = np.zeros((46, 34), bool)
    wide[::2, ::2] = mask
    shown = {
        "rows": np.ascontiguousarray(mask),
        "columns": np.asfortranarray(mask),
        "part": wide[::2, ::2],
        "turned": mask[::-1, ::-1].copy()[::-1, ::-1],
    }[layout]
    assert encode_rle(shown) == encode_rle(mask)
    assert np.array_equal(decode_rle(encode_rle(shown)), mask)


def test_runs_of_many_digits_and_signs() -> None:
    mask = np.zeros((1500, 1300), bool)
    mask[:, 3:900] = True  # a run of more than a million pixels, then one that is shorter by as much
    mask[7, ::5] ^= True
    assert np.array_equal(decode_rle(encode_rle(mask)), mask)


@settings(max_examples=500)
@given(st.text(alphabet=DIGITS, max_size=12), st.integers(1, 9), st.integers(1, 9))
def test_any_text_is_read_as_digit_by_digit_or_refused(text: str, height: int, width: int) -> None:
    try:
        runs = read_slowly(text)
    except IndexError:
        runs = []
    sound = bool(runs) and min(runs) >= 0 and sum(runs) == height * width
    try:
        decoded = decode_rle({"size": [height, width], "counts": text})
    except ValueError:
        assert not sound
    else:
        expected = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((height, width), order="F")
        assert sound and np.array_equal(decoded, expected)


@settings(max_examples=300)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_sound_texts_of_any_runs_are_read(runs: list[int]) -> None:
    if sum(runs) == 0:
        runs = [*runs, 1]
    theirs = coco.frPyObjects({"size": [1, sum(runs)], "counts": runs}, 1, sum(runs))
    expected = np.repeat(np.arange(len(runs)) % 2 == 1, runs)[None]
    for counts in (theirs["counts"], theirs["counts"].decode(), runs):
        assert np.array_equal(decode_rle({"size": [1, sum(runs)], "counts": counts}), expected)


@pytest.mark.parametrize(
    "counts, message",
    [
        ("", "add up to 0"),
        ("3", "add up to 3"),  # pycocotools hands out a mask that nobody wrote
        ("5", "add up to 5"),
        ("O5", "negative"),
        ("o", "middle of a number"),
        ("4o", "middle of a number"),
        ("4\0", "not theirs"),
        ("4 ", "not theirs"),
        ("é", "not theirs: 'é'"),
        ("\ud800", "not theirs"),
        ("o" * 7 + "0", "beyond any image"),
        ("o" * 200 + "0", "beyond any image"),
        ([-1, 5], "negative"),
        ([3, 2], "add up to 5"),
    ],
)
def test_what_is_no_run_length_encoding_of_its_size(counts: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_rle({"size": [2, 2], "counts": counts})


@pytest.mark.parametrize("counts", [None, 7, [1.5, 2.5], [[1, 3]], ["1", "3"], {"a": 1}])
def test_run_lengths_that_are_none_are_refused(counts: object) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        decode_rle({"size": [2, 2], "counts": counts})
    assert decode_rle({"size": [2, 2], "counts": np.array([1.0, 3.0])}).sum() == 3
