"""Whether a number moves when nothing that matters changes: batch size, order of the samples, engine.

The same policy answers the same questions under several settings; each setting is an evaluation in a
folder of its own, so it is resumed, scored and looked at like any other. Then every pair of settings is
compared sample by sample: which answers differ, which IoUs differ, and by how much at worst.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.rollout import Rollout
from envs.sample import Sample
from eval.runner import Samples
from prompter.errors import UserError
from prompter.runs.tables import text_table
from prompter.types import Reading
from rewards.box import box_iou
from rewards.mask import mask_iou
from rewards.replay import read_rollouts

BATCHES = (1, 8, 32)
"""Batch sizes that are compared; the last one also with the samples in another order."""

ORDER_SEED = 0
"""Seed of the other order."""

_IDS_SHOWN = 8


@dataclass(frozen=True)
class Setting:
    """One way of evaluating that should make no difference.

    Args:
        batch: questions answered together.
        shuffled: the samples come in another order, so that others share a batch.
        backend: the sampler, `hf` or `vllm`; "" for a policy that no sampler of ours draws from.
    """

    batch: int
    shuffled: bool = False
    backend: str = ""

    @property
    def name(self) -> str:
        """As tables show it: "vllm, batch 32, shuffled"."""
        parts = [self.backend, f"batch {self.batch}", "shuffled" if self.shuffled else ""]
        return ", ".join(part for part in parts if part)

    @property
    def folder(self) -> str:
        """Name of its run folder: "vllm-batch-32-shuffled"."""
        return self.name.replace(", ", "-").replace(" ", "-")


def settings_of(backends: Sequence[str]) -> list[Setting]:
    """The settings that are compared: for each backend every batch size, and the largest shuffled."""
    return [
        Setting(batch, shuffled, backend)
        for backend in backends
        for batch, shuffled in [*((batch, False) for batch in BATCHES), (BATCHES[-1], True)]
    ]


class Shuffled:
    """Samples in another order.

    Args:
        samples: what is reordered.
        count: how many of them, from the first, take part.
        seed: of the order.
    """

    def __init__(self, samples: Samples, count: int, seed: int = ORDER_SEED) -> None:
        self._samples = samples
        self._order = np.random.default_rng(seed).permutation(count).tolist()

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int, /) -> Sample:
        return self._samples[self._order[index]]


@dataclass(frozen=True)
class _Outcome:
    """What one setting gave for one sample: its text, what was read in it, and an IoU per executor.

    An IoU is None where the segmenter failed.
    """

    text: str
    reading: Reading
    ious: Mapping[str, float | None]


def compare_settings(runs: Mapping[Setting, Mapping[str, Path]]) -> dict[str, Any]:
    """Compare evaluations of the same samples, every setting with every other.

    Args:
        runs: setting -> executor name -> its file of rollouts.

    Returns:
        JSON-ready: `samples` (how many); `settings`, each with its fields, its `name`, its `folder` and
        its `mean_iou` per executor; `pairs`, each with `settings` (two names), `answers` and `ious`
        (how many samples differ; the latter per executor), `worst_iou_difference` per executor (None if
        a segmenter failed under one setting alone) and `differing`: per sample that differs its
        `sample_id`, both `completions` and both `ious` per executor.

    Raises:
        UserError: if the runs do not hold the same samples, or one holds a sample twice.
    """
    outcomes = {setting: _outcomes(files) for setting, files in runs.items()}
    first = next(iter(outcomes.values()))
    for setting, found in outcomes.items():
        if found.keys() != first.keys():
            raise UserError(
                f"The runs hold different samples ({setting.name} has {len(found)}, another {len(first)}); "
                f"evaluate all settings on the same benchmark, into a new folder."
            )
    return {
        "samples": len(first),
        "settings": [
            {
                "name": setting.name,
                "backend": setting.backend or None,
                "batch": setting.batch,
                "shuffled": setting.shuffled,
                "folder": setting.folder,
                "mean_iou": _mean_ious(found),
            }
            for setting, found in outcomes.items()
        ],
        "pairs": [
            {"settings": [one.name, other.name], **_differences(outcomes[one], outcomes[other])}
            for one, other in itertools.combinations(outcomes, 2)
        ],
    }


def moves(comparison: Mapping[str, Any]) -> bool:
    """Whether any sample differs between any two settings."""
    return any(pair["differing"] for pair in comparison["pairs"])


def groups_of(comparison: Mapping[str, Any]) -> list[list[str]]:
    """The names of the settings in groups that agree on every sample, in order."""
    equal = {tuple(pair["settings"]) for pair in comparison["pairs"] if not pair["differing"]}
    groups: list[list[str]] = []
    for setting in comparison["settings"]:
        name = setting["name"]
        for group in groups:
            if (group[0], name) in equal:
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def comparison_text(comparison: Mapping[str, Any]) -> str:
    """A comparison as text tables: the settings, the pairs, and the samples that differ."""
    settings, pairs = comparison["settings"], comparison["pairs"]
    executors = list(settings[0]["mean_iou"])
    lines = [f"{comparison['samples']} samples, {len(settings)} settings, {len(pairs)} pairs"]
    rows = [["setting", *(f"mean IoU, {name}" for name in executors)]]
    for setting in settings:
        rows.append([setting["name"], *(_number(setting["mean_iou"][name]) for name in executors)])
    lines += [f"  {line}" for line in text_table(rows, numbers=True)]
    rows = [["differing samples", "answers"]]
    for name in executors:
        rows[0] += [f"IoUs, {name}", "worst"]
    for pair in pairs:
        row = [" | ".join(pair["settings"]), str(pair["answers"])]
        for name in executors:
            row += [str(pair["ious"][name]), _number(pair["worst_iou_difference"][name])]
        rows.append(row)
    lines += [f"  {line}" for line in text_table(rows, numbers=True)]
    alike = groups_of(comparison)
    firsts = {group[0] for group in alike}
    for pair in pairs:
        if pair["differing"] and firsts.issuperset(pair["settings"]):
            ids = [one["sample_id"] for one in pair["differing"]]
            more = f", … {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else ""
            lines.append(f"  {' | '.join(pair['settings'])}: {', '.join(ids[:_IDS_SHOWN])}{more}")
    if moves(comparison):
        lines += [
            "  something moves; alike in every sample are:",
            *(f"    {'; '.join(group)}" for group in alike),
        ]
    else:
        lines.append("  nothing moves")
    return "\n".join(lines)


def _outcomes(files: Mapping[str, Path]) -> dict[str, _Outcome]:
    """What a run gave, by sample id; its executors' files hold the same answers in the same order."""
    found: dict[str, _Outcome] = {}
    readers: list[Iterator[Rollout]] = [read_rollouts(path) for path in files.values()]
    for rollouts in zip(*readers, strict=True):
        first = rollouts[0]
        if first.sample_id in found:
            raise UserError(
                f"A run holds the sample {first.sample_id!r} twice, so runs cannot be compared by sample."
            )
        ious = {name: _iou(rollout) for name, rollout in zip(files, rollouts, strict=True)}
        found[first.sample_id] = _Outcome(first.completion, first.reading, ious)
    return found


def _iou(rollout: Rollout) -> float | None:
    return box_iou(rollout) if rollout.target is None else mask_iou(rollout)


def _mean_ious(outcomes: Mapping[str, _Outcome]) -> dict[str, float | None]:
    columns: dict[str, list[float]] = {}
    for outcome in outcomes.values():
        for name, iou in outcome.ious.items():
            columns.setdefault(name, []).extend([] if iou is None else [iou])
    # `fsum` rounds once, so that the order of the samples does not move the last digit.
    return {name: math.fsum(ious) / len(ious) if ious else None for name, ious in columns.items()}


def _differences(one: Mapping[str, _Outcome], other: Mapping[str, _Outcome]) -> dict[str, Any]:
    """What differs between two settings: the part of a pair after its names, as `compare_settings` has it."""
    executors = list(next(iter(one.values())).ious)
    answers, counts = 0, dict.fromkeys(executors, 0)
    worst: dict[str, float | None] = dict.fromkeys(executors, 0.0)
    differing = []
    for sample_id, left in one.items():
        right = other[sample_id]
        other_answer = (left.text, left.reading) != (right.text, right.reading)
        moved = [name for name in executors if left.ious[name] != right.ious[name]]
        answers += other_answer
        for name in moved:
            counts[name] += 1
            pair, so_far = (left.ious[name], right.ious[name]), worst[name]
            if pair[0] is None or pair[1] is None or so_far is None:
                worst[name] = None
            else:
                worst[name] = max(so_far, abs(pair[0] - pair[1]))
        if other_answer or moved:
            differing.append(
                {
                    "sample_id": sample_id,
                    "completions": [left.text, right.text],
                    "ious": {name: [left.ious[name], right.ious[name]] for name in executors},
                }
            )
    return {"answers": answers, "ious": counts, "worst_iou_difference": worst, "differing": differing}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
