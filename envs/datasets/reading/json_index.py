"""Large JSON files read one element at a time: only byte positions are held in memory.

Files are UTF-8, with or without a byte-order mark. In other encodings a byte of a letter may be that of a
bracket or a quote, so they are refused rather than scanned.
"""

from __future__ import annotations

import codecs
import json
import mmap
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from envs.datasets.reading.records import blaming
from envs.datasets.reading.text import decode_text, json_object

# A whole string, or one bracket. Everything else (numbers, commas) does not change the depth.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_COLON = re.compile(rb"\s*:")


class JsonArray:
    """The objects of one array in a JSON file, parsed when asked for; sized, indexable, iterable.

    Args:
        path: the file.
        what: what an element is called in errors ("record", "annotations", …).
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._starts, self._ends = array("Q"), array("Q")

    def append(self, start: int, end: int) -> None:
        """Add the element that lies at bytes [start, end)."""
        self._starts.append(start)
        self._ends.append(end)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with open(self.path, "rb") as handle:
            return self._read(handle, index)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with open(self.path, "rb") as handle:
            for index in range(len(self)):
                yield self._read(handle, index)

    def where(self, index: int) -> str:
        """Names an element for errors: file and number, counted from 0."""
        return f"{self.path}, {self.what} {index}"

    def _read(self, handle: Any, index: int) -> dict[str, Any]:
        with blaming(self.where(index)):
            handle.seek(self._starts[index])
            text = decode_text(handle.read(self._ends[index] - self._starts[index]))
            return json_object(text)


class JsonLines(JsonArray):
    """The objects of a file of JSON lines.

    Args:
        path: the file.
        by_line: name objects in errors by the file's own line, counted from 1, and not as a table's rows.
    """

    def __init__(self, path: Path, *, by_line: bool) -> None:
        super().__init__(path, "record")
        self._by_line, self._numbers = by_line, array("Q")

    def append_line(self, number: int, start: int, end: int) -> None:
        """Add the object that stands in line `number`, at bytes [start, end)."""
        self._numbers.append(number)
        self.append(start, end)

    def number(self, index: int) -> int:
        """The line of an object, counted from 1."""
        return self._numbers[index]

    def where(self, index: int) -> str:
        """Names an object for errors."""
        return f"{self.path}, line {self.number(index)}" if self._by_line else super().where(index)


def index_records(path: Path) -> JsonArray:
    """Index a JSON file whose top level is an array of objects.

    Raises:
        UserError: if the file is missing, is cut off, or has another shape.
    """
    with blaming(str(path)):
        return _scan_text(path, [])["record"]


def index_arrays(path: Path, keys: Sequence[str]) -> dict[str, JsonArray]:
    """Index arrays of objects that lie under top-level keys of a JSON object, in one pass.

    Raises:
        UserError: if the file is missing, is cut off, or lacks one of the keys.
    """
    with blaming(str(path)):
        return _scan_text(path, keys)


def index_lines(path: Path, *, by_line: bool = False) -> JsonLines:
    """Index a file of JSON objects, one a line; blank lines are left out. `by_line`: see `JsonLines`.

    Raises:
        UserError: if the file is missing, or is in UTF-16.
    """
    lines = JsonLines(path, by_line=by_line)
    with blaming(str(path)), open(path, "rb") as handle:
        offset = _text_start(handle.read(4))
        handle.seek(offset)
        for number, line in enumerate(handle, start=1):
            if line.strip():
                lines.append_line(number, offset, offset + len(line))
            offset += len(line)
    return lines


def _text_start(head: bytes) -> int:
    """Where the text begins after a byte-order mark."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it is UTF-16 by its byte-order mark; convert it to UTF-8")
    return len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0


def _scan_text(path: Path, keys: Sequence[str]) -> dict[str, JsonArray]:
    """`_scan`; of a broken file it is said first whether it is UTF-8 at all."""
    try:
        return _scan(path, keys)
    except ValueError:
        decoder = codecs.getincrementaldecoder("utf-8")()
        with open(path, "rb") as handle:
            for piece in iter(lambda: handle.read(1 << 20), b""):
                try:
                    decoder.decode(piece)
                except UnicodeDecodeError:
                    decode_text(piece)  # says so
        raise


def _scan(path: Path, keys: Sequence[str]) -> dict[str, JsonArray]:
    arrays = {key: JsonArray(path, key) for key in keys} or {"record": JsonArray(path, "record")}
    wanted = {json.dumps(key).encode(): key for key in keys}
    found: set[str] = set()
    if not path.stat().st_size:
        raise ValueError("it is empty")
    with open(path, "rb") as handle:
        text_start = _text_start(handle.read(4))
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        stack = bytearray()  # the brackets that are open
        pending: str | None = None  # a wanted key whose value has not begun
        current: JsonArray | None = None  # the wanted array that is open
        inside = 2 if keys else 1  # the depth of its elements
        start = 0
        for token in _TOKEN.finditer(data, text_start):
            symbol = token[0]
            if symbol[0] == 0x22:  # a string; it matters only as a top-level key
                if len(stack) == 1 and keys and _COLON.match(data, token.end()):
                    pending = wanted.get(symbol)
            elif symbol in b"[{":
                if not stack and symbol != (b"{" if keys else b"["):
                    raise ValueError(f"the top level must be a JSON {'object' if keys else 'array'}")
                if not stack and not keys:
                    current = arrays["record"]
                elif len(stack) == 1 and pending is not None:
                    if symbol != b"[":
                        raise ValueError(f"the key {pending!r} must hold a list")
                    current = arrays[pending]
                    found.add(pending)
                    pending = None
                elif current is not None and len(stack) == inside:
                    start = token.start()
                stack += symbol
            else:
                if not stack or stack.pop() != (0x5B if symbol == b"]" else 0x7B):
                    raise ValueError(f"its brackets do not match at byte {token.start()}")
                if current is not None and len(stack) == inside:
                    current.append(start, token.end())
                elif len(stack) < inside:
                    current = None
        if stack:
            raise ValueError("it ends in the middle of a JSON value")
    missing = [key for key in keys if key not in found]
    if missing:
        raise ValueError(f"the key {missing[0]!r} is missing")
    if not keys and not arrays["record"] and not _is_empty_array(path):
        raise ValueError("the top level must be a JSON array of objects")
    return arrays


def _is_empty_array(path: Path) -> bool:
    with open(path, "rb") as handle:
        return re.fullmatch(rb"(?:\xef\xbb\xbf)?\s*\[\s*\]\s*", handle.read(1 << 16)) is not None
