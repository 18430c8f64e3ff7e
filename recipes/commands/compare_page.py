"""The page of `prompter compare --page`: figures of each pair, configurations, and answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.datasets import may_open
from eval.comparison import Comparison
from eval.report.compare_page import ComparedPair, render_compare_page
from eval.viewer.groups import Shown, joined, question_groups
from prompter.errors import UserError
from prompter.runs.files import atomic_write
from prompter.runs.run_folder import RunFolder
from recipes.commands.arguments import open_as_run
from recipes.commands.pairs import Pair


def write_compare_page(
    path: Path,
    runs: Sequence[RunFolder],
    compared: Sequence[tuple[Pair, Comparison]],
    *,
    trust: bool,
    most: int,
) -> Path:
    """Write the page, whole or not at all; return its path.

    Args:
        path: of the page.
        runs: as they were named.
        compared: what was found of each pair.
        trust: import a dataset that a run's config names as "module:callable"; without it, pictures are
            drawn on grey.
        most: rollouts to leaf through.

    Raises:
        UserError: if a file of rollouts cannot be read.
    """
    page = render_compare_page(
        " → ".join(run.path.name for run in runs) if len(runs) > 1 else f"{runs[0].path.name}: before, after",
        [ComparedPair(pair.title, found) for pair, found in compared],
        {str(run.path): run.read_config() for run in runs},
        _side_by_side(runs, [pair for pair, _ in compared], trust=trust, most=most),
    )
    with atomic_write(path) as handle:
        handle.write(page)
    return path


def _side_by_side(runs: Sequence[RunFolder], pairs: Sequence[Pair], *, trust: bool, most: int) -> Shown:
    """The answers to each question: those of a pair's first, then of all that it is compared with."""
    beside: dict[Path, list[Path]] = {}
    for pair in pairs:
        beside.setdefault(pair.before, []).append(pair.after)
    parts, notes = [], []
    for first, others in beside.items():
        files = [first, *(path for path in others if path != first)]
        labels = _labels(files)
        samples, note = _samples(runs, first, trust=trust)
        part = first.stem if len({path.stem for path in files}) == 1 else " → ".join(p.stem for p in files)
        notes += [note] if note and note not in notes else []
        shown = question_groups(
            dict(zip(labels, files, strict=True)), part, samples, most=max(1, most // len(beside))
        )
        parts.append(shown)
    return joined([*parts, Shown((), " ".join(notes))])


def _labels(files: Sequence[Path]) -> list[str]:
    """What tells files of rollouts apart: their runs' names, or their whole paths where names do not."""
    folders = [path.parent.parent for path in files]
    names = [
        f"{one.parent.parent.name} {one.name}" if one.parent.name == "eval" else one.name for one in folders
    ]
    if len(set(names)) < len(names):
        names = [str(one) for one in folders]
    if len(set(names)) < len(names):
        names = [f"{name} {path.stem}" for name, path in zip(names, files, strict=True)]
    return names


def _samples(runs: Sequence[RunFolder], file: Path, *, trust: bool) -> tuple[Any, str]:
    """The set that a file's rollouts are of, in its order, or None, and a sentence if it cannot be opened."""
    run = next((one for one in runs if one.path in file.parents), None)
    try:
        return (None, "") if run is None else (_opened(run.read_config(), trust=trust), "")
    except UserError as error:
        return None, f"The images could not be opened: {error}"


def _opened(config: Mapping[str, Any], *, trust: bool) -> Any:
    if "trainer" not in config:
        return open_as_run(config, trust=trust)
    from recipes.config import TrainConfig

    trained = TrainConfig.model_validate(config)
    return trained.open_held_out() if may_open(trained.held_out.name, trust) else None
