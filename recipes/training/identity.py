"""What makes a run the run it is: recorded when it begins, compared when it is resumed.

A resumed run is the run that was begun, or it is refused: another seed, dataset, window, policy or frame
would train on other rollouts without a word. What only changes the speed, such as the number of engines,
may differ and is said.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.sample import SampleSource
from prompter import __version__
from prompter.checkpoint import Checkpoint, frame_before, load_policy
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from prompter.runs.values import dotted
from recipes.config import TrainConfig, load_config
from recipes.training.checks import grpo_arguments, window_steps

COMPARED_SAMPLES = 64
"""Samples, evenly spread over a training set, that stand for its content."""

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "vllm", "ray")

_OPTIMISER = ("optim", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")

_ROLLOUTS = "its further rollouts would not be those of the run that was begun"

_CALLED: dict[str, tuple[str, str]] = {
    "window.completions": (
        "the number of completions in a window (trainer.per_device_train_batch_size x "
        "steps_per_generation x ranks)",
        _ROLLOUTS,
    ),
    "window.group": ("trainer.num_generations", _ROLLOUTS),
    "window.kept": ("the number of completions kept of a group (group.keep)", _ROLLOUTS),
    "window.steps": (
        "the number of optimiser steps in a window (trainer.num_iterations x steps_per_generation / "
        "gradient_accumulation_steps)",
        _ROLLOUTS,
    ),
    "window.mining": ("order.mining", _ROLLOUTS),
    "window.fresh": ("order.fresh", _ROLLOUTS),
    "dataset.samples": ("the number of training samples", _ROLLOUTS),
    "dataset.content": (
        f"the content of the training set (ids, queries, sizes and targets of {COMPARED_SAMPLES} samples)",
        _ROLLOUTS,
    ),
    "policy.asked": ("policy.settings", "the policy would be asked otherwise than it was trained so far"),
    "policy.model": ("the checkpoint of policy.model", "the saved weights belong to the other one"),
    "policy": ("policy", "the saved weights belong to the other one"),
    "optimiser": ("trainer", "it is restored with the optimiser, so another value would do nothing"),
}
"""Beginning of a key of an identity -> what the user calls it, and why it has to stay."""


def run_identity(
    config: TrainConfig, policy: Checkpoint, arguments: Any, source: SampleSource
) -> dict[str, Any]:
    """What a resumed run has to share with the one that was begun, JSON-ready; and, as `versions`, what ran.

    Args:
        config: the run.
        policy: its policy.
        arguments: TRL's `GRPOConfig` made from it; it counts completions over all ranks.
        source: the training set, as it is trained on.
    """
    lora = config.policy.lora
    identity = {
        "seed": config.seed,
        "dataset": {
            "name": config.dataset.name,
            "split": config.dataset.split,
            "samples": len(source),
            "content": _content(source),
        },
        "policy": {
            "model": _model(policy.source),
            "lora": "none" if lora is None else lora.model_dump(mode="json"),
            "asked": policy.describe(),
        },
        "window": {
            "completions": int(arguments.generation_batch_size),
            "group": int(config.trainer["num_generations"]),
            "kept": int(arguments.num_generations),
            "steps": window_steps(arguments),
            "mining": config.order.mining,
            **({} if config.order.mining == "none" else {"fresh": config.order.fresh}),
        },
        "optimiser": {name: _plain(getattr(arguments, name)) for name in _OPTIMISER},
        "versions": _versions(),
    }
    return dict(json.loads(json.dumps(identity)))  # as it reads back


def check_same_run(
    folder: RunFolder, config: TrainConfig, identity: Mapping[str, Any], source: SampleSource
) -> list[str]:
    """Refuse to resume a run as another one; return what is to be said of what may differ, and does.

    Args:
        folder: of the run that was begun; one that holds no run yet is not compared.
        config, source: as the run is to go on.
        identity: `run_identity` of that.

    Raises:
        UserError: naming the first key that differs, both values, and what to do.
    """
    if not folder.config_path.exists():
        return []
    before = load_config(folder.config_path)
    recorded = folder.read_identity()
    if recorded is None:
        recorded = _identity_of_earlier_version(before, config, source)
    was, now = dict(dotted(recorded)), dict(dotted(identity))
    for key, value in was.items():
        # A setting that a later version added is not in the record of an earlier one, and says nothing.
        if value != now.get(key) and not key.startswith("versions."):
            raise UserError(_refusal(folder, key, value, now.get(key)))
    first, second = (dict(dotted(one.model_dump(mode="json"))) for one in (before, config))
    changed = [
        f"resumed with another {key}: {first.get(key)!r} -> {second.get(key)!r}"
        for key in {**first, **second}
        if key != "run_dir" and first.get(key) != second.get(key)
    ]
    versions = [
        f"{key.removeprefix('versions.')} {value} -> {now.get(key)}"
        for key, value in was.items()
        if key.startswith("versions.") and now.get(key) != value
    ]
    if versions:
        changed.append(f"resumed with other versions, so figures may differ a little: {', '.join(versions)}")
    return changed


def check_same_rollouts(run: RunFolder, identity: Mapping[str, Any]) -> None:
    """Refuse to train on the rollouts of a run that asked other questions, or asked them otherwise.

    Args:
        run: that sampled them, and recorded its identity, as all runs do that keep what this needs.
        identity: of the run that is to train on them. Adapters and optimiser may differ.

    Raises:
        UserError: naming the first key that differs, and both values.
    """
    now = dict(dotted(identity))
    for key, value in dotted(run.read_identity() or {}):
        if key.startswith(("versions.", "optimiser.", "policy.lora")) or now.get(key, value) == value:
            continue
        called, _ = _called(key)
        raise UserError(
            f"the rollouts of {run.path} cannot be trained on by this config: there {called} was "
            f"{_short(value)}, and here it is {_short(now[key])}"
        )


def _identity_of_earlier_version(
    before: TrainConfig, config: TrainConfig, source: SampleSource
) -> dict[str, Any]:
    """The identity of a run that recorded none, from its config, with the frame that was asked in then."""
    if before.dataset != config.dataset:
        raise UserError(
            f"the section dataset of {config.run_dir} differs from that of the run that was begun there, and "
            f"{_ROLLOUTS}: give the sections of its config.yaml, or another run_dir"
        )
    policy = load_policy(before.policy.model, before.policy.setting_overrides())
    arguments = grpo_arguments(before, policy.settings.max_new_tokens)
    identity = run_identity(before, policy, arguments, source)
    identity["policy"]["asked"]["frame"] = frame_before(policy)
    for follows in ("system", "prompt"):  # from the frame, among others: it is the frame that is to be named
        identity["policy"]["asked"].pop(follows)
    return {key: value for key, value in identity.items() if key != "versions"}


def _refusal(folder: RunFolder, key: str, was: Any, now: Any) -> str:
    called, why = _called(key)
    return (
        f"the run in {folder.path} cannot be resumed: {called} was {_short(was)} and is now {_short(now)}, "
        f"and {why}. Give what it was begun with, or another run_dir"
    )


def _called(key: str) -> tuple[str, str]:
    """What the user calls a key of an identity, and why it has to stay."""
    begins = next((begin for begin in _CALLED if f"{key}.".startswith(f"{begin}.")), None)
    if begins is None:
        return key, _ROLLOUTS
    called, why = _CALLED[begins]
    return called + key.removeprefix(begins), why


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…" + text[:1]


def _content(source: SampleSource) -> str:
    """Digest of samples spread over a training set."""
    count = len(source)
    taken = min(count, COMPARED_SAMPLES)
    digest = hashlib.sha256()
    for place in range(taken):
        sample = source[place * count // taken]
        told = [sample.sample_id, sample.query, list(sample.image_wh), sample.target, sample.boxes]
        digest.update(json.dumps(told, sort_keys=True, default=str).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:16]


def _model(source: str) -> str:
    """A hub id as it is; of a folder, which may be moved, a digest of its config and its weights' sizes."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
    return f"folder {digest.hexdigest()[:16]}"


def _plain(value: Any) -> Any:
    """A value of TRL's config as JSON has it; an enum is its text."""
    return value if isinstance(value, int | float | None) else str(getattr(value, "value", value))


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"prompter": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
