"""How many engines one driver keeps busy: `prompter bench scale`.

The pool of engines (`prompter.sampling.ray_pool`) runs for real on engines that compute nothing
(`prompter.sampling.simulated`): prompts are rendered and tokenised, images shipped, shares handed out,
answers unpickled, groups put together and completions read. Only the engines' seconds are drawn, from a
recording or around a given median, and skipped. Not in it: what Ray's own threads cost, and scoring.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from prompter.chat import SamplingRequest
from prompter.errors import UserError
from prompter.runs.tables import text_table
from prompter.sampling.base import SamplingSettings
from prompter.sampling.config import SamplerConfig
from prompter.sampling.ray_pool import RayVllmPool
from prompter.sampling.simulated import SimulatedEngines
from prompter.types import Completion, Instance, PromptSet

if TYPE_CHECKING:
    from prompter.checkpoint import Checkpoint

ENGINES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

PARTS = ("ask", "tokenise", "pool", "read")
"""What the driver does for a completion: resize images and write chats; render and tokenise them; ship,
hand out and collect; read answers."""

TARGET_MS = 1.0
"""What a completion may cost the driver."""

DISTINCT_ANSWERS = 64
DISTINCT_IMAGES = 8


@dataclass(frozen=True)
class Load:
    """What is sampled.

    Args:
        group: completions per prompt.
        shares: per engine, each as large as fills an engine.
        tokens: of a completion, with its log-probabilities.
        side: of the images, in pixels.
        sequences: completions that an engine samples at once.
        seed: of latencies and answers.
    """

    group: int = 16
    shares: int = 4
    tokens: int = 200
    side: int = 512
    sequences: int = 64
    seed: int = 0

    @property
    def share(self) -> int:
        """Prompts of a share."""
        return math.ceil(self.sequences / self.group)


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
    answers = _answers(policy, load)
    rng = np.random.default_rng(load.seed)
    images = [
        Image.fromarray(rng.integers(0, 256, (load.side, load.side, 3), dtype=np.uint8))
        for _ in range(DISTINCT_IMAGES)
    ]
    settings = SamplingSettings(n=load.group, seed=load.seed)
    seconds: dict[int, float] = {}  # by the first prompt's seed, so that both runs draw alike

    def latency(engine: int, method: str, arguments: Sequence[Any]) -> float:
        share = arguments[0]
        # A slow share that another engine is given too takes as long as others do.
        key = share[0].seed
        again = key in seconds
        drawn = (
            np.random.default_rng([load.seed, key, int(again)]).choice(latencies) * len(share) / load.share
        )
        return float(seconds.setdefault(key, drawn) if not again else drawn)

    def pool_of(clock: Any, answer: Any) -> tuple[RayVllmPool, SimulatedEngines]:
        machinery = SimulatedEngines(latency, answer, own_clock=clock)
        config = SamplerConfig(actors=engines, max_num_seqs=load.sequences)
        return RayVllmPool(policy, config, machinery=machinery), machinery

    def sampled(engine: int, method: str, arguments: Sequence[Any]) -> list[list[Completion]]:
        return [
            [answers[(prompt.seed + j) % len(answers)] for j in range(load.group)] for prompt in arguments[0]
        ]

    pool, machinery = pool_of(time.process_time, sampled)
    parts = dict.fromkeys(PARTS, 0.0)
    marks = [machinery.driver_seconds()]

    def done(part: str) -> None:
        marks.append(machinery.driver_seconds())
        parts[part] += marks[-1] - marks[-2]

    requests: list[SamplingRequest] = [
        policy.request("the buildings beside the road", images[k % len(images)], str(k))
        for k in range(prompts)
    ]
    done("ask")
    stream = pool.sample_in_parts(requests, settings, logprobs=True)
    done("tokenise")
    groups = 0
    for part in stream:
        done("pool")
        for _, group in part:
            for completion in group:
                policy.read(completion, (load.side, load.side))
        groups += len(part)
        done("read")
    done("pool")
    if groups != prompts:
        raise RuntimeError(f"{prompts} prompts gave {groups} groups")
    took = machinery.now()
    repeated = pool._pool.repeated
    seconds.clear()
    free, machinery = pool_of(lambda: 0.0, lambda engine, method, arguments: [[]] * len(arguments[0]))
    for _ in free.sample_in_parts(requests, settings):
        pass
    completions = prompts * load.group
    per_completion = {part: 1000 * used / completions for part, used in parts.items()}
    return {
        "engines": engines,
        "completions": completions,
        "driver_ms": sum(per_completion.values()),
        **{f"{part}_ms": value for part, value in per_completion.items()},
        "seconds": took,
        "seconds_without_driver": machinery.now(),
        "repeated_shares": repeated,
    }


def _answers(policy: Checkpoint, load: Load) -> list[Completion]:
    """Completions such as a policy gives: a thought, then a box with a point in it."""
    rng = np.random.default_rng(load.seed)
    made = []
    for _ in range(DISTINCT_ANSWERS):
        left, top = rng.integers(0, load.side // 2, 2).tolist()
        box = (left, top, left + load.side // 4, top + load.side // 4)
        inside = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        prompts = PromptSet((Instance(box=box, positive_points=(inside,)),))
        answer = policy.write_answer(prompts, (load.side, load.side))
        text = f"<think>It is the one beside the road.</think>{answer}"
        tokens = tuple(rng.integers(0, 150_000, load.tokens).tolist())
        made.append(Completion(text, tokens, tuple(rng.normal(-1, 1, load.tokens).tolist()), "stop"))
    return made


def scale_table(result: dict[str, Any]) -> list[list[str]]:
    """The rows as cells, a heading first."""
    heading = ["engines", "completions", "driver ms", *PARTS, "seconds", "ideal", "again"]
    table = [heading]
    for row in result["rows"]:
        table.append(
            [
                str(row["engines"]),
                str(row["completions"]),
                f"{row['driver_ms']:.3f}",
                *(f"{row[f'{part}_ms']:.3f}" for part in PARTS),
                f"{row['seconds']:.1f}",
                f"{row['seconds_without_driver']:.1f}",
                str(row["repeated_shares"]),
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
        "driver ms: CPU milliseconds of the driver per completion, and its parts; seconds: until all are "
        "sampled and read, with this driver and with one that costs nothing; again: slow shares that an idle "
        "engine was given too.",
    ]
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
