"""Pickles of foreign origin, read without the power to run anything.

The REFER family of datasets is published as pickles. A pickle can name any function and have it
called; here every such name is refused, so that only dicts, lists, tuples, sets, text, bytes and
numbers can come out. A NumPy number is written as a call of NumPy's own functions; those names are
answered by two functions of this module, which turn the stored bytes into a Python number and can
do nothing else.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from envs.datasets.reading.records import blaming
from envs.datasets.reading.text import decode_text

# NumPy's code of a plain number -> that of `struct`; "b1" is a bool.
_NUMBERS = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_NUMBERS |= {"f2": "e", "f4": "f", "f8": "d"}


class _NumberType:
    """Stands in for `numpy.dtype`: a plain number's code and byte order, and nothing else."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in _NUMBERS:
            raise pickle.UnpicklingError(
                f"it holds a NumPy value of type {code!r}, but only numbers are read"
            )
        self.code: str = code
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        """Take the byte order from NumPy's state (version, order, …); "|" and "=" mean little-endian."""
        self.order = ">" if state[1] == ">" else "<"


def _number(kind: Any, data: Any) -> int | float | bool:
    """Stands in for `numpy.core.multiarray.scalar`: the Python number that the bytes say."""
    if not isinstance(kind, _NumberType):
        raise pickle.UnpicklingError("it holds a NumPy value that is no number")
    if isinstance(data, str):  # Python 2 wrote bytes as text
        data = data.encode("utf-8", "surrogateescape")
    number: int | float | bool = struct.unpack(kind.order + _NUMBERS[kind.code], data)[0]
    return number


def _latin1_bytes(text: Any, encoding: Any) -> bytes:
    """Stands in for `_codecs.encode`, by which protocols 0 to 2 write bytes: Latin-1 text back to bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it names _codecs.encode for something else than bytes")
    return text.encode("latin1")


class _Function:
    """A function that a pickle may call, and whose state it cannot set: that would outlive the pickle."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it sets the state of a function")


# What may be named. Building these from plain data runs nothing else.
_ANSWERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("numpy", "dtype"): _NumberType,
    ("numpy.core.multiarray", "scalar"): _Function(_number),
    ("numpy._core.multiarray", "scalar"): _Function(_number),  # NumPy 2
    ("_codecs", "encode"): _Function(_latin1_bytes),
}


# The unpickler written in Python, because the one in C allocates memory as the file dictates: one
# wrong byte in a memo index would ask for many gigabytes.
class _PlainUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Python 2 wrote "__builtin__".
        key = (module.replace("__builtin__", "builtins"), name)
        if key not in _ANSWERS:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, but only plain containers, text and numbers are read"
            )
        return _ANSWERS[key]


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle that holds nothing but plain containers, text, bytes and numbers.

    NumPy numbers come out as Python's. Python 2 text is read as UTF-8; bytes that are not UTF-8 are kept
    as lone surrogates, for `pickled_text`.

    Raises:
        UserError: naming the file, if it holds anything else (nothing is run) or is no whole pickle.
    """
    with blaming(f"pickle {path}"):
        data = io.BytesIO(path.read_bytes())
        try:
            return _PlainUnpickler(data, encoding="utf-8", errors="surrogateescape").load()
        except pickle.UnpicklingError as error:
            raise ValueError(str(error)) from None
        except AssertionError:
            raise ValueError("it is not a pickle") from None


def pickled_text(text: str, encoding: str | None) -> str:
    """Text out of a pickle, decoded anew where it was written as bytes that are not UTF-8.

    Args:
        text: as `load_plain_pickle` gives it; from Python 3, and in UTF-8, it is returned as it is.
        encoding: a name Python knows, such as "gbk", or None.

    Raises:
        ValueError: if the bytes are not of that encoding, or it is None and they are not UTF-8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return decode_text(text.encode("utf-8", "surrogateescape"), encoding)
    return text
