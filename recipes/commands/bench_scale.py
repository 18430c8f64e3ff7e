"""`prompter bench scale`: its flags, and what it prints; see `recipes.commands.bench`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from prompter.errors import UserError
from recipes.commands.bench_runs import write_result


def add_scale_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that only `scale` reads."""
    parser.add_argument(
        "--engines", metavar="N,N,…", help="of scale: numbers of engines; default: 1, 2, 4 … 256"
    )
    parser.add_argument(
        "--latencies",
        type=Path,
        metavar="FILE",
        help="of scale: a run's metrics.jsonl, or seconds, one per line",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=4.0,
        help="of scale, without --latencies: median of a share (default: 4)",
    )
    parser.add_argument(
        "--spread",
        type=float,
        default=0.35,
        help="of scale: standard deviation of its logarithm (default: 0.35)",
    )
    parser.add_argument(
        "--ray", type=int, default=0, metavar="N", help="of scale: measure N actors of a real Ray as well"
    )
    parser.add_argument("--tokens", type=int, default=200, help="of scale: per completion (default: 200)")


def run_scale(arguments: argparse.Namespace) -> int:
    """Print the table, write the JSON if asked to, return 0.

    Raises:
        UserError: if a flag is out of range, or the latencies cannot be read.
    """
    for name in ("group", "side", "tokens", "seconds"):
        if not (math.isfinite(value := getattr(arguments, name)) and value > 0):
            raise UserError(f"--{name} must be more than 0, but is {value}.")
    if arguments.ray < 0:
        raise UserError(f"--ray must be at least 0, but is {arguments.ray}.")
    if not 0 <= arguments.spread < 10:
        raise UserError(f"--spread must be at least 0 and less than 10, but is {arguments.spread}.")
    from prompter.checkpoint import load_policy
    from recipes.benchmarks import scale

    engines = scale.ENGINES if arguments.engines is None else _numbers(arguments.engines)
    load = scale.Load(
        group=arguments.group, tokens=arguments.tokens, side=arguments.side, seed=arguments.seed
    )
    if arguments.latencies is None:
        latencies = scale.drawn_latencies(arguments.seconds, arguments.spread, arguments.seed)
    else:
        latencies = scale.read_latencies(arguments.latencies)
    policy = load_policy("shipped:small-policy")
    result = scale.bench_scale(policy, latencies, load, engines)
    if arguments.ray:
        from prompter.runs.ray_runtime import ensure_ray

        ensure_ray()
        result["ray"] = [scale.measure_ray(policy, load, arguments.ray)]
    print(scale.scale_text(result))
    write_result(result, arguments.json)
    return 0


def _numbers(text: str) -> list[int]:
    """Numbers of engines, such as "1,8,64"."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UserError(f"--engines takes whole numbers from 1 on, as in 1,8,64, but is {text!r}.")
    return [int(part) for part in parts]
