"""Checkpoints of a training run: the newest whole one, and the trained policy at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prompter.errors import UserError
from prompter.runs.files import atomic_folder, atomic_write
from prompter.runs.run_folder import RunFolder
from recipes.training.ranks.gather import whole_model
from recipes.training.ranks.world import Ranks

CHECKPOINT_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Files that a checkpoint of one rank needs to be resumed; TRL writes `trainer_state.json` last."""

OTHER_OPTIMISERS = ("optimizer.bin", "latest")
"""What stands in the place of `optimizer.pt`: FSDP2's, and what names DeepSpeed's folder."""

RANKS_FILE = "ranks.json"
"""What a checkpoint says of the ranks that wrote it: `describe_ranks`. Older ones of one rank have none."""


def save_trained(
    model: Any,
    policy: Any,
    folder: RunFolder,
    ranks: Ranks | None = None,
    load: Callable[[], Any] | None = None,
) -> Path:
    """Write the trained policy, adapters merged, as a checkpoint folder that `prompter eval` opens.

    Args:
        model: what was trained.
        policy: its protocol.
        folder: of the run.
        ranks: where there are several, all call this, and rank 0 writes.
        load: loads the policy's weights on the CPU, which a sharded model's adapters are merged into.
    """
    ranks = ranks or Ranks()
    final = folder.checkpoints_dir / "final"
    merged = whole_model(ranks, model, load or (lambda: model))

    def write() -> None:
        with atomic_folder(final) as unfinished:
            merged.save_pretrained(unfinished)
            policy.save_protocol(unfinished)

    ranks.first(write)
    return final


def describe_ranks(arguments: Any, count: int) -> dict[str, Any]:
    """What has to be the same for a checkpoint to be resumed exactly, but `count`, which may differ.

    Args:
        arguments: TRL's `GRPOConfig`.
        count: number of ranks.
    """
    shard = next((name for name in ("fsdp", "deepspeed") if getattr(arguments, name)), None)
    return {
        "count": count,
        "sharding": shard,
        "window": {
            "completions": int(arguments.generation_batch_size),
            "group": int(arguments.num_generations),
            "optimiser_parts": int(arguments.steps_per_generation),
        },
    }


def write_ranks(checkpoint: Path, described: Mapping[str, Any]) -> None:
    """Write what `describe_ranks` gives into a checkpoint's folder, before the files that it is about."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    with atomic_write(checkpoint / RANKS_FILE) as handle:
        handle.write(json.dumps(described))


def check_same_window(checkpoint: Path | None, described: Mapping[str, Any]) -> None:
    """Refuse to resume with windows of another size, or a model divided in another way.

    Raises:
        UserError: saying what it was.
    """
    if checkpoint is None or not (checkpoint / RANKS_FILE).is_file():
        return
    saved = json.loads((checkpoint / RANKS_FILE).read_text(encoding="utf-8"))
    sizes = [(one["window"]["completions"], one["window"]["group"]) for one in (saved, described)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{checkpoint} was written with windows of {sizes[0][0]} completions in groups of {sizes[0][1]}, "
            f"but this run has {sizes[1][0]} in groups of {sizes[1][1]}: it would train on other rollouts. "
            f"It had {saved['count']} ranks and this run has {described['count']}; "
            "trainer.per_device_train_batch_size times ranks has to stay"
        )
    if saved["sharding"] != described["sharding"]:
        kinds = [one["sharding"] and f"trainer.{one['sharding']}" for one in (saved, described)]
        raise UserError(
            f"{checkpoint} was written with {kinds[0] or 'a copy of the model each'}, whose optimiser "
            f"cannot be resumed with {kinds[1] or 'copies'}: set trainer as it was"
        )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written completely, or None.

    A process killed while saving leaves a folder without its last file, or with half of it.
    """
    numbered = [
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit()
    ]
    return next((path for _, path in sorted(numbered, reverse=True) if _is_whole(path)), None)


def _is_whole(path: Path) -> bool:
    try:
        json.loads((path / CHECKPOINT_FILES[0]).read_text(encoding="utf-8"))
        described = path / RANKS_FILE
        count = json.loads(described.read_text(encoding="utf-8"))["count"] if described.is_file() else 1
    except (OSError, ValueError):
        return False
    # Rank 0 may have written its last file while another rank still writes its only one.
    random = [f"rng_state_{rank}.pth" for rank in range(count)] if count > 1 else [CHECKPOINT_FILES[3]]
    optimiser = any((path / name).is_file() for name in (CHECKPOINT_FILES[1], *OTHER_OPTIMISERS))
    return optimiser and all((path / name).is_file() for name in (CHECKPOINT_FILES[2], *random))


def step_of(checkpoint: Path | None) -> int:
    """The optimiser step of a numbered checkpoint; 0 for None, where there is none."""
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
