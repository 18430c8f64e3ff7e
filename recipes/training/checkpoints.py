"""Checkpoints of a training run: the newest whole one, and the trained policy at the end."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prompter.checkpoint import load_weights
from prompter.quantised import is_quantised
from prompter.runs.files import atomic_folder
from prompter.runs.run_folder import RunFolder

CHECKPOINT_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Files a checkpoint needs to be resumed; TRL writes `trainer_state.json` last."""


def save_trained(model: Any, policy: Any, folder: RunFolder) -> Path:
    """Write the trained policy, adapters merged, as a checkpoint folder that `prompter eval` opens.

    Adapters that were trained on a quantised base are merged into the unquantised one.
    """
    final = folder.checkpoints_dir / "final"
    if is_quantised(model):
        model = on_unquantised(model, policy)
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    with atomic_folder(final) as unfinished:
        merged.save_pretrained(unfinished)
        policy.save_protocol(unfinished)
    return final


def on_unquantised(model: Any, policy: Any) -> Any:
    """The adapters of a PEFT model on a fresh copy of the policy's weights, on the CPU."""
    from peft import PeftModel

    with TemporaryDirectory(prefix="prompter-adapter-") as adapter:
        model.save_pretrained(adapter, save_embedding_layers=False)
        return PeftModel.from_pretrained(load_weights(policy), adapter)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written completely, or None.

    A process killed while saving leaves a folder without its last file, or with half of it.
    """
    numbered = [
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit()
    ]
    for _, path in sorted(numbered, reverse=True):
        if not all((path / name).is_file() for name in CHECKPOINT_FILES):
            continue
        try:
            json.loads((path / CHECKPOINT_FILES[0]).read_text(encoding="utf-8"))
        except ValueError:
            continue
        return path
    return None


def step_of(checkpoint: Path | None) -> int:
    """The optimiser step of a numbered checkpoint; 0 for None, where there is none."""
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
