"""Write a trained policy into a folder of its own: adapters merged, protocol and card beside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from prompter.errors import UserError
from prompter.runs.files import atomic_folder, atomic_write
from recipes.exporting.card import model_card
from recipes.exporting.mean import mean_weights
from recipes.exporting.source import find_export
from recipes.exporting.weights import loaded

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

SHARD_SIZE = "5GB"
"""Largest file of weights, as the hub likes them."""


def export(
    given: str | Sequence[str], target: Path, *, dtype: Dtype = "auto", shard_size: str = SHARD_SIZE
) -> Path:
    """Export a run's or a checkpoint's policy, or the mean of several; return the new folder.

    It holds safetensors, the processor, `prompter.json` and README.md, and loads in transformers
    (`AutoModelForImageTextToText`, `AutoProcessor`), in vLLM and in `prompter eval --policy FOLDER`.

    Args:
        given: see `recipes.exporting.source.find_export`; several: the mean of their weights, see
            `recipes.exporting.mean.mean_weights`, asked as each of them is.
        target: the new folder; appears whole or not at all.
        dtype: of the weights; "auto" is that in which they were saved (of several, the first).
        shard_size: largest file of weights, such as "5GB" or "500MB".

    Raises:
        UserError: if the folder exists, there is nothing to export, or a shard size is not one; and as
            `mean_weights`.
    """
    if target.exists():
        raise UserError(f"{target} exists already: name a new folder")
    _check_shard_size(shard_size)
    found, *others = [find_export(one) for one in ([given] if isinstance(given, str) else given)]
    model: Any = mean_weights([found, *others], dtype) if others else loaded(found, dtype)
    model.config.name_or_path = ""  # else the folder of this machine would be written into config.json
    with atomic_folder(target) as unfinished:
        model.save_pretrained(unfinished, max_shard_size=shard_size)
        found.policy.save_protocol(unfinished)
        with atomic_write(unfinished / "README.md") as handle:
            handle.write(model_card(found, target.name, str(model.dtype).removeprefix("torch."), others))
        for path in unfinished.iterdir():  # safetensors makes its files private
            path.chmod((unfinished.stat().st_mode & 0o666) | 0o600)
    return target


def _check_shard_size(text: str) -> None:
    number = text.upper().removesuffix("GB").removesuffix("MB")
    if number == text.upper() or not number.isdecimal() or int(number) == 0:
        raise UserError(f"--shard-size {text} should be a size such as 5GB or 500MB")
