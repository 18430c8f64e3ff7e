"""What `prompter bench step` prints and writes: a row per way, each part's share, and what was checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from envs.executors.families import resolve_dtype
from prompter.runs.tables import text_table
from recipes.benchmarks.floor import Floor
from recipes.benchmarks.step import StepBenchmark
from recipes.benchmarks.ways import Measured


def describe_step(measured: Sequence[Measured], floor: Floor) -> dict[str, Any]:
    """Everything that was measured, JSON-ready.

    Args:
        measured: in the order of the rows; unless rows were left out, the stock way is first.
        floor: of one step.

    Returns:
        Keys: `ways` (a row each: seconds a step by part, completions per second, `over_first`,
        `over_row_before`, `share` of the seconds a step that all parts together save), `floor`,
        `completions_per_step`.
    """
    first, last = (_per_step(one) for one in (measured[0], measured[-1]))
    completions = measured[0].completions / len(measured[0].seconds)
    rows = []
    for number, one in enumerate(measured):
        seconds, before = _per_step(one), _per_step(measured[max(0, number - 1)])
        rows.append(
            {
                "title": one.way.title,
                "seconds": seconds,
                "seconds_of_steps": [round(value, 4) for value in one.seconds],
                "sample_seconds": one.sample[one.typical],
                "segment_seconds": one.segment[one.typical],
                "completions_per_second": one.rate,
                "over_first": first / seconds,
                "over_row_before": before / seconds,
                "share": (before - seconds) / (first - last) if first > last else 0.0,
                "tokens_per_completion": one.tokens / one.completions,
                "images_encoded": one.encodes / len(one.seconds),
            }
        )
    least = {**asdict(floor), "seconds": floor.seconds, "completions_per_second": completions / floor.seconds}
    return {"ways": rows, "floor": least, "completions_per_step": completions}


def describe_environment(benchmark: StepBenchmark) -> dict[str, Any]:
    """What the benchmark ran on and with, JSON-ready."""
    config, arguments = benchmark.config, benchmark.config.trainer
    return {
        "device": torch.cuda.get_device_name() if benchmark.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "policy": config.policy.model,
        "policy_dtype": config.policy.dtype,
        "trained": "adapters" if config.policy.lora else "all weights",
        "executor": benchmark.executor.name,
        "executor_dtype": resolve_dtype(benchmark.executor).dtype,
        "sampler": config.sampler.model_dump(mode="json"),
        "num_generations": arguments["num_generations"],
        "images_hw": list(benchmark.source[0].image_wh[::-1]),
    }


def _per_step(one: Measured) -> float:
    """Seconds of a way's typical step."""
    return one.seconds[one.typical]


def step_text(result: Mapping[str, Any]) -> str:
    """The measurements as text."""
    heading = [
        "",
        "completions/s",
        "x first row",
        "x row above",
        "share of gain",
        "s/step",
        "sample",
        "segment",
    ]
    table = [[*heading, "train and rest", "images encoded", "tokens/completion"]]
    for number, row in enumerate(result["ways"]):
        rest = row["seconds"] - row["sample_seconds"] - row["segment_seconds"]
        table.append(
            [
                row["title"],
                f"{row['completions_per_second']:.2f}",
                f"{row['over_first']:.2f}",
                f"{row['over_row_before']:.2f}" if number else "",
                f"{row['share']:.0%}" if number else "",
                *(f"{row[key]:.2f}" for key in ("seconds", "sample_seconds", "segment_seconds")),
                f"{max(0.0, rest):.2f}",
                f"{row['images_encoded']:.0f}",
                f"{row['tokens_per_completion']:.1f}",
            ]
        )
    floor = result["floor"]
    parts = (f"{floor[key]:.3f}" for key in ("seconds", "sample", "segment", "train"))
    table.append(["physical limit", f"{floor['completions_per_second']:.1f}", "", "", "", *parts, "", ""])
    last = result["ways"][-1]
    env = result["environment"]
    height, width = env["images_hw"]
    return "\n".join(
        [
            f"{env['device']}, {env['threads']} threads; policy in {env['policy_dtype']}, {env['trained']} "
            "trained; "
            f"{env['executor']} in {env['executor_dtype']} on images of {width} x {height}; "
            f"{env['num_generations']} completions a question",
            "",
            *text_table(table, numbers=True),
            "",
            f"{last['over_first']:.1f} x {result['ways'][0]['title'].removeprefix('+ ')}, at "
            f"{result['completions_per_step']:.0f} completions a step",
            f"same completions, same rewards: largest difference {result['largest_reward_difference']:.2g} "
            f"over {result['rewards_compared']} completions",
        ]
    )
