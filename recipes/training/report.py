"""The report of a training run: learning curve, before and after, and the samples that changed most."""

from __future__ import annotations

from pathlib import Path

from envs.datasets import may_open
from eval.bootstrap import Difference
from eval.metrics import STRICT, compare, score_file
from eval.report.run_page import ReportInput, write_report
from eval.results import evaluation_files
from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig
from recipes.training.alarms import alarm_lines
from recipes.training.held_out import other_name


def write_training_report(folder: RunFolder, title: str = "", *, trust: bool = False) -> Path:
    """Write `report.html` of a finished training run; return its path.

    Args:
        folder: of the run.
        title: heading; "" names the run.
        trust: whether the run's config is the user's own, so that a dataset that it names as
            "module:callable" is imported; without it, the pictures of such a run are drawn on grey.
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
        ),
    )


def comparison_lines(folder: RunFolder) -> list[str]:
    """A line per executor and set: greedy gIoU before and after, with the paired 95 % interval."""
    lines = _compared(folder, "", "held-out queries")
    for other in TrainConfig.model_validate(folder.read_config()).eval.others:
        lines += _compared(folder, other, f"queries of {other}")
    return lines


def _compared(folder: RunFolder, other: str, what: str) -> list[str]:
    lines = []
    for before, after in zip(
        _rollouts(folder, "before", other), _rollouts(folder, "after", other), strict=True
    ):
        table = score_file(after, [STRICT])
        found = compare(score_file(before, [STRICT]), table)["gIoU"]
        images = len(set(table.images.tolist()))
        lines.append(f"{after.stem}: {len(table)} {what} on {images} images, {_says(found)}")
    return lines


def _says(found: Difference) -> str:
    if found.difference is None or found.before is None or found.after is None:
        return "gIoU unknown: the segmenter failed on every query"
    text = f"gIoU {100 * found.before:.1f} -> {100 * found.after:.1f}"
    text += f", difference {100 * found.difference:+.1f} points"
    if found.by_image is not None:
        low, high = found.by_image.to_json()
        text += f", 95 % interval [{100 * low:+.1f}, {100 * high:+.1f}] (paired bootstrap, drawing images)"
    return text


def _rollouts(folder: RunFolder, name: str, other: str = "") -> list[Path]:
    """Rollouts before or after training, of the held-out set or of one of `eval.others`."""
    return evaluation_files(RunFolder(folder.path / "eval" / (other_name(name, other) if other else name)))
