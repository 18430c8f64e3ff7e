"""What the viewer shows side by side: the rollouts of one question, from one step or from several runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from envs.rollout import Rollout
from eval.looks.records import read_looks
from eval.runner import Samples
from prompter.errors import UserError
from prompter.runs.jsonl import count_lines
from rewards.replay import read_rollouts

LoadImage = Callable[[], Image.Image]

MOST_ROLLOUTS = 10_000
"""Rollouts on a page, unless told otherwise."""


@dataclass(frozen=True)
class Member:
    """One rollout of a group.

    Args:
        rollout: what is shown.
        label: what tells it from the others: a number, a segmenter, a run.
        advantage: what it was trained with, or None.
    """

    rollout: Rollout
    label: str
    advantage: float | None = None


@dataclass(frozen=True)
class Group:
    """Rollouts of one question, shown side by side.

    Args:
        members: at least one, all of one image and question.
        part: where it is from, such as "training" or "held-out"; what the page can be narrowed to.
        load_image: the image as PIL RGB of the members' `image_wh`; None draws masks on grey.
    """

    members: Sequence[Member]
    part: str
    load_image: LoadImage | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Shown:
    """What a viewer shows: groups, read when they are asked for, and what of all there is they are.

    Args:
        groups: in the order of the page.
        note: one sentence if something was left out, else "".
    """

    groups: Iterable[Group]
    note: str = ""


def evenly(total: int, most: int) -> list[int]:
    """At most `most` of the numbers from 0 to `total` - 1, evenly spaced, both ends included."""
    if most >= total:
        return list(range(total))
    return [int(place) for place in np.linspace(0, total - 1, max(most, 1)).round()]


def question_groups(
    runs: Mapping[str, Path], part: str, samples: Samples | None = None, *, most: int = MOST_ROLLOUTS
) -> Shown:
    """A group per question, its members the answers of several runs or segmenters.

    Args:
        runs: label -> file of rollouts, one line per question. The questions are those of the first; one
            that another file lacks has a member less.
        part: name of the groups' part.
        samples: where the images come from, in the order of the first file.
        most: rollouts to show. Where there are more, questions are evenly spaced over the file.

    Raises:
        UserError: if there is no file, or one cannot be read.
    """
    if not runs:
        raise UserError("There are no rollouts to show.")
    first, *others = runs.items()
    total = count_lines(first[1])
    chosen = evenly(total, max(1, most // len(runs)))
    return Shown(
        _questions(first, others, part, samples, chosen),
        _left_out(len(chosen), total, f"questions of {part}"),
    )


def _questions(
    first: tuple[str, Path],
    others: Sequence[tuple[str, Path]],
    part: str,
    samples: Samples | None,
    chosen: Sequence[int],
) -> Iterator[Group]:
    wanted = set(chosen)
    mine = [(line, one) for line, one in enumerate(read_rollouts(first[1])) if line in wanted]
    names = {_name(one) for _, one in mine}
    beside = [
        (label, {_name(one): one for one in read_rollouts(path) if _name(one) in names})
        for label, path in others
    ]
    for line, one in mine:
        members = [Member(one, first[0])]
        members += [Member(found[_name(one)], label) for label, found in beside if _name(one) in found]
        yield Group(members, part, image_of(samples, line, one))


def look_groups(path: Path, part: str, samples: Samples | None = None, *, most: int = MOST_ROLLOUTS) -> Shown:
    """A group per question of a file of looks (`eval.looks.records`): the greedy answer, then the others.

    Args:
        path: lines of looks.
        part: name of the groups' part.
        samples: where the images come from, in the order of the file.
        most: rollouts to show. Where there are more, questions are evenly spaced over the file.

    Raises:
        UserError: if the file cannot be read.
    """
    total = count_lines(path)
    size = len(next(iter(islice(read_looks(path), 1)), ()))
    chosen = evenly(total, max(1, most // max(size, 1)))
    return Shown(_looks(path, part, samples, chosen), _left_out(len(chosen), total, f"questions of {part}"))


def _looks(path: Path, part: str, samples: Samples | None, chosen: Sequence[int]) -> Iterator[Group]:
    wanted = set(chosen)
    for line, asked in enumerate(read_looks(path)):
        if line in wanted:
            labels = ["greedy", *(f"look {number}" for number in range(1, len(asked)))]
            members = [Member(one, label) for one, label in zip(asked, labels, strict=True)]
            yield Group(members, part, image_of(samples, line, asked[0]))


def image_of(samples: Samples | None, line: int, rollout: Rollout) -> LoadImage | None:
    """How the image of a rollout is loaded; None where the samples do not hold it.

    The sample is looked up when the image is asked for, so that a page of some of the rollouts opens the
    images of those alone.

    Args:
        samples: in the order of the rollouts, or None.
        line: the rollout's number, from 0.
        rollout: whose image it is.
    """
    if samples is None or line >= len(samples):
        return None
    known = samples

    def load() -> Image.Image:
        sample = known[line]
        if sample.sample_id != rollout.sample_id or sample.image_wh != rollout.image_wh:
            raise LookupError(f"sample {line} is {sample.sample_id!r}, not {rollout.sample_id!r}")
        return sample.load_image()

    return load


def _name(rollout: Rollout) -> tuple[str, str, str]:
    return rollout.dataset, rollout.split, rollout.sample_id


def _left_out(shown: int, total: int, what: str) -> str:
    return "" if shown == total else f"{shown:,} of {total:,} {what} are here, evenly spaced."


def joined(parts: Iterable[Shown]) -> Shown:
    """Several parts one after another."""
    every = list(parts)

    def groups() -> Iterator[Group]:
        for part in every:
            yield from part.groups

    return Shown(groups(), " ".join(part.note for part in every if part.note))
