"""How many engines one driver keeps busy: `prompter bench scale`.

The pool of engines (`prompter.sampling.ray_pool`) runs for real on engines that compute nothing
(`prompter.sampling.simulated`): prompts are rendered and tokenised, images shipped, shares handed out,
answers unpickled, groups put together, completions read, scored and recorded. Only the engines' seconds are
drawn, from a recording or around a given median, and skipped, and masks are there at once. What Ray itself
costs the driver is in `measure_ray` alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.rollouts import make_requests
from prompter.chat import SamplingRequest
from prompter.errors import UserError
from prompter.runs.actors import PooledActor, RayActors
from prompter.runs.tables import text_table
from prompter.sampling.base import SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.sampling.ray_pool import RayVllmPool
from prompter.sampling.simulated import SimulatedEngines
from prompter.types import Completion
from recipes.benchmarks.scale_load import Load, ReadyMasks, make_answers, make_samples
from recipes.training.scoring import RolloutScorer
from rewards.registry import build_reward

if TYPE_CHECKING:
    from prompter.checkpoint import Checkpoint

ENGINES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

PARTS = ("ask", "tokenise", "pool", "score")
"""What the driver does for a completion: resize images and write chats; render and tokenise them; ship,
hand out and collect; read answers, compare masks, and make the record."""

TARGET_MS = 1.0
"""What a completion may cost the driver."""


def read_latencies(path: Path) -> list[float]:
    """Seconds per share: the `sampler.share_seconds` of a run's metrics.jsonl, or one number per line.

    Raises:
        UserError: if the file has none, or something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"--latencies {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"--latencies {path} is no text in UTF-8.") from None
    seconds: list[float] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if isinstance(value, dict):
                value = (value.get("sampler") or {}).get("share_seconds") or []
            found = [float(one) for one in (value if isinstance(value, list) else [value])]
        except (ValueError, TypeError, AttributeError):
            raise UserError(
                f"--latencies {path}, line {number}: expected seconds, or a record of a run's metrics.jsonl."
            ) from None
        if not all(math.isfinite(one) and one > 0 for one in found):
            raise UserError(f"--latencies {path}, line {number}: seconds must be more than 0.")
        seconds += found
    if not seconds:
        raise UserError(
            f"--latencies {path} holds no seconds: a run writes them (sampler.share_seconds) with "
            "sampler.backend ray."
        )
    return seconds


def drawn_latencies(median: float, spread: float, seed: int, count: int = 1000) -> list[float]:
    """Seconds per share, log-normal around a median; `spread` is their logarithm's standard deviation."""
    return (median * np.random.default_rng(seed).lognormal(0.0, spread, count)).tolist()


def bench_scale(
    policy: Checkpoint, latencies: Sequence[float], load: Load, engines: Sequence[int] = ENGINES
) -> dict[str, Any]:
    """Measure a driver's work for each number of engines.

    Args:
        policy: whose chats are rendered and whose answers are read.
        latencies: seconds per share, drawn from at random.
        load: what is sampled.
        engines: numbers of engines.

    Returns:
        JSON-ready: `load`, `latency` (median and mean seconds of a share), `rows` (one per number of engines:
        see `_measure`), `keeps_up_with` (engines that a driver keeps busy, by the last row's figure), and
        `completions_per_second` (that it does then).
    """
    _measure(policy, latencies, load, 1)  # imports and first uses are nobody's figure
    rows = [_measure(policy, latencies, load, number) for number in engines]
    last = rows[-1]
    per_second = 1000 / last["driver_ms"]
    mean = float(np.mean(latencies))
    return {
        "load": load.__dict__ | {"share": load.share},
        "latency": {"median": float(np.median(latencies)), "mean": mean, "recorded": len(latencies)},
        "rows": rows,
        "keeps_up_with": per_second * mean / (load.share * load.group),
        "completions_per_second": per_second,
    }


def _measure(policy: Checkpoint, latencies: Sequence[float], load: Load, engines: int) -> dict[str, Any]:
    """A row: engines, completions, milliseconds of the driver's CPU per completion (all and by part), seconds
    it took (on the engines' clock) with this driver and with one that costs nothing, and shares that were
    sampled again by another engine because they were slow."""
    prompts = engines * load.shares * load.share
    answers = make_answers(policy, load)
    drawn: set[int] = set()  # first prompts' seeds; both runs draw alike

    def latency(engine: int, method: str, arguments: Sequence[Any]) -> float:
        share = arguments[0]
        key = (
            load.seed,
            share[0].seed,
            share[0].seed in drawn,
        )  # given to a second engine, it takes another time
        drawn.add(share[0].seed)
        return float(np.random.default_rng(key).choice(latencies)) * len(share) / load.share

    def pool_of(clock: Callable[[], float], answer: Any) -> tuple[RayVllmPool, SimulatedEngines]:
        machinery = SimulatedEngines(latency, answer, own_clock=clock)
        return RayVllmPool(policy, _config(load, engines), machinery=machinery), machinery

    pool, machinery = pool_of(
        time.process_time, lambda _, __, arguments: _answer(answers, load, arguments[0])
    )
    requests, per_completion = _drive(policy, pool, load, prompts, machinery.driver_seconds)
    took, repeated = machinery.now(), pool.repeated_prompts
    drawn.clear()
    free, machinery = pool_of(lambda: 0.0, lambda _, __, arguments: [[]] * len(arguments[0]))
    for _ in free.sample_in_parts(requests, _settings(load)):
        pass
    return {
        "engines": engines,
        "completions": prompts * load.group,
        **per_completion,
        "seconds": took,
        "seconds_without_driver": machinery.now(),
        "repeated_prompts": repeated,
    }


def measure_ray(policy: Checkpoint, load: Load, actors: int) -> dict[str, Any]:
    """The driver's CPU per completion with real Ray actors that answer at once, as a row of `bench_scale`.

    It is all of the process: Ray's own threads in it, too. Ray must be running.
    """
    config = _config(load, actors).model_copy(update={"num_cpus": 0.0})
    machinery = RayActors(InstantWorker, (make_answers(policy, load), load), config, {}, "engines", "sampler")
    pool = RayVllmPool(policy, config, machinery=machinery)
    try:
        for _ in range(2):  # the second is measured: the first starts processes and imports
            prompts = actors * load.shares * load.share
            began = time.perf_counter()
            _, per_completion = _drive(policy, pool, load, prompts, time.process_time)
            took = time.perf_counter() - began
    finally:
        pool.close()
    return {"engines": actors, "completions": prompts * load.group, **per_completion, "seconds": took}


class InstantWorker(PooledActor):
    """An engine in an actor of Ray's that computes nothing."""

    def __init__(self, answers: list[Completion], load: Load) -> None:
        self._answers, self._load = answers, load

    def generate(self, prompts: Sequence[Any], *_: Any) -> list[list[Completion]]:
        """Answer a share."""
        return _answer(self._answers, self._load, prompts)


def _config(load: Load, engines: int) -> SamplerConfig:
    return SamplerConfig(actors=engines, max_num_seqs=load.sequences)


def _settings(load: Load) -> SamplingSettings:
    return SamplingSettings(n=load.group, seed=load.seed)


def _answer(answers: Sequence[Completion], load: Load, share: Sequence[Any]) -> list[list[Completion]]:
    return [[answers[(prompt.seed + j) % len(answers)] for j in range(load.group)] for prompt in share]


def _drive(
    policy: Checkpoint, pool: RayVllmPool, load: Load, prompts: int, clock: Callable[[], float]
) -> tuple[list[SamplingRequest], dict[str, float]]:
    """Ask, sample and read as a run does; the requests, and milliseconds per completion: all, and by part."""
    samples = make_samples(load, prompts)
    scorer = RolloutScorer(policy, {"ready": ReadyMasks(load)}, build_reward({"mask_iou": 1.0}))
    pool.wait_ready()
    parts = dict.fromkeys(PARTS, 0.0)
    last = clock()

    def done(part: str) -> None:
        nonlocal last
        now = clock()
        parts[part] += now - last
        last = now

    requests = make_requests(policy, samples)
    done("ask")
    stream = pool.sample_in_parts(requests, _settings(load), logprobs=True)
    done("tokenise")
    groups = rewarded = 0
    for part in stream:
        done("pool")
        places, answered = zip(*part, strict=True)
        scored = scorer.score(places, [samples[place] for place in places], answered, 0)
        rewarded += sum(bool(reward) for group in scored for reward in group.rewards)
        for group in scored:
            for rollout in group.rollouts:
                rollout.to_json()
        groups += len(part)
        done("score")
    done("pool")
    if groups != prompts or not rewarded:
        raise RuntimeError(f"{prompts} prompts gave {groups} groups, {rewarded} completions a reward")
    each = {f"{part}_ms": 1000 * used / (prompts * load.group) for part, used in parts.items()}
    return requests, {"driver_ms": sum(each.values()), **each}


def scale_table(result: dict[str, Any]) -> list[list[str]]:
    """The rows as cells, a heading first."""
    table = [["engines", "completions", "driver ms", *PARTS, "seconds", "ideal", "again"]]
    for row in [*result["rows"], *result.get("ray", ())]:
        simulated = "seconds_without_driver" in row
        table.append(
            [
                f"{row['engines']}{'' if simulated else ' (Ray)'}",
                str(row["completions"]),
                f"{row['driver_ms']:.3f}",
                *(f"{row[f'{part}_ms']:.3f}" for part in PARTS),
                f"{row['seconds']:.1f}",
                f"{row['seconds_without_driver']:.1f}" if simulated else "",
                str(row["repeated_prompts"]) if simulated else "",
            ]
        )
    return table


def scale_text(result: dict[str, Any]) -> str:
    """The measurements as text."""
    load, latency, last = result["load"], result["latency"], result["rows"][-1]
    lines = [
        f"shares of {load['share']} prompts with {load['group']} completions of {load['tokens']} tokens, "
        f"{load['shares']} per engine; images of {load['side']} x {load['side']}",
        f"a share takes an engine {latency['median']:.2f} s (median; mean {latency['mean']:.2f} s, "
        f"{latency['recorded']} latencies)",
        "",
        *text_table(scale_table(result), numbers=True),
        "",
        "driver ms: CPU milliseconds of the driver per completion, and its parts. seconds: until all are",
        "sampled and scored, with this driver and with one that costs nothing (ideal). again: prompts of",
        "slow shares that an idle engine was given too.",
    ]
    if result.get("ray"):
        lines.append("(Ray): actors that answer at once; the CPU of Ray's threads in the driver is counted.")
    slow = [row["engines"] for row in result["rows"] if row["driver_ms"] >= TARGET_MS]
    lines.append(
        f"over {TARGET_MS:g} ms a completion at {', '.join(map(str, slow))} engines"
        if slow
        else f"under {TARGET_MS:g} ms a completion at every number of engines"
    )
    keeps_up = result["keeps_up_with"]
    beyond = "beyond what was measured" if keeps_up > last["engines"] else "within what was measured"
    lines.append(
        f"one driver saturates at about {keeps_up:.0f} such engines ({beyond}): "
        f"{result['completions_per_second']:.0f} completions/s"
    )
    return "\n".join(lines)
