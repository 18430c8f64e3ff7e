"""Tables on disk: which files of a folder are one, and which of a table's splits is the one asked for.

A split's name is what the file's name says before its shard's number: `train_5shot-00000-of-00001.parquet`
is of split `train_5shot`. Files of different names are never joined. What the `datasets` library writes is
read too: `save_to_disk` (`train/data-00000-of-00002.arrow`) and the hub's own conversion
(`train/0000.parquet`), where the folder names the split.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prompter.errors import UserError

SUFFIXES = (".parquet", ".arrow", ".jsonl")
ALIASES = {"train": ("train",), "val": ("val", "validation", "dev"), "test": ("test",)}
_SAYS_A_SPLIT = re.compile(r"(?:^|[-_])(?:train|val|dev|eval|test)", re.IGNORECASE)
_SHARD = re.compile(r"(?:^|[-_.])(\d+)(?:-of-(\d+))?(?:-[0-9a-f]{16})?$")
_OWN_NAMES = ("", "data", "part", "shard")  # say nothing about the split
_CACHE = re.compile(r"cache-|tmp")  # what the library leaves beside `save_to_disk`'s files


def table_files(folder: Path) -> dict[str, list[Path]]:
    """Split -> files, in the order of their shards.

    Raises:
        UserError: if shards are missing or there twice, or one split lies there in two formats.
    """
    groups: dict[str, list[_Shard]] = {}
    for path in sorted(_candidates(folder)):
        shard = _Shard.of(path, folder)
        groups.setdefault(shard.split, []).append(shard)
    files: dict[str, list[Path]] = {}
    for name, shards in groups.items():
        if _is_sequence(shards):
            files[name] = [shard.path for shard in sorted(shards, key=lambda one: (one.number, one.path))]
            _check_shards(name, shards)
        else:  # numbers that count something else, as the years of `scenes_2023`, `scenes_2024`
            files |= {shard.path.name.removesuffix(shard.path.suffix): [shard.path] for shard in shards}
    return files


def holds_table(folder: Path) -> bool:
    """Whether there is a table file below a folder."""
    return folder.is_dir() and next(_candidates(folder), None) is not None


@dataclass(frozen=True)
class _Shard:
    """One file: its split, its number (-1 for none), and how many there are by its name (0 unsaid)."""

    path: Path
    split: str
    number: int
    count: int

    @classmethod
    def of(cls, path: Path, folder: Path) -> _Shard:
        stem = path.name.removesuffix(path.suffix)
        found = _SHARD.search(stem)
        name = stem[: found.start()] if found else stem
        if name.lower() in _OWN_NAMES:
            name = path.parent.name if path.parent != folder else folder.resolve().name
        return cls(path, name, int(found[1]) if found else -1, int((found and found[2]) or 0))


def _candidates(folder: Path) -> Iterator[Path]:
    for inner, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(inner, name) for name in names if name.endswith(SUFFIXES) and not _CACHE.match(name))


def _is_sequence(shards: Sequence[_Shard]) -> bool:
    numbers = sorted(shard.number for shard in shards)
    if len(shards) == 1 or any(shard.count for shard in shards) or len(set(numbers)) < len(numbers):
        return True
    return numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))


def _check_shards(name: str, shards: Sequence[_Shard]) -> None:
    first, *others = shards
    kinds = sorted({shard.path.suffix for shard in shards})
    if len(kinds) > 1:
        raise UserError(f"{first.path.parent}: split {name!r} is there as {' and '.join(kinds)}; keep one.")
    twin = next((shard for shard in others if shard.number == first.number), None)
    if len({shard.number for shard in shards}) < len(shards) or len({shard.count for shard in shards}) > 1:
        raise UserError(
            f"split {name!r} is there twice, in {first.path} and {(twin or others[-1]).path}; "
            f"give the folder of one as the option 'root'."
        )
    if first.count and len(shards) != first.count:
        raise UserError(
            f"{first.path.parent}: split {name!r} has {first.count} files by their names, "
            f"but {len(shards)} are there; get the others, or rename these if they are all you want."
        )


def pick_split(place: str, split: str, found: Iterable[str], *, is_exact: bool = False) -> str:
    """Which of a table's splits is the one asked for.

    It is the one of that name ("validation" and "dev" are "val"). Otherwise it is the only one whose name
    begins or ends in it (`refcoco_unc_val`), or a single split whose name says nothing. A place that is
    named after a split ("…/ReasonSeg_val") is that split, whatever its only split is called.

    Args:
        place: names the table in errors; its last word may be a split's name.
        split: as asked for.
        found: the table's splits.
        is_exact: a name that only begins or ends in the split is another one, as in a table of several sets.

    Raises:
        UserError: if there is none, or more than one could be meant.
    """
    names = list(found)
    of_place = named_split(place)
    if len(names) == 1 and of_place is not None:
        if of_place == split:
            return names[0]
        if named_split(names[0]) == split:
            raise UserError(f"{place} has no split {split!r}; its name says that it is {of_place!r}.")
    wanted = ALIASES.get(split, (split,))
    exact = [name for name in names if name in wanted]
    close = [] if is_exact else [name for name in names if set(re.split(r"[-_]", name)) & set(wanted)]
    says_nothing = len(names) == 1 and of_place is None and not _SAYS_A_SPLIT.search(names[0])
    silent = names if says_nothing else []
    for choice in (exact, close, silent):
        if len(choice) == 1:
            return choice[0]
        if choice:
            raise UserError(
                f"{place} has no split {split!r}, and several that may be meant: {', '.join(choice)}. "
                f"Say which by the option 'table_split'."
            )
    raise UserError(
        f"{place} has no split {split!r}; it has: {', '.join(names)}. "
        f"If one of them is meant, say so by the option 'table_split'."
    )


def named_split(place: str, known: Mapping[str, Sequence[str]] = ALIASES) -> str | None:
    """The split that a name ends in: "…/ReasonSeg_val" is "val"; None when it ends in none."""
    last = re.split(r"[-_]", Path(place).name.lower())[-1]
    return next((name for name, words in known.items() if last in words), None)
