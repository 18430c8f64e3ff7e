"""Runs a benchmark: every question answered once, or looked at several times, every answer segmented
by every executor.

Work is done in chunks of consecutive samples. A chunk's completions are appended to
`completions.jsonl` in one write, then each executor's rollouts to its own file. A run that is
killed at any moment is resumed by running it again: unfinished chunks are cut off and done again
as whole chunks, so batches are the same, no sample is missing or doubled, and the files come out
byte for byte as if nothing had happened. At no time is more than one chunk in memory.
"""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from tqdm import tqdm

from envs.executors.base import Executor
from envs.rollout import Rollout
from envs.rollouts import image_key, make_rollouts
from envs.sample import Sample
from eval.answerers.base import Answerer, LookSettings, able_to_look
from eval.looks.records import looks_line, looks_path
from eval.looks.seconds import ChunkClock
from prompter.errors import UserError
from prompter.runs.files import atomic_write
from prompter.runs.jsonl import append_lines, drop_unfinished_line, keep_first_lines, read_lines
from prompter.runs.memory import give_back_memory
from prompter.runs.run_folder import RunFolder
from prompter.types import (
    Answer,
    Choice,
    ParseFailure,
    reading_from_json,
    reading_to_json,
)
from rewards.mask import mask_iou

COMPLETIONS = "completions.jsonl"
POLICY = "policy.json"

_IMAGE_BYTES = 256 * 2**20
"""Images of a chunk kept decoded at one time; larger chunks are segmented in parts."""


class Samples(Protocol):
    """Samples by position; a list of them, or what `envs.datasets` opens."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class EvaluationRun:
    """A finished evaluation.

    Args:
        folder: the run folder.
        rollouts: executor name -> its file of rollouts; of looks (`eval.looks.records`) where each question
            was looked at several times, from which `eval.looks.combining` makes rollouts.
    """

    folder: RunFolder
    rollouts: Mapping[str, Path]


def evaluate(
    samples: Samples,
    answerer: Answerer,
    executors: Mapping[str, Executor | None],
    out: Path | str,
    *,
    config: Mapping[str, Any],
    limit: int | None = None,
    chunk: int = 32,
    keep_instances: bool = False,
    step: int = -1,
    progress: bool = True,
    notes: Mapping[str, Mapping[str, Any]] | None = None,
    looks: LookSettings | None = None,
) -> EvaluationRun:
    """Answer and segment every sample; resume if `out` holds an unfinished run of the same config.

    Args:
        samples: what to ask; loaded one chunk at a time.
        answerer: who answers.
        executors: executors by name; each gets the same answers and its own rollout file. None takes the
            masks that the answers brought along.
        out: run folder.
        config: what identifies this run (benchmark, policy, executors, …), JSON-ready; written to
            `config.yaml` and compared on resume.
        limit: only the first so many samples.
        chunk: samples per batch. Part of the run's identity: another batch size may change a
            sampler's floating-point results.
        keep_instances: store one mask per predicted instance.
        step: optimiser step stored in the rollouts.
        progress: show a progress bar on stderr.
        notes: file name -> what to keep in it beside the run's config as JSON, unless the folder has it.
        looks: how often to look at each question, and how; None asks once. Part of the run's identity.

    Raises:
        UserError: if `out` holds something else, or a run with another config; if a sample
            cannot be loaded; or if the answerer does not sample, but is to look several times.
    """
    if not executors:
        raise UserError("Name at least one executor to evaluate with.")
    total = len(samples) if limit is None else min(limit, len(samples))
    if total <= 0:
        raise UserError("There is nothing to evaluate: the benchmark holds no sample, or the limit is 0.")
    if looks is not None:
        able_to_look(answerer)
    identity = {**config, "samples": total, "chunk": chunk, "keep_instances": keep_instances}
    if looks is not None:
        identity["looks"] = looks.to_json()
    folder = _open_folder(out, identity)
    for name, content in (notes or {}).items():
        if not (folder.path / name).exists():
            with atomic_write(folder.path / name) as handle:
                json.dump(content, handle, indent=1, ensure_ascii=False)
                handle.write("\n")
    describe = getattr(answerer, "describe", None)
    if callable(describe):
        with atomic_write(folder.path / POLICY) as handle:
            json.dump(describe(), handle, indent=2)
    completions = folder.path / COMPLETIONS
    files = {
        name: folder.rollouts_path(name) if looks is None else looks_path(folder, name) for name in executors
    }
    for path in files.values():
        path.parent.mkdir(exist_ok=True)
    if len(set(files.values())) < len(files):
        raise UserError(f"Two executors would share a file; rename them: {', '.join(executors)}.")

    answered = _keep_whole_chunks(completions, chunk, total)
    segmented = {name: _keep_whole_chunks(path, chunk, total) for name, path in files.items()}
    for name, done in segmented.items():
        if done > answered:
            raise UserError(f"{files[name]} is ahead of {completions}; evaluate into a new folder.")
    start = min(answered, *segmented.values())
    stored = itertools.islice(read_lines(completions), start, None) if answered > start else iter(())
    with tqdm(total=total, initial=start, unit="query", disable=not progress) as bar:
        running = _Running()
        for first in range(start, total, chunk):
            indices = range(first, min(first + chunk, total))
            batch = _load(samples, indices)
            clock = ChunkClock(len(batch))
            if first < answered:
                answers = _stored_answers(batch, stored, completions)
            else:
                answers = _answered(answerer, batch, looks, clock)
                append_lines(completions, map(_completion_line, batch, answers))
            for name, executor in executors.items():
                if first < segmented[name]:
                    continue
                lines = []
                with clock.segmenting(files[name].stem, executor):
                    for group in _segmented(batch, answers, executor, name, step, keep_instances):
                        lines.append(group[0].to_json() if looks is None else looks_line(group))
                        if name == next(iter(executors)) and progress:
                            running.add(group[0])
                append_lines(files[name], lines)
            if looks is not None and first >= answered:
                clock.log(folder)
            bar.set_postfix_str(running.text(), refresh=False)
            bar.update(len(batch))
    give_back_memory()
    return EvaluationRun(folder, files)


def _answered(
    answerer: Answerer, batch: Sequence[Sample], looks: LookSettings | None, clock: ChunkClock
) -> list[list[Answer]]:
    """The answers to each question of a chunk: one, or the greedy one and the sampled ones."""
    if looks is None:
        return [[answer] for answer in answerer.answer(batch)]
    found = able_to_look(answerer).look(batch, looks)
    clock.greedy, clock.sampled = found.greedy_seconds, found.sampled_seconds
    return found.answers


def _segmented(
    batch: Sequence[Sample],
    answers: Sequence[Sequence[Answer]],
    executor: Executor | None,
    name: str,
    step: int,
    keep_instances: bool,
) -> Iterator[list[Rollout]]:
    """Segment a chunk's answers, in parts whose images and masks fit the byte budget, by question."""
    looks = len(answers[0])
    for part in _parts_by_pixels(batch, masks=looks if looks > 1 else 0):
        groups = answers[part]
        rollouts = iter(
            make_rollouts(
                [sample for sample, group in zip(batch[part], groups, strict=True) for _ in group],
                [answer for group in groups for answer in group],
                executor,
                name=name,
                step=step,
                keep_instances=keep_instances,
                keep_stability=looks > 1,
            )
        )
        for group in groups:
            yield list(itertools.islice(rollouts, len(group)))


def _open_folder(out: Path | str, identity: Mapping[str, Any]) -> RunFolder:
    """Create the folder, or accept one that holds an evaluation of the same identity."""
    folder = RunFolder(out)
    if not folder.config_path.exists():
        folder = RunFolder.create(out)
        folder.write_config(identity)
        return folder
    stored = RunFolder.open(out).read_config()
    for key in [*stored, *(key for key in identity if key not in stored)]:
        if stored.get(key) != identity.get(key):
            raise UserError(
                f"{folder.path} holds a run with {key} = {stored.get(key)!r}, not {identity.get(key)!r}; "
                f"evaluate into another folder, or give the same settings to resume."
            )
    return RunFolder.create(out, resume=True)


def _keep_whole_chunks(path: Path, chunk: int, total: int) -> int:
    """Cut a file back to whole chunks; return how many lines (samples) it holds."""
    drop_unfinished_line(path)
    if not path.exists():
        return 0
    with open(path, "rb") as handle:
        lines = sum(1 for _ in handle)
    kept = total if lines >= total else lines // chunk * chunk
    keep_first_lines(path, kept)
    return kept


def _load(samples: Samples, indices: range) -> list[Sample]:
    """Load a chunk's samples; its images are decoded once, within a byte budget."""
    memo = _ImageMemo()
    return [replace(sample, load_image=memo.loader(sample)) for sample in map(samples.__getitem__, indices)]


class _ImageMemo:
    """Keeps the images a chunk used last, so that policy and segmenters share one decoding."""

    def __init__(self) -> None:
        self._images: OrderedDict[str, Image.Image] = OrderedDict()
        self._bytes = 0

    def loader(self, sample: Sample) -> Callable[[], Image.Image]:
        """Return a `load_image` for a sample that looks here first."""
        key, load = image_key(sample), sample.load_image

        def remembered() -> Image.Image:
            if key not in self._images:
                self._images[key] = load()
                self._bytes += _image_bytes(sample)
                while self._bytes > _IMAGE_BYTES and len(self._images) > 1:
                    _, dropped = self._images.popitem(last=False)
                    self._bytes -= dropped.width * dropped.height * 3
            self._images.move_to_end(key)
            return self._images[key]

        return remembered


def _image_bytes(sample: Sample) -> int:
    return sample.image_wh[0] * sample.image_wh[1] * 3


def _parts_by_pixels(batch: Sequence[Sample], *, masks: int = 0) -> Iterator[slice]:
    """Split a chunk so that the distinct images of a part, and so many masks of each question, fit the byte
    budget (at least one question each)."""
    start, held = 0, 0
    keys: set[str] = set()
    for index, sample in enumerate(batch):
        key = image_key(sample)
        drawn = masks * sample.image_wh[0] * sample.image_wh[1]
        needed = drawn + (_image_bytes(sample) if key not in keys else 0)
        if index > start and needed and held + needed > _IMAGE_BYTES:
            yield slice(start, index)
            start, held = index, 0
            keys.clear()
        if key not in keys:
            keys.add(key)
            held += _image_bytes(sample)
        held += drawn
    yield slice(start, len(batch))


def _completion_line(sample: Sample, answers: Sequence[Answer]) -> dict[str, Any]:
    """One line per question; several answers are kept as a list, the greedy one first."""
    if len(answers) == 1:
        return {"sample_id": sample.sample_id, **_answer_json(answers[0])}
    return {"sample_id": sample.sample_id, "looks": list(map(_answer_json, answers))}


def _answer_json(answer: Answer) -> dict[str, Any]:
    return {
        "completion": answer.text,
        **reading_to_json(answer.reading),
        "tokens": answer.tokens,
        **({} if answer.masks is None else {"masks": list(answer.masks), "scores": list(answer.scores)}),
        **({} if answer.choice is None else {"choice": answer.choice.to_json()}),
        **({} if answer.offset_xy is None else {"offset_xy": list(answer.offset_xy)}),
    }


def _stored_answers(
    batch: Sequence[Sample], lines: Iterator[dict[str, Any]], path: Path
) -> list[list[Answer]]:
    """Read a chunk's completions back, checking that they belong to its samples."""
    answers = []
    for sample, line in zip(batch, lines, strict=False):
        if line.get("sample_id") != sample.sample_id:
            raise UserError(
                f"{path} holds an answer to sample {line.get('sample_id')!r} where {sample.sample_id!r} "
                f"was expected; the benchmark has changed, evaluate into a new folder."
            )
        answers.append([_answer_from_json(one) for one in line.get("looks", [line])])
    return answers


def _answer_from_json(data: Mapping[str, Any]) -> Answer:
    reading = reading_from_json(data, data["completion"])
    masks = tuple(data["masks"]) if "masks" in data else None
    choice = Choice.from_json(data["choice"]) if "choice" in data else None
    scores, moved = tuple(data.get("scores", ())), data.get("offset_xy")
    offset_xy = None if moved is None else (int(moved[0]), int(moved[1]))
    return Answer(data["completion"], reading, data["tokens"], masks, scores, choice, offset_xy)


class _Running:
    """What the progress bar says about the samples done since the start of this process."""

    def __init__(self) -> None:
        self._scores: list[float] = [0.0, 0.0]  # sum, count
        self._failed = self._seen = 0

    def add(self, rollout: Rollout) -> None:
        """Count one rollout; one without a score (no mask, or the segmenter failed) is left out of gIoU."""
        score = None if rollout.target is None else mask_iou(rollout)
        if score is not None:
            self._scores[0] += score
            self._scores[1] += 1
        self._seen += 1
        self._failed += isinstance(rollout.reading, ParseFailure)

    def text(self) -> str:
        """Running gIoU and share of parse failures, in per cent."""
        if not self._seen:
            return ""
        failures = f"parse failures {100 * self._failed / self._seen:.1f} %"
        if not self._scores[1]:
            return failures
        return f"gIoU {100 * self._scores[0] / self._scores[1]:.1f}, {failures}"
