"""`prompter eval --invariance`: one policy under settings that should make no difference, compared."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

from envs.executors.config import ExecutorConfig
from eval.answerers import build_answerer, is_checkpoint
from eval.invariance import (
    ORDER_SEED,
    Setting,
    Shuffled,
    compare_settings,
    comparison_text,
    moves,
    settings_of,
)
from eval.runner import Samples, evaluate
from prompter.runs.files import atomic_write
from recipes.commands.arguments import opened, run_identity
from recipes.commands.output import tell

COMPARISON = "invariance.json"


def run_invariance(
    arguments: argparse.Namespace,
    benchmarks: Sequence[tuple[Samples, str, Path]],
    segmenters: Sequence[ExecutorConfig | None],
    options: Mapping[str, Any],
) -> int:
    """Evaluate under every setting, compare, print and write `invariance.json` and `invariance.txt`.

    Args:
        arguments: of `prompter eval`.
        benchmarks: (samples, name as the user wrote it, folder) of each benchmark.
        segmenters: configs as `parse_segmenters` returns them.
        options: of the policy.

    Returns:
        0, or 1 if anything moves.
    """
    settings = settings_of(_backends(arguments.policy, options))
    runs: dict[str, dict[Setting, Mapping[str, Path]]] = {text: {} for _, text, _ in benchmarks}
    with opened(segmenters) if _encoded_alone(segmenters) else nullcontext() as kept:
        for backend, group in groupby(settings, key=lambda setting: setting.backend):
            chosen = _with_sampler(options, backend)
            with closing(build_answerer(arguments.policy, chosen)) as answerer:
                for setting in group:
                    if hasattr(answerer, "forget"):
                        answerer.forget()
                    for samples, text, folder in benchmarks:
                        total = min(len(samples), arguments.limit or len(samples))
                        identity = run_identity(arguments, text, arguments.policy, chosen, segmenters)
                        order = f"shuffled:{ORDER_SEED}" if setting.shuffled else "as given"
                        print(f"{text}: {setting.name}", flush=True)
                        with nullcontext(kept) if kept else opened(_without_disk_cache(segmenters)) as named:
                            runs[text][setting] = evaluate(
                                Shuffled(samples, total) if setting.shuffled else samples,
                                answerer,
                                named,
                                folder / setting.folder,
                                config={**identity, "order": order},
                                limit=arguments.limit,
                                chunk=setting.batch,
                                keep_instances=arguments.keep_instances,
                            ).rollouts
    return max(_report(runs[text], text, arguments.policy, folder) for _, text, folder in benchmarks)


def _report(runs: Mapping[Setting, Mapping[str, Path]], benchmark: str, policy: str, folder: Path) -> int:
    comparison = {"benchmark": benchmark, "policy": policy, **compare_settings(runs)}
    text = f"{benchmark}: {comparison_text(comparison)}\n"
    with atomic_write(folder / COMPARISON) as handle:
        json.dump(comparison, handle, indent=1, ensure_ascii=False)
        handle.write("\n")
    with atomic_write((folder / COMPARISON).with_suffix(".txt")) as handle:
        handle.write(text)
    tell(**{benchmark: {"folder": folder, "comparison": comparison}})
    print(f"{text}{folder / COMPARISON}")
    return int(moves(comparison))


def _backends(policy: str, options: Mapping[str, Any]) -> list[str]:
    """The samplers that are compared: the one asked for, else all in-process ones that are installed."""
    if not is_checkpoint(policy):
        return [""]
    given = dict(options.get("sampler") or {}).get("backend")
    if given is not None:
        return [str(given)]
    return ["hf"] if importlib.util.find_spec("vllm") is None else ["hf", "vllm"]


def _with_sampler(options: Mapping[str, Any], backend: str) -> dict[str, Any]:
    """The policy's options with one backend; the rest of its sampler stays as the user wants it."""
    if not backend:
        return dict(options)
    return {**options, "sampler": {**dict(options.get("sampler") or {}), "backend": backend}}


def _encoded_alone(segmenters: Sequence[ExecutorConfig | None]) -> bool:
    """Whether every image is encoded by itself, so that an embedding cannot depend on a setting.

    Then one embedding serves all settings; else each setting encodes anew.
    """
    return all(config is None or config.encode_batch == 1 for config in segmenters)


def _without_disk_cache(segmenters: Sequence[ExecutorConfig | None]) -> list[ExecutorConfig | None]:
    return [
        None if config is None else config.model_copy(update={"cache_disk_mb": 0.0}) for config in segmenters
    ]
