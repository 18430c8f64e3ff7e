"""Checkpoints of a training run: the newest whole one, and the trained policy at the end.

A checkpoint is written under another name, flushed to the disk, and renamed when it is whole. So
`checkpoint-N` is either whole or absent, except where an older version of this program was killed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prompter.checkpoint import load_weights
from prompter.errors import UserError
from prompter.quantised import is_quantised
from prompter.runs.disk import flush_tree
from prompter.runs.files import atomic_folder
from prompter.runs.run_folder import RunFolder
from recipes.training.ranks.gather import whole_model
from recipes.training.ranks.world import Ranks

CHECKPOINT_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Files that a checkpoint of one rank needs to be resumed; TRL writes `trainer_state.json` last."""

OTHER_OPTIMISERS = ("optimizer.bin", "latest")
"""What stands in the place of `optimizer.pt`: FSDP2's, and what names DeepSpeed's folder."""

RANKS_FILE = "ranks.json"
"""What a checkpoint says of the ranks that wrote it: their number, and how the model was divided.
Older ones of one rank have none."""

_UNFINISHED, _REMOVED = ".unfinished", ".removed"


def save_trained(
    model: Any,
    policy: Any,
    folder: RunFolder,
    ranks: Ranks | None = None,
    load: Callable[[], Any] | None = None,
) -> Path:
    """Write the trained policy, adapters merged, as a checkpoint folder that `prompter eval` opens.

    Adapters that were trained on a quantised base are merged into the unquantised one.

    Args:
        model: what was trained.
        policy: its protocol.
        folder: of the run.
        ranks: where there are several, all call this, and rank 0 writes.
        load: loads the policy's weights on the CPU, which a sharded model's adapters are merged into.
    """
    ranks = ranks or Ranks()
    final = folder.checkpoints_dir / "final"
    if is_quantised(model):
        merged: Any = ranks.first(lambda: on_unquantised(model, policy).merge_and_unload())
    else:
        merged = whole_model(ranks, model, load or (lambda: model))

    def write() -> None:
        with atomic_folder(final) as unfinished:
            merged.save_pretrained(unfinished)
            policy.save_protocol(unfinished)

    ranks.first(write)
    return final


def on_unquantised(model: Any, policy: Any) -> Any:
    """The adapters of a PEFT model on a fresh copy of the policy's weights, on the CPU."""
    from peft import PeftModel

    with TemporaryDirectory(prefix="prompter-adapter-") as adapter:
        model.save_pretrained(adapter, save_embedding_layers=False)
        return PeftModel.from_pretrained(load_weights(policy), adapter)


def write_ranks(checkpoint: Path, count: int, sharding: str | None) -> None:
    """Write into a checkpoint's folder who writes it, before the files that each rank writes.

    Args:
        checkpoint: its folder.
        count: of ranks.
        sharding: "fsdp", "deepspeed", or None where each rank has the whole model.
    """
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / RANKS_FILE).write_text(json.dumps({"count": count, "sharding": sharding}), encoding="utf-8")


def check_same_sharding(checkpoint: Path | None, sharding: str | None) -> None:
    """Refuse to resume a model that was divided among ranks in another way; their number may differ.

    Raises:
        UserError: saying how it was.
    """
    if checkpoint is None or not (checkpoint / RANKS_FILE).is_file():
        return
    saved = json.loads((checkpoint / RANKS_FILE).read_text(encoding="utf-8"))["sharding"]
    if saved != sharding:
        was, now = (f"trainer.{one}" if one else "a copy of the model each" for one in (saved, sharding))
        raise UserError(
            f"{checkpoint} was written by ranks with {was}, whose optimiser cannot be resumed with {now}: "
            "set trainer as it was"
        )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written completely, or None.

    A process killed while saving leaves a folder without its last file, or with half of it.
    """
    return next((path for path in reversed(_numbered(folder)) if _is_whole(path)), None)


def _numbered(folder: Path) -> list[Path]:
    """All checkpoints of a folder, whole or not, by step."""
    paths = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(paths, key=step_of)


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


@contextmanager
def whole_checkpoint(
    folder: Path, step: int, *, keep: int | None, main: bool = True, meet: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Write a checkpoint whole or not at all, then remove all but the newest `keep`.

    Checkpoints up to this step that are not whole go, too, and do not count. The newest whole one stays
    whatever `keep` is. With several ranks each of them enters, on one shared file system.

    Args:
        folder: of the run's checkpoints.
        step: the checkpoint's.
        keep: how many whole ones stay; None or 0 is all.
        main: whether this rank is the one that names and removes folders.
        meet: waits for all ranks.

    Yields:
        A folder in which the block writes `checkpoint-STEP`.

    Raises:
        OSError: if the disk cannot take it.
    """
    unfinished, final = folder / _UNFINISHED, folder / f"checkpoint-{step}"
    if main:
        shutil.rmtree(unfinished, ignore_errors=True)
    meet()
    try:
        yield unfinished
        flush_tree(unfinished)
        meet()
        if main:
            if final.exists():
                _remove(final)
            (unfinished / final.name).rename(final)
            _flush_names(folder)
            _keep_last(folder, step, keep)
    finally:
        if main:
            shutil.rmtree(unfinished, ignore_errors=True)
    meet()


def _keep_last(folder: Path, step: int, keep: int | None) -> None:
    earlier = [path for path in _numbered(folder) if step_of(path) <= step]
    whole = [path for path in earlier if _is_whole(path)]
    kept = whole[-keep:] if keep else whole
    for path in earlier:
        if path not in kept and step_of(path) != step:
            _remove(path)


def _remove(checkpoint: Path) -> None:
    """Under its name it is whole until it is gone, even if this process is killed meanwhile."""
    gone = checkpoint.with_name(_REMOVED)
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _flush_names(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def step_of(checkpoint: Path | None) -> int:
    """The optimiser step of a numbered checkpoint; 0 for None, where there is none."""
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
