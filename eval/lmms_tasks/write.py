"""Write a benchmark as a task of lmms-eval: a folder for `lmms-eval --include_path`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from envs.sample import SampleSource
from eval.answerers.endpoint import asked_policy
from eval.lmms_tasks.functions import metric_name
from eval.lmms_tasks.task import TaskSettings
from eval.metrics import table_for
from eval.protocols import get_protocols
from prompter.errors import UserError, did_you_mean
from prompter.runs.files import atomic_write
from prompter.runs.jsonl import write_lines

METRICS = ("gIoU", "cIoU", "P@0.5", "N-acc", "T-acc", "box-acc@0.5", "parse-failures")
"""Metrics of a protocol that are reported, where it has them."""

_LOWER_IS_BETTER = ("parse-failures", "no-target-answers")


def task_name(benchmark: str) -> str:
    """Name of a benchmark's task, such as prompter_synthetic_aerial_test."""
    return "prompter_" + re.sub(r"\W+", "_", benchmark).strip("_").lower()


def chosen_metrics(protocols: list[str], names: list[str] | None = None) -> list[tuple[str, str]]:
    """(protocol, metric) pairs: those of `names`, or of `METRICS`, that each protocol has.

    Raises:
        UserError: if a protocol is unknown, or no protocol has a metric of that name.
    """
    has: dict[str, list[str]] = {}
    for protocol in get_protocols(protocols):
        has[protocol.name] = list(protocol.metrics(table_for([], [protocol])))
    known = {metric for metrics in has.values() for metric in metrics}
    for name in names or ():
        if name not in known:
            raise UserError(f"no chosen protocol has a metric {name!r}.{did_you_mean(name, known)}")
    return [
        (protocol, metric)
        for protocol, metrics in has.items()
        for metric in names or METRICS
        if metric in metrics
    ]


def write_task(folder: Path, settings: TaskSettings, source: SampleSource, limit: int | None = None) -> Path:
    """Write the YAML of a task, its settings and its records; return the path of the YAML.

    Args:
        folder: for `--include_path`; may hold other tasks.
        settings: of the task.
        source: its benchmark, opened.
        limit: only the first so many samples.

    Raises:
        UserError: if a policy option is bad.
    """
    name = task_name(settings.benchmark)
    _, policy = asked_policy(settings.policy_options)
    settings_file, records = (folder / f"{name}{ending}" for ending in (".json", ".jsonl"))
    total = len(source) if limit is None else min(limit, len(source))
    with atomic_write(settings_file) as handle:
        json.dump(settings.model_dump(mode="json"), handle, indent=1, ensure_ascii=False)
    place = str(settings_file.resolve())
    write_lines(
        records,
        (
            {"task_file": place, "index": index, "sample_id": sample.sample_id, "query": sample.query}
            for index in range(total)
            for sample in [source[index]]
        ),
    )
    target = folder / f"{name}.yaml"
    with atomic_write(target) as handle:
        handle.write(_yaml(name, settings, records, policy.settings.max_new_tokens))
    return target


def _yaml(name: str, settings: TaskSettings, records: Path, max_new_tokens: int) -> str:
    """The task's YAML. Values are written as JSON, which YAML reads; `!function` is lmms-eval's own tag."""
    functions = "eval.lmms_tasks.functions"
    lines = [
        f"# {settings.benchmark}, written by `prompter lmms-task`.",
        f"task: {name}",
        "dataset_path: json",
        f"dataset_kwargs: {json.dumps({'data_files': {'test': str(records.resolve())}})}",
        "test_split: test",
        "output_type: generate_until",
        *(
            f"{key}: !function {functions}.{key}"
            for key in ("doc_to_visual", "doc_to_text", "doc_to_messages", "doc_to_target", "process_results")
        ),
        "generation_kwargs:",
        "  until: []",  # the default ends an answer at its first empty line
        f"  max_new_tokens: {max_new_tokens}",
        "  temperature: 0",
        "  do_sample: false",
        "cluster_key: image",
        "metric_list:",
    ]
    for protocol, metric in settings.metrics:
        lines += [
            f"  - metric: {json.dumps(metric_name(protocol, metric))}",
            f"    aggregation: !function {functions}.aggregate",
            f"    higher_is_better: {json.dumps(metric not in _LOWER_IS_BETTER)}",
        ]
    return "\n".join(lines) + "\n"
