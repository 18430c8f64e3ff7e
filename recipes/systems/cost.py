"""What a run of a system cost, from what it left: no model is loaded, weights are read file by file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from eval.systems import Cost
from prompter.checkpoint import resolve_source
from prompter.runs.jsonl import count_lines
from recipes.systems.run import SECONDS, SystemRun

_ADAPTERS = "adapter_model.safetensors"


def run_cost(run: SystemRun, base: str) -> Cost:
    """What a finished run took, with those before it that it goes on from; weights and disk are its own.

    Args:
        run: finished, and asked the study's questions.
        base: the checkpoint that it started from.
    """
    files = [path for path in run.policy.rglob("*") if path.is_file()]
    minutes = [one.adapter.minutes(one.folder) for one in run.line]
    known = [value for value in minutes if value is not None]
    return Cost(
        minutes=sum(known) if len(known) == len(minutes) else None,
        questions=run.questions_in_line,
        completions=sum(one.adapter.completions(one.config) for one in run.line),
        weights=trained_weights(run.folder, run.policy, Path(resolve_source(base))),
        megabytes=sum(path.stat().st_size for path in files) / 1e6,
        seconds=_seconds_a_question(run.evaluation),
    )


def trained_weights(folder: Path, policy: Path, base: Path) -> int | None:
    """How many numbers a run trained.

    Where a run keeps its adapters, those; else, of the policy, the numbers of every tensor that is not as in
    the base, new ones among them.

    Args:
        folder: of the run; the adapters of its newest checkpoint are looked for in it.
        policy: what it left.
        base: what it started from.

    Returns:
        None if the base's weights are not in a folder here.
    """
    from safetensors import safe_open

    kept = sorted(folder.glob(f"checkpoints/*/{_ADAPTERS}"), key=lambda path: path.stat().st_mtime)
    files = kept[-1:] or sorted(policy.rglob("*.safetensors"))
    theirs = {} if kept else {path.name: path for path in base.glob("*.safetensors")}
    if not kept and not theirs:
        return None
    total = 0
    for path in files:
        beside = theirs.get(path.name)
        with safe_open(path, framework="pt") as mine:
            if beside is None:
                total += sum(int(np.prod(mine.get_slice(name).get_shape())) for name in mine.keys())
                continue
            with safe_open(beside, framework="pt") as other:
                known = set(other.keys())
                for name in mine.keys():
                    one = mine.get_tensor(name)
                    if name not in known or not _same(one, other.get_tensor(name)):
                        total += one.numel()
    return total


def _same(one: object, other: object) -> bool:
    """Whether a tensor was left as it is; one of another type was saved so, and may be rounded."""
    import torch

    assert isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    if one.shape != other.shape:
        return False
    coarse = one.dtype if one.element_size() < other.element_size() else other.dtype
    return torch.equal(one.to(coarse), other.to(coarse))


def _seconds_a_question(evaluation: Path) -> float | None:
    path = evaluation / SECONDS
    if not path.exists():
        return None
    asked = count_lines(evaluation / "completions.jsonl")
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) / max(1, asked)
