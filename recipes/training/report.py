"""The report of a training run: learning curve, before and after, and the samples that changed most."""

from __future__ import annotations

from pathlib import Path

from envs.datasets import may_open
from envs.sample import SampleSource
from eval.bootstrap import Interval
from eval.comparison import Comparison, compare_files, remarks
from eval.report.run_page import ReportInput, write_report
from eval.results import evaluation_files
from eval.viewer.groups import MOST_ROLLOUTS, Shown, joined, question_groups
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from prompter.runs.tables import text_table
from recipes.config import TrainConfig
from recipes.training.alarms import alarm_lines
from recipes.training.held_out import other_name
from recipes.training.rollout_groups import training_groups


def write_training_report(
    folder: RunFolder,
    title: str = "",
    *,
    trust: bool = False,
    beside: RunFolder | None = None,
    most: int = MOST_ROLLOUTS,
) -> Path:
    """Write `report.html` of a finished training run; return its path.

    Args:
        folder: of the run.
        title: heading; "" names the run.
        trust: whether the run's config is the user's own, so that a dataset that it names as
            "module:callable" is imported; without it, the pictures of such a run are drawn on grey.
        beside: a run whose configuration is set beside this one's.
        most: rollouts to leaf through.
    """
    config = TrainConfig.model_validate(folder.read_config())
    held_out = config.open_held_out() if may_open(config.held_out.name, trust) else None
    references = {
        name: evaluation_files(RunFolder(folder.path / "eval" / name.partition(":")[2]))[0]
        for name in config.eval.references
    }
    return write_report(
        folder,
        ReportInput(
            title=title or f"Training run {folder.path.name}",
            after=_rollouts(folder, "after")[0],
            before=_rollouts(folder, "before")[0],
            samples=held_out,
            metrics=folder.read_metrics(),
            timeline=folder.read_timeline(),
            references=references,
            others={
                name: (_rollouts(folder, "before", name)[0], _rollouts(folder, "after", name)[0])
                for name in config.eval.others
            },
            config=folder.read_config(),
            alarms=alarm_lines(folder.read_metrics(), config.alarms),
            rollouts=_leafed(folder, config, held_out, trust=trust, most=most),
            beside=None if beside is None else (str(beside.path), beside.read_config()),
        ),
    )


def _leafed(
    folder: RunFolder, config: TrainConfig, held_out: SampleSource | None, *, trust: bool, most: int
) -> Shown:
    """What was sampled while training, and the held-out questions before and after."""
    note = ""
    source: SampleSource | None = None
    try:
        source = config.dataset.open() if may_open(config.dataset.name, trust) else None
    except UserError as error:  # the figures of a run are worth a page without pictures
        note = f"The training set could not be opened, so its images are missing: {error}"
    sides = {name: _rollouts(folder, name)[0] for name in ("before", "after")}
    return joined(
        [
            training_groups(folder, source, folder.read_config(), most=most),
            question_groups(sides, "held-out", held_out, most=most),
            Shown((), note),
        ]
    )


def comparison_lines(folder: RunFolder) -> list[str]:
    """What a run changed, greedy, per executor and set: the held-out queries, then each of `eval.others`.

    Returns:
        Per executor and set a line with gIoU before and after and the paired 95 % interval; below it,
        indented, the four parts of the difference (`eval.gain`), which add up to it.
    """
    lines = _compared(folder, "", "held-out queries")
    for other in TrainConfig.model_validate(folder.read_config()).eval.others:
        lines += _compared(folder, other, f"queries of {other}")
    return lines


def _compared(folder: RunFolder, other: str, what: str) -> list[str]:
    lines = []
    for before, after in zip(
        _rollouts(folder, "before", other), _rollouts(folder, "after", other), strict=True
    ):
        found = compare_files(before, after)
        lines.append(f"{after.stem}: {found.queries} {what} on {found.images} images, {_says(found)}")
        lines += [f"  {line}" for line in [*_parts(found), *remarks(found)]]
    return lines


def _says(found: Comparison) -> str:
    main = found.metrics["gIoU"]
    if main.difference is None or main.before is None or main.after is None:
        return "gIoU unknown: the segmenter failed on every query"
    text = f"gIoU {100 * main.before:.1f} -> {100 * main.after:.1f}"
    text += f", difference {_points(main.difference)} points"
    if main.by_image is not None:
        text += f", 95 % interval {_limits(main.by_image)} (paired bootstrap, drawing images)"
    if main.by_tile is not None:
        text += f", {_limits(main.by_tile)} (drawing {found.tiles} tiles)"
    return text


def _parts(found: Comparison) -> list[str]:
    """The parts of the difference, and what became of the queries that both answered."""
    gain, main = found.gain, found.metrics["gIoU"]
    if gain is None or main.difference is None:
        return []
    rounded = gain.rounded(_points(main.difference), decimals=1)
    rows = [
        (str(part), rounded[part], _limits(change.by_image), f"{change.queries} queries")
        for part, change in gain.parts.items()
    ]
    lines = text_table(rows, numbers=True)
    answered = gain.both_answered
    if answered.value is not None:
        limits = "" if answered.by_image is None else f" {_limits(answered.by_image)}"
        lines.append(
            f"both answered a target: {answered.queries} queries, "
            f"{_points(answered.value)}{limits} points of IoU each"
        )
    return lines


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _limits(interval: Interval | None) -> str:
    return "" if interval is None else f"[{_points(interval.low)}, {_points(interval.high)}]"


def _rollouts(folder: RunFolder, name: str, other: str = "") -> list[Path]:
    """Rollouts before or after training, of the held-out set or of one of `eval.others`."""
    return evaluation_files(RunFolder(folder.path / "eval" / (other_name(name, other) if other else name)))
