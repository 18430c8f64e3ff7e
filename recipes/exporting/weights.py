"""The weights of what is to be exported, as one model without adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompter.checkpoint import load_weights
from prompter.errors import UserError
from recipes.exporting.source import Exported


def loaded(found: Exported, dtype: str = "auto") -> Any:
    """The model of `found`, an adapter's update added to the weights that it was trained on.

    Args:
        found: whose.
        dtype: of the weights; "auto" is that in which they were saved.

    Raises:
        UserError: as `load_weights`; or if the adapter cannot be read or belongs to another model.
    """
    if found.adapter is None:
        return load_weights(found.policy, dtype=dtype)
    import torch

    model = _merged(load_weights(found.policy), found.adapter)
    return model if dtype == "auto" else model.to(getattr(torch, dtype))


def _merged(model: Any, adapter: Path) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"the adapter in {adapter} does not go onto its model: {first}") from None
