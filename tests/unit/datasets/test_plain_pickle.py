"""Pickles of foreign origin give plain data or an error, and run nothing."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.datasets.reading.plain_pickle import load_plain_pickle
from prompter.errors import UserError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@given(PLAIN, st.integers(3, 5))
def test_plain_data_comes_back(tmp_path_factory: pytest.TempPathFactory, data: Any, protocol: int) -> None:
    path = tmp_path_factory.getbasetemp() / "data.p"
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    assert load_plain_pickle(path) == data


@pytest.mark.parametrize("protocol", range(6))
def test_references_and_sets_come_back_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    data = [{"ref_id": 1, "sentences": [{"raw": "Grün", "tokens": ("a",)}], "ids": {1, 2}, "x": 1.5}]
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    assert load_plain_pickle(path) == data


def test_text_of_python_2_is_read_as_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(b"U\x03\xe2\x82\xac.")  # protocol 1's short byte string, which Python 2 called str
    assert load_plain_pickle(path) == "€"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("depth", [0, 1])
def test_a_pickle_that_calls_a_function_runs_nothing(tmp_path: Path, protocol: int, depth: int) -> None:
    marker = tmp_path / "was-here"
    path = tmp_path / "refs(unc).p"
    attacks = [
        Calls(os.system, f"touch {marker}"),
        Calls(eval, f"open({str(marker)!r}, 'w')"),
        Calls(exec, f"open({str(marker)!r}, 'w')"),
        Calls(subprocess.call, ["touch", str(marker)]),
        Calls(open, str(marker), "w"),
        Calls(getattr, "text", "upper"),
        Calls(collections.OrderedDict, [("a", 1)]),
        Calls(np.zeros, 3),
        Calls(Path, str(marker)),
    ]
    for attack in attacks:
        data = [{"ref_id": 1, "split": [attack]}] if depth else attack
        path.write_bytes(pickle.dumps(data, protocol=protocol))
        with pytest.raises(UserError, match=r"refs\(unc\)\.p: it names .* but only plain containers"):
            load_plain_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_numbers_come_back_as_python_s(tmp_path: Path, protocol: int) -> None:
    numbers = [np.int64(-5), np.int32(7), np.uint8(200), np.uint64(2**63), np.bool_(True)]
    numbers += [np.float32(1.5), np.float64(-1e300), np.dtype(">i4").type(3), np.int64(2**62)]
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([{"ann_id": number} for number in numbers], protocol=protocol))
    found = [record["ann_id"] for record in load_plain_pickle(path)]
    assert found == numbers
    assert all(type(number) in (int, float, bool) for number in found)


@given(
    st.sampled_from(["b1", *"i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()]), st.binary(min_size=8, max_size=8)
)
def test_any_numpy_number_comes_back(tmp_path_factory: pytest.TempPathFactory, code: str, raw: bytes) -> None:
    number = np.frombuffer(raw, np.dtype("<" + code))[0] if code != "b1" else np.bool_(raw[0] & 1)
    path = tmp_path_factory.getbasetemp() / "number.p"
    path.write_bytes(pickle.dumps(number))
    assert np.array_equal(load_plain_pickle(path), number.item(), equal_nan=code.startswith("f"))


def test_numpy_numbers_of_python_2_come_back(tmp_path: Path) -> None:
    """Python 2 wrote the bytes of a number as text; here 0xff…fb, which is no UTF-8."""
    data = (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"S'\\xfb\\xff\\xff\\xff\\xff\\xff\\xff\\xff'\ntR."
    )
    path = tmp_path / "refs.p"
    path.write_bytes(data)
    assert load_plain_pickle(path) == -5


@pytest.mark.parametrize(
    "value",
    [np.zeros(3), np.str_("x"), np.datetime64("2020-01-01"), np.complex64(1), np.array(None, dtype=object)],
)
def test_other_numpy_values_are_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([value]))
    with pytest.raises(UserError, match=r"refs\.p: it (names numpy|holds a NumPy value)"):
        load_plain_pickle(path)


RAW = {
    "a class by INST": b"(S'touch x'\nios\nsystem\n.",
    "a class by OBJ": b"(cos\nsystem\nS'touch x'\no.",
    "an attribute path": b"\x80\x04\x8c\x08builtins\x8c\x0cset.__init__\x93.",
    "a persistent id": b"Pos.system\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "state on a set": b"cbuiltins\nset\n(lR}S'x'\nI1\nsb.",
    "state on a function of ours": b"cnumpy.core.multiarray\nscalar\n(dS'__doc__'\nS'x'\nsb.",
    "slots on a function of ours": b"cnumpy.core.multiarray\nscalar\n(N(dS'__defaults__'\n(I1\ntstb.",
    "a number of too few bytes": pickle.dumps(np.int64(5))[:-20].replace(b"C\x08", b"C\x02")
    + b"\x00\x00\x86R.",
    "a number of no type": b"cnumpy.core.multiarray\nscalar\n(I1\nS'x'\ntR.",
    "encode to something else": b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
    "nothing": b"",
    "text": b"not a pickle at all",
    "cut off": pickle.dumps(["a" * 50, 1, 2])[:30],
    "a memo of gigabytes": b"]r\xff\xff\xff\xff.\x00",
    "a text of gigabytes": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x0fabc.",
    "bytes of gigabytes": b"\x80\x05\x96\x00\x00\x00\x00\x40\x00\x00\x00abc.",
    "another protocol": b"\x80\xff.",
    "a bad memo": b"h\x05.",
    "an empty stack": b"0.",
}


@pytest.mark.parametrize("case", [case for case in RAW if case != "a memo of gigabytes"])
def test_hand_made_pickles_are_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "hand.p"
    path.write_bytes(RAW[case])
    with pytest.raises(UserError, match=r"hand\.p"):
        load_plain_pickle(path)


def test_a_memo_of_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "hand.p"
    path.write_bytes(RAW["a memo of gigabytes"])
    assert load_plain_pickle(path) == []


@given(st.binary(max_size=60))
def test_random_bytes_never_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.p"
    path.write_bytes(b"\x80\x02" + data)
    try:
        load_plain_pickle(path)
    except UserError as error:
        assert "noise.p" in str(error)
