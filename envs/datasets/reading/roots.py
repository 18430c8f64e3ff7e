"""Where a set's files are, and what to tell the user when they are not there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from envs.datasets.registry import dataset_info
from prompter.errors import UserError

ROOT_VARIABLE = "PROMPTER_DATA"


def default_root(name: str) -> Path | None:
    """`$PROMPTER_DATA/<name>`, or None when the variable is not set."""
    folder = os.environ.get(ROOT_VARIABLE)
    return Path(folder) / name if folder else None


def find_root(name: str, root: str | Path | None, wanted: Sequence[str], nested: Sequence[str] = ()) -> Path:
    """Find the folder that holds a set's files.

    Args:
        name: the dataset.
        root: the user's folder; when None, `default_root`.
        wanted: paths relative to the folder, any of which shows that it is the right one.
        nested: folders below the root that the files are also seen in.

    Raises:
        UserError: saying where was looked, the expected layout, and where to get the set.
    """
    base = Path(root) if root is not None else default_root(name)
    folders = [] if base is None else [base, *(base / inner for inner in nested)]
    for folder in folders:
        if any((folder / path).exists() for path in wanted):
            return folder
    raise not_found(name, wanted, folders)


def not_found(name: str, wanted: Sequence[str], folders: Iterable[Path]) -> UserError:
    """The error for a set that is not where it was looked for."""
    info = dataset_info(name)
    looked = ", ".join(str(folder) for folder in folders)
    where = f"in {looked}" if looked else f"anywhere, because ${ROOT_VARIABLE} is not set"
    return UserError(
        f"dataset {name!r} was not found: no {' or '.join(wanted)} {where}; "
        f"give its folder as the option 'root', or put it into ${ROOT_VARIABLE}/{name}.\n"
        f"Expected layout:\n{_indented(info.layout)}\nWhere to get it: {info.source}."
    )


def first_existing(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` (relative paths) that exists below `folder`, or None."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def need_existing(name: str, folder: Path, names: Sequence[str]) -> Path:
    """Like `first_existing`, but a missing file is the error of a set that was not found."""
    found = first_existing(folder, names)
    if found is None:
        raise not_found(name, names, [folder])
    return found


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
