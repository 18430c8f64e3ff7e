"""What is said when the disk is full: one sentence, with the folder and the bytes that are free."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prompter.errors import InfrastructureError

_FULL = (errno.ENOSPC, errno.EDQUOT)

_SAID_OTHERWISE = (
    "No space left on device",  # safetensors: `SafetensorError`, made from Rust's error
    "Disk quota exceeded",
    "PytorchStreamWriter failed writing",
    "iostream error",
    ". unexpected pos ",  # torch.save, when its stream has failed before: "unexpected pos 576 vs 534"
)
"""How writers that raise no `OSError` say that a write failed (torch 2.13, safetensors 0.8)."""


class DiskFull(InfrastructureError, OSError):
    """A file could not be written for want of space. What has its final name is whole.

    An `OSError`, too, for whoever can do without the file.
    """

    def __str__(self) -> str:
        return str(self.args[0])


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that a disk or a quota is used up."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(text in str(error) for text in _SAID_OTHERWISE):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def full_disk_told(path: Path | str) -> Iterator[None]:
    """Within it `path` is written; a full disk becomes one sentence. Clean up further inside.

    Raises:
        DiskFull: naming the folder and the bytes that are free there.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        target = Path(path)
        raise DiskFull(
            f"the disk is full: {target.name} cannot be written in {target.parent.resolve()}, where "
            f"{free_bytes(target):,} bytes are free; what was saved before is whole"
        ) from error


def free_bytes(path: Path | str) -> int:
    """Bytes that this user can still write where `path` is or would be. A quota may allow fewer."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def flush_tree(folder: Path | str) -> None:
    """Bring every file below a folder to the disk: some file systems say only then that there is no space.

    Raises:
        OSError: as `os.fsync`.
    """
    for name, _, files in os.walk(folder):
        for file in files:
            descriptor = os.open(os.path.join(name, file), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
