"""Predictions of any program -> a run folder with rollouts, which is scored like any evaluation."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from envs.datasets.reading.records import blaming
from envs.rollout import Rollout
from envs.rollouts import make_rollouts
from envs.sample import Sample, SampleSource
from eval.submission.forms import Form, Numbering, open_form
from eval.submission.matching import BenchmarkIds, Match, benchmark_ids, match, some
from eval.submission.records import Notes, Prediction, RecordRules, read_prediction, rollout_prediction
from prompter.errors import UserError
from prompter.runs.files import sha256_of
from prompter.runs.jsonl import write_lines
from prompter.runs.run_folder import RunFolder
from prompter.types import Answer, PromptSet

NOT_GIVEN = "no prediction was given for this sample"
"""The error stored with a sample that is left out for want of a prediction."""


@dataclass(frozen=True)
class SubmissionRules:
    """What is done about predictions that do not fit; every exception is counted.

    Args:
        missing: a sample without a prediction is an `error`, an `empty` answer ("nothing there"), or left out
            of every metric (`skip`), which marks the result as incomplete.
        unknown: a prediction for no sample of the benchmark is an `error`, or left out (`skip`).
        numbering: of a folder of PNG files.
        reading: how records are read.
    """

    missing: Literal["error", "empty", "skip"] = "error"
    unknown: Literal["error", "skip"] = "error"
    numbering: Numbering = "files"
    reading: RecordRules = field(default_factory=RecordRules)


@dataclass(frozen=True)
class Submission:
    """What was made of predictions.

    Args:
        folder: the run folder, with its config and rollouts.
        exceptions: one sentence per kind of exception that was made.
        has_text: whether a prediction brought the text of its answer.
    """

    folder: RunFolder
    exceptions: Sequence[str]
    has_text: bool


def submit(
    predictions: Path,
    source: SampleSource,
    out: Path,
    *,
    executor: str,
    config: Mapping[str, Any],
    rules: SubmissionRules,
    id_map: Mapping[str, str] | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> Submission:
    """Write the run folder of a submission: its config and one file of rollouts.

    Args:
        predictions: file or folder (`eval.submission.forms`).
        source: the benchmark; targets come from here alone.
        out: a new folder; nothing is left in it if the predictions cannot be read.
        executor: name under which the masks are scored.
        config: what identifies the run, JSON-ready; what was done about ids is added.
        rules: what is done about predictions that do not fit.
        id_map: id in the predictions -> sample id.
        limit: only the first so many samples of the benchmark.
        progress: show a progress bar on stderr.

    Raises:
        UserError: if the predictions cannot be read or do not fit the benchmark.
    """
    total = len(source) if limit is None else min(limit, len(source))
    if total <= 0:
        raise UserError("There is nothing to score: the benchmark holds no sample, or the limit is 0.")
    RunFolder(out).check_usable()
    ids = benchmark_ids(source)
    form = open_form(predictions, ids.samples, rules.numbering)
    found = match(form, ids, id_map)
    missing = [one for one, position in ids.samples.items() if position < total and one not in found.records]
    _check_ids(form, found, missing, ids, source, rules)
    notes = Notes()
    has_text = False

    def rollouts() -> Iterator[Mapping[str, Any]]:
        nonlocal has_text
        for position in tqdm(range(total), unit="query", disable=not progress):
            sample = source[position]
            prediction = _prediction(form, found, sample, rules, notes)
            has_text |= bool(prediction.text)
            yield _rollout(sample, prediction, executor).to_json()

    said = []
    if found.unknown:
        said.append(f"{len(found.unknown)} unknown ids were left out: {some(found.unknown)}")
    if missing:
        how = "count as empty answers" if rules.missing == "empty" else "are left out of every metric"
        said.append(f"{len(missing)} samples without a prediction {how}: {some(missing)}")
    is_new = not out.exists()
    folder = RunFolder.create(out)
    try:
        write_lines(folder.rollouts_path(executor), rollouts())
    except BaseException:
        shutil.rmtree(out if is_new else folder.rollouts_dir)
        raise
    said += notes.lines()
    identity = {**config, "predictions_sha256": _digest(predictions), "samples": total, "exceptions": said}
    folder.write_config(identity)
    return Submission(folder, said, has_text)


def _check_ids(
    form: Form,
    found: Match,
    missing: list[str],
    ids: BenchmarkIds,
    source: SampleSource,
    rules: SubmissionRules,
) -> None:
    name = f"{source.name}:{source.split}"
    if found.unknown and rules.unknown == "error":
        raise UserError(
            f"{form.path} holds predictions for ids that {name} does not have: {some(found.unknown)}; its "
            f"ids are like {some(list(ids.samples))}. --questions writes all, --ids maps others to them, "
            f"--unknown skip leaves such predictions out."
        )
    if missing and rules.missing == "error":
        raise UserError(
            f"{form.path} holds no prediction for {len(missing)} of the samples of {name}: {some(missing)}. "
            f"Where nothing was found, give an empty one; --missing empty counts absent ones as that, "
            f"--missing skip leaves them out."
        )


def _prediction(form: Form, found: Match, sample: Sample, rules: SubmissionRules, notes: Notes) -> Prediction:
    positions = found.records.get(sample.sample_id)
    if positions is None:
        return Prediction(PromptSet(), error=NOT_GIVEN if rules.missing == "skip" else None)
    records = [(form.where(position), form.record(position)) for position in positions]
    ours = [(where, record) for where, record in records if "prediction" in record and "completion" in record]
    if not ours:
        return read_prediction(records, sample.mask_hw, form.folder, rules.reading, notes)
    where, record = ours[0]
    if len(records) > 1:
        raise UserError(f"{where}: its sample has other lines too ({records[1][0]}); keep one of them.")
    with blaming(where):
        rollout = Rollout.from_json(record)
        if (rollout.dataset, rollout.split) != (sample.dataset, sample.split):
            raise ValueError(f"it is a rollout of {rollout.dataset}:{rollout.split}, not of this benchmark")
        return rollout_prediction(rollout)


def _rollout(sample: Sample, prediction: Prediction, executor: str) -> Rollout:
    """The rollout of a prediction, with the sample's target."""
    answer = Answer(
        prediction.text, prediction.reading, prediction.tokens, prediction.masks, prediction.scores
    )
    [rollout] = make_rollouts(
        [sample], [answer], None, name=executor, keep_instances=prediction.has_instances
    )
    if prediction.error is not None:
        rollout = replace(rollout, prediction=None, executor_error=prediction.error)
    return rollout


def _digest(predictions: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    if predictions.is_file():
        return sha256_of(predictions)
    digest = hashlib.sha256()
    for file in sorted(path for path in predictions.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(predictions).as_posix()}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()
