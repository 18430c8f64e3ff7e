"""What an audit reads: the rollouts of several evaluations of one benchmark, query by query.

A *predictor* is one file of rollouts: the answers of a policy through one segmenter. A *policy* is one
source of answers, however many segmenters drew them: files that share it are not independent of each
other, so each policy has one vote.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.rollout import Rollout
from eval.results import evaluation_files
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from rewards.replay import read_rollouts


@dataclass(frozen=True)
class Predictor:
    """One file of rollouts.

    Args:
        name: "run/segmenter", unique in an audit.
        policy: number of its policy, from 0; predictors of one policy share it.
        path: the file.
    """

    name: str
    policy: int
    path: Path


@dataclass(frozen=True)
class Audited:
    """The evaluations that an audit compares.

    Args:
        asked: `benchmark` ("NAME:SPLIT"), `dataset_options` and `skip_bad`, as all their configs say.
        policies: a name per policy, in the order of `Predictor.policy`.
        predictors: one per file of rollouts.
    """

    asked: Mapping[str, Any]
    policies: tuple[str, ...]
    predictors: tuple[Predictor, ...]

    @property
    def benchmark(self) -> str:
        """ "NAME:SPLIT" that all of them were run on."""
        return str(self.asked["benchmark"])


def open_runs(folders: Sequence[Path]) -> Audited:
    """Open the runs of an audit.

    Two runs are of one policy when their configs name the same policy with the same options.

    Raises:
        UserError: if a folder is no evaluation, is given twice, or is one of another benchmark.
    """
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise UserError("A run is given twice; name each run once.")
    names = _short_names(paths)
    policies: dict[str, str] = {}  # identity -> name
    predictors: list[Predictor] = []
    first: dict[str, Any] = {}
    for path, name in zip(paths, names, strict=True):
        run = RunFolder.open(path)
        config = run.read_config()
        if not isinstance(config.get("benchmark"), str) or not isinstance(config.get("policy"), str):
            raise UserError(
                f"{run.config_path} names no benchmark and policy; was it written by `prompter eval`?"
            )
        asked = {key: config.get(key) for key in ("benchmark", "dataset_options", "skip_bad")}
        first = first or asked
        for key, value in asked.items():
            if value != first[key]:
                raise UserError(
                    f"{path} was evaluated with {key} = {value!r}, but {paths[0]} with {first[key]!r}; "
                    f"an audit compares answers to the same questions."
                )
        identity = json.dumps([config["policy"], config.get("policy_options")], sort_keys=True)
        policies.setdefault(identity, str(config.get("label") or name))
        number = list(policies).index(identity)
        predictors += [Predictor(f"{name}/{file.stem}", number, file) for file in evaluation_files(run)]
    if len(predictors) < 2:
        raise UserError(
            "An audit needs at least two files of rollouts: several runs, or a run with several segmenters."
        )
    return Audited(first, tuple(policies.values()), tuple(predictors))


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as many parents as tell them apart."""
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def aligned(predictors: Sequence[Predictor]) -> Iterator[tuple[Rollout, ...]]:
    """Yield, for each query that all predictors hold, their rollouts of it, in the order of `predictors`.

    The files are read side by side, one query at a time; where some runs were limited to fewer queries,
    the queries of the shortest are yielded.

    Raises:
        UserError: if the files hold different queries at one line, or different labels of a query.
    """
    files = [read_rollouts(predictor.path) for predictor in predictors]
    for number, rollouts in enumerate(zip(*files, strict=False), start=1):
        first = rollouts[0]
        for predictor, other in zip(predictors, rollouts, strict=True):
            if (other.sample_id, other.image_id, other.image_wh) != (
                first.sample_id,
                first.image_id,
                first.image_wh,
            ):
                raise UserError(
                    f"{predictor.path}, line {number} is about sample {other.sample_id!r}, but "
                    f"{predictors[0].path} about {first.sample_id!r}; the runs must ask the same questions "
                    f"in the same order."
                )
            if other.target != first.target:
                raise UserError(
                    f"{predictor.path}, line {number}: the label of sample {first.sample_id!r} is not that "
                    f"of {predictors[0].path}; was the benchmark changed between the runs?"
                )
        if first.target is None:
            raise UserError(
                f"{predictors[0].path}, line {number}: sample {first.sample_id!r} has boxes and no mask; "
                f"only masks can be audited."
            )
        yield rollouts


def shortest(predictors: Sequence[Predictor]) -> tuple[int, int]:
    """(fewest, most) queries that a file holds; they differ where runs were limited."""
    counts = [sum(1 for _ in open(predictor.path, "rb")) for predictor in predictors]
    return min(counts), max(counts)


def batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of up to `size` items, in order."""
    while batch := list(itertools.islice(items, size)):
        yield batch
