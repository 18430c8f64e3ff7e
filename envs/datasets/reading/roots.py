"""Where a set's files are, and what to tell the user when they are not there."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from envs.datasets.reading.tables.hub import HUB_PREFIX, is_hub_id
from envs.datasets.reading.tables.table_files import SUFFIXES, holds_table
from envs.datasets.registry import dataset_info, opener_options
from prompter.errors import UserError, did_you_mean

ROOT_VARIABLE = "PROMPTER_DATA"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


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
    folders = _folders(name, root, nested)
    found = _holding(folders, wanted)
    if found is None:
        raise not_found(name, wanted, folders)
    return found


def table_place(
    name: str, root: str | Path | None, wanted: Sequence[str], nested: Sequence[str] = ()
) -> str | None:
    """The place of the set's table, if what the root names is one; None if it is a folder of files.

    A table is a dataset on the hub, or a folder with table files and not the set's own layout. Arguments
    are those of `find_root`.
    """
    place = root if root is not None else default_root(name)
    if place is None:
        return None
    if is_hub_id(place):
        return str(place)
    if _holding(_folders(name, root, nested), wanted) is not None:
        return None
    return str(place) if holds_table(Path(place)) else None


def not_found(name: str, wanted: Sequence[str], folders: Iterable[Path]) -> UserError:
    """The error for a set that is not where it was looked for."""
    info = dataset_info(name)
    places = list(folders)
    looked = ", ".join(str(folder) for folder in places)
    where = f"in {looked}" if looked else f"anywhere, because ${ROOT_VARIABLE} is not set"
    return UserError(
        f"dataset {name!r} was not found: no {' or '.join(wanted)} {where}; "
        f"give its folder as the option 'root', or put it into ${ROOT_VARIABLE}/{name}."
        f"{_hint(places[0], 'table_split' in opener_options(name)) if places else ''}\n"
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


def files_by_stem(folders: Iterable[Path], suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Stem -> the files of that stem that lie directly in any of the folders; most stems have one.

    `only_file` refuses those that have several.

    Args:
        folders: those that do not exist are passed over.
        suffixes: in lower case, with their dot; files of others are passed over.
    """
    files: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            # macOS puts a file "._NAME" beside each into archives.
            if path.suffix.lower() in suffixes and not path.name.startswith("._"):
                files.setdefault(path.stem, []).append(path)
    return files


def only_file(files: Mapping[str, Sequence[Path]], stem: str, what: str) -> Path:
    """The file of a stem; of several, the first one if all hold the same bytes.

    Raises:
        UserError: naming two files that differ, or that there is none.
    """
    paths = files.get(stem, ())
    if not paths:
        raise UserError(f"there is no {what} for {stem!r}.")
    for other in paths[1:]:
        if not filecmp.cmp(paths[0], other, shallow=False):
            raise UserError(
                f"there are two {what}s for {stem!r}, {paths[0]} and {other}; take one of them away."
            )
    return paths[0]


def _folders(name: str, root: str | Path | None, nested: Sequence[str]) -> list[Path]:
    base = Path(root) if root is not None else default_root(name)
    return [] if base is None else [base, *(base / inner for inner in nested)]


def _holding(folders: Iterable[Path], wanted: Sequence[str]) -> Path | None:
    return next((folder for folder in folders if any((folder / path).exists() for path in wanted)), None)


def _hint(base: Path, reads_tables: bool) -> str:
    """What else is seen at the place, that may be why the files are not."""
    if not base.exists():
        parent = base.parent
        names = [path.name for path in parent.iterdir()] if parent.is_dir() else []
        close = did_you_mean(base.name, get_close_matches(base.name, names, n=1))
        takes_id = reads_tables and len(base.parts) == 2
        hub = f" A dataset on the hub is given as {HUB_PREFIX}OWNER/NAME." if takes_id else ""
        return f" There is no folder {str(base)!r}.{close}{hub}"
    archives = (
        sorted(path.name for path in base.iterdir() if path.suffix in _ARCHIVES) if base.is_dir() else []
    )
    if archives:
        return f" It holds archives, which are to be unpacked first: {', '.join(archives[:3])}."
    if base.suffix in SUFFIXES:
        return " It is a file; give its folder."
    return ""


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
