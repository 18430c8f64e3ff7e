"""A task of lmms-eval as we need it: which benchmark, how it is asked, who segments, what is measured.

lmms-eval hands its functions one record ("doc") at a time and nothing else, so a record names the file that
holds the settings of its task; the benchmark is opened and the segmenter loaded once per process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field

from envs.datasets import open_dataset, split_name
from envs.datasets.reading.records import blaming
from envs.executors import open_executor
from envs.executors.base import Executor
from envs.executors.config import ExecutorConfig
from envs.sample import Sample, SampleSource
from eval.answerers.endpoint import asked_policy
from prompter.errors import UserError
from prompter.policy import Policy
from prompter.runs.config import StrictModel


class TaskSettings(StrictModel):
    """What the settings file of a task holds.

    Args:
        benchmark: NAME:SPLIT.
        dataset_options: of the dataset's opener.
        policy_options: how models are asked and read, as `--policy-option` of an endpoint: `frame`, `factor`,
            `image`, `action_space`, …, or `protocol_from`.
        executor: the frozen segmenter; the family `box` scores boxes.
        metrics: (protocol, metric) pairs.
    """

    benchmark: str
    dataset_options: dict[str, Any] = Field(default_factory=dict)
    policy_options: dict[str, Any] = Field(default_factory=dict)
    executor: ExecutorConfig = ExecutorConfig(family="box")
    metrics: list[tuple[str, str]]


@dataclass(frozen=True)
class OpenTask:
    """A task that is ready to ask and score. See `TaskSettings`."""

    settings: TaskSettings
    source: SampleSource
    policy: Policy
    executor: Executor

    def sample(self, doc: dict[str, Any]) -> Sample:
        """The sample of a record.

        Raises:
            UserError: if the benchmark has changed since the task was written.
        """
        index = int(doc["index"])
        sample = self.source[index] if index < len(self.source) else None
        if sample is None or sample.sample_id != doc["sample_id"]:
            raise UserError(
                f"{self.settings.benchmark} does not hold sample {doc['sample_id']!r} at place {index} "
                f"any more; write the task again with `prompter lmms-task`."
            )
        return sample


def open_benchmark(settings: TaskSettings) -> SampleSource:
    """Open the benchmark of a task.

    Raises:
        UserError: if it names no split, or cannot be opened.
    """
    name, split = split_name(settings.benchmark)
    if not split:
        raise UserError(f"The benchmark {settings.benchmark!r} names no split; write it as NAME:SPLIT.")
    return open_dataset(name, split, **settings.dataset_options)


@lru_cache(maxsize=8)
def open_task(settings_file: str) -> OpenTask:
    """Open the task of a settings file; once per process and file.

    Raises:
        UserError: if the file is missing or bad, or what it names cannot be opened.
    """
    with blaming(f"task {settings_file}"):
        settings = TaskSettings.model_validate(json.loads(Path(settings_file).read_text(encoding="utf-8")))
    return OpenTask(
        settings,
        open_benchmark(settings),
        asked_policy(settings.policy_options)[1],
        open_executor(settings.executor),
    )
