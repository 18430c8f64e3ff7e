"""The looks at one question as one line of JSON Lines: what they share once, then each of them.

`looks/EXECUTOR.jsonl` of a run holds a line per question. Everything is combined and scored from these files
alone, so that another rule, or the first few of the looks, can be tried without a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.rollout import Rollout
from prompter.errors import UserError
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder

FOLDER = "looks"

_SHARED = (
    *(
        "sample_id",
        "dataset",
        "split",
        "image_id",
        "image_wh",
        "query",
        "target",
        "instances",
        "ignore",
        "boxes",
    ),
    *("tags", "executor", "step"),
)
_UNUSED = ("rewards", "confidence")


def looks_path(folder: RunFolder, name: str) -> Path:
    """The file of one segmenter's looks, named as its file of rollouts is."""
    return folder.path / FOLDER / folder.rollouts_path(name).name


def looks_files(folder: RunFolder) -> list[Path]:
    """The files of a run's looks, one per segmenter, by name; none if its questions were asked once."""
    return sorted((folder.path / FOLDER).glob("*.jsonl"))


def looks_line(looks: Sequence[Rollout]) -> dict[str, Any]:
    """The rollouts of one question, the greedy one first, as a JSON-ready dict."""
    records = [look.to_json() for look in looks]
    own = [
        {key: value for key, value in record.items() if key not in (*_SHARED, *_UNUSED)} for record in records
    ]
    return {**{key: records[0][key] for key in _SHARED}, "looks": own}


def looks_from_line(line: Mapping[str, Any]) -> tuple[Rollout, ...]:
    """Inverse of `looks_line`."""
    shared = {key: line[key] for key in _SHARED}
    return tuple(Rollout.from_json({**shared, **own}) for own in line["looks"])


def read_looks(path: Path | str) -> Iterator[tuple[Rollout, ...]]:
    """Yield the looks at each question of a file: the greedy rollout, then the sampled ones in order.

    Raises:
        UserError: if the file cannot be read, a line holds no looks, or not as many as the first; names
            file and line.
    """
    count = 0
    for number, record in enumerate(read_lines(path), start=1):
        try:
            looks = looks_from_line(record)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number} holds no looks at a question ({error!r}).") from None
        count = count or len(looks)
        if len(looks) != count or count < 2:
            raise UserError(
                f"{path}, line {number} holds {len(looks)} looks where {max(count, 2)} were expected: "
                f"the greedy one and the sampled ones."
            )
        yield looks
