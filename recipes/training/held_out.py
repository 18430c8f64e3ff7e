"""Greedy evaluation of the policy in training, with the evaluator everybody else uses."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.executors.base import Executor
from envs.sample import SampleSource
from eval.answerers import build_answerer
from eval.answerers.base import Answerer
from eval.answerers.baselines import BASELINES
from eval.answerers.checkpoint import SamplerAnswerer
from eval.bootstrap import intervals
from eval.metrics import STRICT, compare, score_file
from eval.runner import evaluate
from prompter.errors import UserError, did_you_mean
from prompter.policy import Policy
from prompter.registry import is_import
from prompter.runs.run_folder import RunFolder
from prompter.sampling.base import Sampler, SamplingSettings
from recipes.config import TrainConfig
from recipes.config_sets import DatasetConfig
from recipes.training.trackers import Mirror

CHUNK = 60
"""Queries answered and segmented at a time."""


class HeldOutEvaluation:
    """Answers the held-out samples and writes `run_dir/eval/NAME`, resumable like any evaluation.

    Args:
        folder: the training run's folder.
        held_out: samples training never sees.
        executors: the segmenters training uses, by name; their embeddings stay cached.
        config: the run.
        others: `eval.others`, opened, by name.
        mirror: where pictures of each evaluation are shown.
    """

    def __init__(
        self,
        folder: RunFolder,
        held_out: SampleSource,
        executors: Mapping[str, Executor],
        config: TrainConfig,
        others: Mapping[str, SampleSource] | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        self.folder, self.held_out, self.executors, self.config = folder, held_out, executors, config
        self.others = others or {}
        self.mirror = mirror

    def evaluate_policy(self, name: str, policy: Policy, sampler: Sampler) -> None:
        """Evaluate the sampler's present version greedily; log its gIoU under that step."""
        answerer = self._answerer(policy, sampler)
        files = self._evaluate(name, answerer, sampler.version)
        if not self.folder.has_metrics(sampler.version, "eval"):
            figures = _figures(files)
            if (against := self._against_best(sampler.version, files)) is not None:
                figures["against_best"] = against
            self.folder.log_metrics(sampler.version, figures, kind="eval")
            if self.mirror is not None:
                self.mirror.show(sampler.version, files, self.held_out)

    def evaluate_others(self, name: str, policy: Policy, sampler: Sampler) -> None:
        """Evaluate the sampler's present version on the further sets, into `eval/NAME-SET` each."""
        answerer = self._answerer(policy, sampler)
        for other, asked in self.config.other_sets.items():
            folder, source = other_name(name, other), self.others[other]
            self._evaluate(folder, answerer, sampler.version, source, asked)

    def _answerer(self, policy: Policy, sampler: Sampler) -> SamplerAnswerer:
        settings = SamplingSettings(max_new_tokens=policy.settings.max_new_tokens, temperature=0.0, n=1)
        return SamplerAnswerer(policy, sampler, settings)

    def _against_best(self, version: int, files: Mapping[str, Path]) -> dict[str, Any] | None:
        """gIoU by the first executor minus that of the best earlier evaluation, on the same queries.

        Returns:
            The step of that one, the difference, and the limits of its paired 95 % interval, drawing images
            (None where there is none); None if there is no earlier evaluation.
        """
        logged = [one for one in self.folder.read_metrics("eval") if one["step"] < version]
        known = [(one["gIoU"], -one["step"]) for one in logged if one.get("gIoU") is not None]
        name, file = next(iter(files.items()))
        if not known:
            return None
        best = -max(known)[1]
        before = RunFolder(self.folder.path / "eval" / evaluation_name(best)).rollouts_path(name)
        if not before.is_file():
            return None
        found = compare(score_file(before, [STRICT]), score_file(file, [STRICT]), metrics=["gIoU"])["gIoU"]
        low, high = (None, None) if found.by_image is None else found.by_image.to_json()
        return {"step": best, "difference": found.difference, "low": low, "high": high}

    def evaluate_references(self) -> None:
        """Evaluate the configured baselines, such as the floor and the ceiling of this set."""
        for name in self.config.eval.references:
            answerer = build_answerer(name)
            try:
                self._evaluate(name.partition(":")[2] or name, answerer, -1)
            finally:
                answerer.close()

    def _evaluate(
        self,
        name: str,
        answerer: Answerer,
        version: int,
        source: SampleSource | None = None,
        asked: DatasetConfig | None = None,
    ) -> Mapping[str, Path]:
        """Evaluate into `eval/NAME` on the held-out set, or on another source."""
        asked = asked or self.config.held_out
        identity: dict[str, Any] = {
            "dataset": asked.name,
            "split": asked.split,
            "answerer": name if version < 0 else self.config.policy.model,
            "policy_version": version,
            "executors": list(self.executors),
        }
        return evaluate(
            self.held_out if source is None else source,
            answerer,
            self.executors,
            self.folder.path / "eval" / name,
            config=identity,
            limit=asked.samples,
            chunk=CHUNK,
            step=version,
        ).rollouts


def evaluation_name(step: int) -> str:
    """Folder under `eval/` of the policy after so many optimiser steps, before training ends."""
    return f"step-{step:06d}" if step else "before"


def other_name(name: str, other: str) -> str:
    """Folder under `eval/` of a further set, evaluated `before` or `after` training."""
    return f"{name}-on-{other}"


def check_references(config: TrainConfig) -> None:
    """Refuse `eval.references` that are no baselines, before any work rather than after all of it.

    Raises:
        UserError: naming the first that is unknown.
    """
    for name in config.eval.references:
        scheme, _, rest = name.partition(":")
        if scheme != "baseline" or not (rest in BASELINES or is_import(rest)):
            known = [f"baseline:{baseline}" for baseline in BASELINES]
            raise UserError(f"eval.references: there is no {name!r}.{did_you_mean(name, known)}")
        BASELINES.resolve(rest)


def forget_evaluations(folder: RunFolder, done: int, last: int) -> None:
    """Remove the evaluations that a resumed run makes again.

    Those of policies after step `done`, which will be trained anew, and the final one if the run goes
    on beyond it. An unfinished evaluation of a policy that stays is resumed.

    Args:
        folder: the training run's folder.
        done: the step the run resumes from.
        last: the step it will end at.
    """
    for path in (folder.path / "eval").glob("*"):
        run = RunFolder(path)
        version = run.read_config().get("policy_version") if run.config_path.exists() else None
        is_after = path.name == "after" or path.name.startswith(other_name("after", ""))
        if isinstance(version, int) and (version > done or (is_after and version < last)):
            shutil.rmtree(path)


def _figures(files: Mapping[str, Path]) -> dict[str, Any]:
    """Strict figures of the first executor with the 95 % interval of its gIoU, and each executor's gIoU."""
    tables = {name: score_file(path, [STRICT]) for name, path in files.items()}
    ratios = {name: STRICT.metrics(table) for name, table in tables.items()}
    values = {name: {metric: one.value() for metric, one in by.items()} for name, by in ratios.items()}
    first = next(iter(files))
    limits = intervals({"gIoU": ratios[first]["gIoU"]}, tables[first].images)["gIoU"]
    return {
        **values[first],
        "gIoU_interval": None if limits is None else limits.to_json(),
        "by_executor": {name: one["gIoU"] for name, one in values.items()},
    }
