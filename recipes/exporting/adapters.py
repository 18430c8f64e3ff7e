"""An adapter added to the weights that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompter.errors import UserError


def merged(model: Any, adapter: Path) -> Any:
    """A model with an adapter's update added to its weights.

    Raises:
        UserError: if the adapter cannot be read or belongs to another model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"the adapter in {adapter} does not go onto its model: {first}") from None
