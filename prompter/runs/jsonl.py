"""JSON Lines files that survive `kill -9`: whole lines are appended, half lines are dropped.

One line is one JSON object in UTF-8, ended by a newline. Lines are appended with a single
`write`, so a killed process leaves at most one unfinished line, and that line has no newline.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prompter.errors import UserError
from prompter.runs.disk import full_disk_told
from prompter.runs.files import atomic_write


def _finite(value: Any) -> Any:
    """Replace NaN and infinities by None: JSON has no notation for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def to_line(record: Mapping[str, Any]) -> str:
    """Return `record` as one line of JSON with its newline; non-finite floats become null.

    Text is written as it is, unless it holds half a surrogate pair, which UTF-8 cannot say (an
    endpoint may send one): such a line is escaped.
    """
    try:
        line = _dump(record, escape=False)
    except ValueError:
        record = _finite(record)
        line = _dump(record, escape=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = _dump(record, escape=True)
    return line + "\n"


def _dump(record: Mapping[str, Any], *, escape: bool) -> str:
    return json.dumps(record, ensure_ascii=escape, separators=(",", ":"), allow_nan=False)


def append_lines(path: Path | str, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records in one `write`, flushed to the disk before this returns.

    Call `drop_unfinished_line` once before the first append to a file that may have been left by
    a killed process.

    Raises:
        DiskFull: if there is no space for all of them; the file is then as it was.
    """
    data = "".join(to_line(record) for record in records).encode()
    if not data:
        return
    with full_disk_told(path):
        _append(path, data)


def _append(path: Path | str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def write_lines(path: Path | str, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole file of records; it appears complete or not at all."""
    with atomic_write(path) as handle:
        for record in records:
            handle.write(to_line(record))


def read_lines(path: Path | str) -> Iterator[dict[str, Any]]:
    """Yield the records of a file one by one, leaving out an unfinished last line.

    Raises:
        UserError: if the file cannot be opened, or a finished line is not a JSON object.
    """
    try:
        handle = open(path, "rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    with handle:
        for number, line in enumerate(handle, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number} is not JSON ({error}); mend or delete it.") from None
            if not isinstance(record, dict):
                kind = type(record).__name__
                raise UserError(f"{path}, line {number} should be a JSON object, but is a {kind}.")
            yield record


def count_lines(path: Path | str) -> int:
    """How many records `read_lines` would give, without reading them.

    Raises:
        UserError: if the file cannot be opened.
    """
    try:
        with open(path, "rb") as handle:
            return sum(block.count(b"\n") for block in iter(lambda: handle.read(1 << 20), b""))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path.") from None


def drop_unfinished_line(path: Path | str) -> None:
    """Cut a file after its last newline, removing what a killed process left of its last line."""
    target = Path(path)
    if not target.exists():
        return
    with open(target, "r+b") as handle:
        end = handle.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            handle.seek(start)
            newline = handle.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        handle.truncate(end)


def keep_first_lines(path: Path | str, count: int) -> None:
    """Cut a file after its first `count` lines; a file with fewer lines is left as it is."""
    target = Path(path)
    if not target.exists():
        return
    with open(target, "r+b") as handle:
        for _ in range(count):
            if not handle.readline():
                return
        handle.truncate(handle.tell())
