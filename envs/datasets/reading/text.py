"""Text of foreign files: UTF-8 with or without a byte-order mark, UTF-16 by its mark, else by a name given.

No other encoding is guessed: GBK read as Latin text, or the other way round, is nonsense without a word.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def decode_text(data: bytes, encoding: str | None = None) -> str:
    """Decode the bytes of a whole file; a byte-order mark at the start is no part of the text.

    Args:
        data: the bytes.
        encoding: a name Python knows, such as "gbk"; None is UTF-8, or UTF-16 where its mark says so.

    Raises:
        ValueError: if the bytes are not text of that encoding, or there is none of that name.
    """
    name = encoding or next((known for mark, known in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(name).removeprefix("\ufeff")
    except LookupError:  # also for Python's codecs of other things than text, such as hex
        raise ValueError(f"there is no encoding {name!r}; give one that Python knows, such as gbk") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"it is not {name} (byte 0x{data[error.start]:02x} at {error.start}); convert the file to UTF-8, "
            f"or say which encoding it is by the option 'encoding' (encoding=gbk) of the sets that have it"
        ) from None


def truth(value: object) -> bool | None:
    """What a boolean says, also one written as text or as 0 or 1; None for anything else."""
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(
        str(value).strip().lower()
    )


def read_text(path: Path, encoding: str | None = None) -> str:
    """Read a whole text file; see `decode_text`.

    Raises:
        ValueError: if it is not text of that encoding. OSError: if it cannot be read.
    """
    return decode_text(path.read_bytes(), encoding)


def text_lines(path: Path, encoding: str | None = None) -> list[str]:
    """The lines of a text file, without their ends (\\n or \\r\\n).

    Unlike `str.splitlines`, characters such as U+2028 and U+0085 inside a line do not end it.
    """
    return [line.removesuffix("\r") for line in read_text(path, encoding).split("\n")]


def json_object(text: str) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        ValueError: if the text is not JSON or no object, or a key stands in an object twice; which value
            is meant cannot be known.
    """
    try:
        value = json.loads(text, object_pairs_hook=_each_key_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg}, character {error.pos + 1})") from None
    if not isinstance(value, dict):
        raise ValueError(f"it must be a JSON object, but is a {type(value).__name__}")
    return value


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"the key {twice!r} stands there twice")
    return record
