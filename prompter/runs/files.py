"""Files and folders that are either whole or absent: atomic writes and checksums."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from prompter.runs.disk import full_disk_told


@contextmanager
def atomic_write(path: Path | str, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path` and rename it over `path` when the block succeeds.

    Nothing is left under the final name, and no temporary file at all, if the block raises.
    `mode` is "w" (UTF-8 text) or "wb". Halves of characters, which a model's answer may hold and UTF-8 cannot
    say, are written as JSON escapes them.

    Raises:
        DiskFull: if there is no space for it.
    """
    with full_disk_told(path), _replaced(Path(path), mode) as handle:
        yield handle


@contextmanager
def _replaced(target: Path, mode: str) -> Iterator[IO]:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
        with os.fdopen(descriptor, mode, encoding=encoding, errors=errors) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        # mkstemp makes files private; give this one the mode that open() would have.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Make a folder beside `path`, to be filled in the block, and rename it to `path` if that succeeds.

    What is there under the final name is replaced then. Nothing new is left under it if the block raises
    or the process is killed; a killed one leaves a folder whose name begins with a dot.

    Raises:
        DiskFull: if there is no space for it.
    """
    target = Path(path)
    with full_disk_told(target), _beside(target) as name:
        new = Path(name) / "new"
        new.mkdir()
        yield new
        if target.exists():
            target.rename(Path(name) / "old")  # a folder with files in it cannot be renamed over
        new.rename(target)


@contextmanager
def _beside(target: Path) -> Iterator[str]:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as name:
        yield name


def sha256_of(path: Path | str) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def locked(path: Path | str) -> Iterator[None]:
    """Hold an exclusive lock between processes on the file `path`, which is made when missing and stays.

    The kernel lets go of it when the process ends, however it ends.
    """
    from filelock import FileLock  # here, so that commands that lock nothing do not wait for the import

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target).acquire(poll_interval=0.01):
        yield
