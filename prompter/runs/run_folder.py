"""The run folder: one folder, one truth about a training or evaluation run.

    config.yaml          the resolved configuration; running it again repeats the run
    identity.json        of training: what a resumed run has to share with it, and the versions used
    metrics.jsonl        one line per logged event, append-only: {"step", "kind", …}
    timeline.jsonl       of training, who did what when: {"phase", "who", "start_s", "end_s", "step"}
    rollouts/*.jsonl     one file per optimiser step in training, one per segmenter in evaluation
    windows/*.jsonl      of training, one file per window: token ids, log-probabilities and rewards by group
    checkpoints/         whatever the trainer writes there; an evaluation has none
    best/step-*/         of training that may end early, the weights of its best evaluations
    report.html          the page to look at

This is the only module that writes these files. It imports neither torch nor the other packages,
so rollouts are handed over as dicts (`envs.rollout.Rollout.to_json`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from prompter.errors import UserError
from prompter.runs.files import atomic_write
from prompter.runs.jsonl import append_lines, drop_unfinished_line, read_lines, write_lines
from prompter.runs.values import dump_yaml, load_yaml

_STEP_FILE = "step-{:08d}.jsonl"


def rollouts_name(name: str) -> str:
    """What a named rollout file is called, without its ending: what a file name should not hold is
    replaced by `-`.

    Raises:
        ValueError: if nothing is left.
    """
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip(".-")
    if not safe:
        raise ValueError(f"a rollout file needs a name with a letter or digit, but got {name!r}")
    return safe


class RunFolder:
    """Paths and writers of one run. Make it with `create` (to write) or `open` (to read).

    Args:
        path: the folder. Nothing is created or checked here.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.identity_path = self.path / "identity.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.timeline_path = self.path / "timeline.jsonl"
        self.rollouts_dir = self.path / "rollouts"
        self.windows_dir = self.path / "windows"
        self.checkpoints_dir = self.path / "checkpoints"
        self.report_path = self.path / "report.html"
        self._logged: set[tuple[int, str]] | None = None
        self._watchers: list[Callable[[Mapping[str, Any]], None]] = []

    @classmethod
    def create(cls, path: Path | str, *, resume: bool = False) -> RunFolder:
        """Make the folder ready for writing.

        Args:
            path: the folder; parents are created.
            resume: accept a folder that holds a run already, and mend what a killed process left:
                an unfinished last line of `metrics.jsonl` is cut off.

        Raises:
            UserError: if the folder is not empty and `resume` is false, or is a file.
        """
        run = cls(path)
        run.check_usable(resume=resume)
        run.rollouts_dir.mkdir(parents=True, exist_ok=True)
        drop_unfinished_line(run.metrics_path)
        drop_unfinished_line(run.timeline_path)
        return run

    def check_usable(self, *, resume: bool = False) -> None:
        """Refuse what `create` would refuse, without writing anything.

        Raises:
            UserError: if the folder is not empty and `resume` is false, or is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"The run folder {self.path} is a file; give another path.")
        if not resume and self.path.is_dir() and any(self.path.iterdir()):
            raise UserError(
                f"The run folder {self.path} is not empty; give another folder, or resume the run in it."
            )

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open an existing run for reading.

        Raises:
            UserError: if there is no such folder, or it holds neither a configuration nor metrics.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise UserError(f"There is no run folder {run.path}; check the path.")
        if not run.config_path.exists() and not run.metrics_path.exists():
            raise UserError(
                f"{run.path} is not a run folder: it holds neither config.yaml nor metrics.jsonl."
            )
        return run

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write `config.yaml` (plain Python values; keys keep their order), replacing an older one."""
        with atomic_write(self.config_path) as handle:
            handle.write(dump_yaml(config))

    def read_config(self) -> dict[str, Any]:
        """Read `config.yaml`.

        Raises:
            UserError: if it is missing or is not a YAML mapping.
        """
        if not self.config_path.exists():
            raise UserError(f"The run folder {self.path} holds no config.yaml.")
        return load_yaml(self.config_path)

    def write_identity(self, identity: Mapping[str, Any]) -> None:
        """Write `identity.json` (JSON-ready values), replacing an older one."""
        with atomic_write(self.identity_path) as handle:
            json.dump(identity, handle, indent=2, allow_nan=False)

    def read_identity(self) -> dict[str, Any] | None:
        """Read `identity.json`; None if there is none, as in runs of earlier versions.

        Raises:
            UserError: if it is not a JSON object.
        """
        if not self.identity_path.exists():
            return None
        try:
            identity = json.loads(self.identity_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{self.identity_path} is not JSON: {error}") from None
        if not isinstance(identity, dict):
            raise UserError(f"{self.identity_path} should be a JSON object.")
        return identity

    def log_metrics(self, step: int, values: Mapping[str, Any], *, kind: str = "train") -> None:
        """Append one line `{"step": step, "kind": kind, **values}` to `metrics.jsonl`.

        Args:
            step: optimiser step the values belong to.
            values: JSON-ready values; NaN and infinities are written as null.
            kind: "train", "eval", "summary", …: what was measured.

        Raises:
            ValueError: if `step` and `kind` were logged before (no step is ever in the file twice),
                or `values` holds the key "step" or "kind".
        """
        for name in ("step", "kind"):
            if name in values:
                raise ValueError(f"values must not hold {name!r}: it is an argument of log_metrics")
        if self.has_metrics(step, kind):
            raise ValueError(f"metrics of kind {kind!r} were logged for step {step} before")
        line = {"step": step, "kind": kind, **values}
        append_lines(self.metrics_path, [line])
        self._known_metrics().add((step, kind))
        for watcher in self._watchers:
            watcher(line)

    def watch_metrics(self, watcher: Callable[[Mapping[str, Any]], None]) -> None:
        """Have a function called with each line that this object writes to `metrics.jsonl` from now on."""
        self._watchers.append(watcher)

    def has_metrics(self, step: int, kind: str = "train") -> bool:
        """Whether metrics of this kind were logged for this step."""
        return (step, kind) in self._known_metrics()

    def _known_metrics(self) -> set[tuple[int, str]]:
        if self._logged is None:
            self._logged = {(record["step"], record["kind"]) for record in self.read_metrics()}
        return self._logged

    def read_metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the logged lines in order (of one kind, if given); an unfinished last line is left out.

        Raises:
            UserError: if a line is not JSON or lacks its step or kind.
        """
        if not self.metrics_path.exists():
            return []
        records = list(read_lines(self.metrics_path))
        for number, record in enumerate(records, start=1):
            if not isinstance(record.get("step"), int) or not isinstance(record.get("kind"), str):
                raise UserError(f"{self.metrics_path}, line {number} lacks a whole `step` or a `kind`.")
        return [record for record in records if kind is None or record["kind"] == kind]

    def log_timeline(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Append events to `timeline.jsonl` (`recipes.training.phases.PhaseEvent.to_json`)."""
        append_lines(self.timeline_path, events)

    def read_timeline(self) -> list[dict[str, Any]]:
        """Return the events of `timeline.jsonl` in the order they were logged; none if there is no file.

        An unfinished last line is left out.

        Raises:
            UserError: if a line is not JSON or lacks a key of an event.
        """
        if not self.timeline_path.exists():
            return []
        events = list(read_lines(self.timeline_path))
        for number, event in enumerate(events, start=1):
            if (
                not all(isinstance(event.get(key), int | float) for key in ("start_s", "end_s"))
                or not all(isinstance(event.get(key), str) for key in ("phase", "who"))
                or not isinstance(event.get("step"), int)
            ):
                raise UserError(
                    f"{self.timeline_path}, line {number} is no event: it needs the texts `phase` and `who`, "
                    "the seconds `start_s` and `end_s` and a whole `step`."
                )
        return events

    def truncate_to_step(self, step: int) -> None:
        """Forget everything logged after `step`, the step of the checkpoint training resumes from.

        Lines of `metrics.jsonl` and `timeline.jsonl`, and rollout and window files of later steps are
        removed, so that the resumed run writes each of those steps exactly once. Step -1 forgets all steps
        from 0 on.
        """
        kept = [record for record in self.read_metrics() if record["step"] <= step]
        write_lines(self.metrics_path, kept)
        self._logged = None
        if self.timeline_path.exists():
            write_lines(self.timeline_path, [one for one in self.read_timeline() if one["step"] <= step])
        for number, path in self.step_rollouts() + self.step_windows():
            if number > step:
                path.unlink()

    def write_step_rollouts(self, step: int, rollouts: Iterable[Mapping[str, Any]]) -> Path:
        """Write all rollouts of one optimiser step as one file, replacing an older one; return its path."""
        path = self.rollouts_dir / _STEP_FILE.format(step)
        write_lines(path, rollouts)
        return path

    def step_rollouts(self) -> list[tuple[int, Path]]:
        """Return (step, path) of every per-step rollout file, by step."""
        return _step_files(self.rollouts_dir)

    def write_step_window(self, step: int, groups: Iterable[Mapping[str, Any]]) -> Path:
        """Write the groups of the window that begins with an optimiser step; return the file's path.

        They are JSON-ready, as `recipes.training.saved_windows.window_lines` makes them.
        """
        path = self.windows_dir / _STEP_FILE.format(step)
        write_lines(path, groups)
        return path

    def step_windows(self) -> list[tuple[int, Path]]:
        """Return (step, path) of every window file, by step; none for a run of an earlier version."""
        return _step_files(self.windows_dir)

    def rollouts_path(self, name: str) -> Path:
        """Path of a named rollout file, such as one segmenter's of an evaluation (see `rollouts_name`)."""
        return self.rollouts_dir / f"{rollouts_name(name)}.jsonl"

    def write_report(self, html: str) -> Path:
        """Write `report.html`, whole or not at all; return its path."""
        with atomic_write(self.report_path) as handle:
            handle.write(html)
        return self.report_path


def _step_files(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the per-step files in a folder, by step."""
    found = []
    for path in folder.glob("step-*.jsonl"):
        number = path.stem.removeprefix("step-")
        if number.isdigit():
            found.append((int(number), path))
    return sorted(found)
