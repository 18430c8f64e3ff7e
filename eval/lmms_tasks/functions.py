"""The functions that a task's YAML names: lmms-eval calls them with its records ("docs").

A record is {"task_file", "index", "sample_id", "query"}, as `eval.lmms_tasks.write` writes it. What
`process_results` gives for a metric is the rollout of the answer, so that every metric is computed by our own
protocols over all rollouts (`aggregate`), not as a mean of parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from envs.rollout import Rollout
from envs.rollouts import make_rollouts
from eval.lmms_tasks.task import open_task
from eval.metrics import table_for
from eval.protocols import apply, get_protocols
from eval.protocols.base import ScoringProtocol
from eval.query_table import QueryTable
from prompter.runs.jsonl import to_line
from prompter.types import Answer
from rewards.mask import mask_iou


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The image as the model is to see it: PIL RGB, at the size its coordinates refer to."""
    task = open_task(doc["task_file"])
    return [task.policy.model_image(task.sample(doc).load_image().convert("RGB"))]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The instructions and the question as one text, for models without a system turn."""
    turns = open_task(doc["task_file"]).policy.messages(doc["query"])
    texts = [part["text"] for turn in turns for part in turn["content"] if part["type"] == "text"]
    return "\n\n".join(text for text in texts if text)


def doc_to_messages(
    doc: dict[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The chat, system turn included, for models that lmms-eval asks by chat."""
    [image] = doc_to_visual(doc)
    return [
        {
            "role": turn["role"],
            "content": [
                {"type": "image", "url": image} if part["type"] == "image" else dict(part)
                for part in turn["content"]
            ],
        }
        for turn in open_task(doc["task_file"]).policy.messages(doc["query"])
    ]


def doc_to_target(doc: dict[str, Any]) -> str:
    """Nothing: targets are masks, which no log should hold; the sample's id stands in."""
    return str(doc["sample_id"])


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read and segment one answer: metric -> {"metric", "rollout", "image"}, and the reward as "score".

    Args:
        doc: the record.
        results: the model's answer, as the only element.
    """
    task = open_task(doc["task_file"])
    sample = task.sample(doc)
    text = str(results[0]) if results else ""
    answer = Answer(text, task.policy.parse(text, sample.image_wh))
    [rollout] = make_rollouts([sample], [answer], task.executor, name=task.settings.executor.name)
    shared = {"rollout": rollout.to_json(), "image": sample.image_id}
    values = {}
    for protocol, metric in task.settings.metrics:
        value: dict[str, Any] = {"metric": [protocol, metric], **shared}
        if (protocol, metric) == ("strict", "gIoU") and sample.target is not None:
            value["score"] = mask_iou(rollout)  # lmms-eval makes a standard error of it
        values[metric_name(protocol, metric)] = value
    return values


def metric_name(protocol: str, metric: str) -> str:
    """What a metric is called in lmms-eval's tables."""
    return f"{protocol} {metric}"


def aggregate(values: Sequence[Mapping[str, Any]]) -> float:
    """A metric over all answers, in [0, 1]; NaN where it has no value (N-acc without a no-target query).

    Args:
        values: what `process_results` gave for one metric.
    """
    protocol_name, metric = values[0]["metric"]
    [protocol] = get_protocols([protocol_name])
    value = apply(protocol, _table([value["rollout"] for value in values], protocol))[metric].value()
    return float("nan") if value is None else float(value)


_last: dict[tuple[str, str], QueryTable] = {}
"""The table made last, by its rollouts' digest and its protocol, whose metrics ask for it in turn."""


def _table(rollouts: Sequence[Mapping[str, Any]], protocol: ScoringProtocol) -> QueryTable:
    digest = hashlib.sha256("".join(map(to_line, rollouts)).encode()).hexdigest()
    if (digest, protocol.name) not in _last:
        _last.clear()
        _last[digest, protocol.name] = table_for(map(Rollout.from_json, rollouts), [protocol])
    return _last[digest, protocol.name]
