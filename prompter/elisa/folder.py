"""An ELISA policy as a folder: a checkpoint (or LoRA on one), the adapter's weights, and `elisa.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from prompter.checkpoint import Checkpoint, load_policy, load_weights
from prompter.elisa.embedding import MaskAdapter
from prompter.elisa.model import ElisaModel
from prompter.elisa.settings import ElisaSettings
from prompter.elisa.text import AnswerTokens
from prompter.elisa.vocabulary import base_model, words_in
from prompter.errors import UserError
from prompter.registry import is_import
from prompter.runs.config import describe_validation_error
from prompter.runs.files import atomic_write

RECORD, WEIGHTS, LORA = "elisa.json", "elisa.safetensors", "lora"


@dataclass
class ElisaPolicy:
    """An ELISA policy, ready to be trained or asked.

    Args:
        checkpoint: how the language model is asked, and its processor.
        settings: how it was built.
        model: its weights.
        width: of a mask's embedding.
        base: the checkpoint under the LoRA adapter; None where the folder holds all weights.
        proposer: who proposes its masks, as `envs.proposals.config.ProposerConfig` writes it; kept as it is.
        trained: what a card should say of its training.
    """

    checkpoint: Checkpoint
    settings: ElisaSettings
    model: ElisaModel
    width: int
    base: str | None
    proposer: dict[str, Any]
    trained: dict[str, Any]

    @property
    def tokenizer(self) -> Any:
        """The language model's tokenizer."""
        return self.checkpoint.processor.tokenizer

    def save(self, folder: Path) -> None:
        """Write everything into a folder that exists."""
        model: Any = self.model.policy_model
        if self.base is None:
            model.save_pretrained(folder)
        else:
            model.save_pretrained(folder / LORA, save_embedding_layers=False)
        self.checkpoint.save_protocol(folder)
        adapter = {name: value.contiguous().cpu() for name, value in self.model.adapter.state_dict().items()}
        save_file(adapter, folder / WEIGHTS)
        record = {
            "settings": self.settings.model_dump(mode="json"),
            "policy_settings": self.checkpoint.settings.model_dump(mode="json", exclude={"prompt_file"}),
            "width": self.width,
            "base": self.base,
            "proposer": self.proposer,
            "trained": self.trained,
        }
        with atomic_write(folder / RECORD) as handle:
            json.dump(record, handle, indent=2)
            handle.write("\n")

    def load_weights_of(self, folder: Path) -> None:
        """Take over the weights that `save` wrote, in place: a trainer holds these very parameters.

        Raises:
            UserError: if they cannot be read, or are of another size.
        """
        try:
            self.model.adapter.load_state_dict(load_file(folder / WEIGHTS))
            if self.base is None:
                own = base_model(self.model.policy_model)
                state = load_weights(load_policy(folder), dtype=own.dtype).state_dict()
                own.load_state_dict(state)
            else:
                from peft import set_peft_model_state_dict

                state = load_file(folder / LORA / "adapter_model.safetensors")
                set_peft_model_state_dict(self.model.policy_model, state)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder}: its weights cannot be read: {str(error).splitlines()[0]}") from None


def build_elisa(
    checkpoint: Checkpoint,
    language_model: Any,
    settings: ElisaSettings,
    width: int,
    *,
    base: str | None = None,
    proposer: dict[str, Any] | None = None,
    trained: dict[str, Any] | None = None,
) -> ElisaPolicy:
    """Put an ELISA policy together, with a fresh adapter.

    Args:
        checkpoint: see `ElisaPolicy`.
        language_model: its weights, or a PEFT model around them (then `base` names the checkpoint).
        settings, width, base, proposer, trained: see `ElisaPolicy`.
    """
    tokens = base_model(language_model).get_input_embeddings().weight
    adapter = MaskAdapter(width, tokens, settings.hidden, settings.dropout)
    answers = AnswerTokens.of(settings, checkpoint.processor.tokenizer, words_in(language_model))
    model = ElisaModel(language_model, adapter.to(tokens.device), answers)
    return ElisaPolicy(checkpoint, settings, model, width, base, proposer or {}, trained or {})


def load_elisa(folder: Path | str, *, device: str = "cpu") -> ElisaPolicy:
    """Open a folder that `ElisaPolicy.save` wrote.

    Raises:
        UserError: if it is none, or its weights cannot be read.
    """
    folder = Path(folder).expanduser()
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        settings = ElisaSettings.model_validate(record["settings"])
        width, base = int(record["width"]), record["base"]
        asked, proposer, trained = record["policy_settings"], record["proposer"], record["trained"]
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no ELISA policy: it has no {RECORD} (`prompter elisa` writes one)."
        ) from None
    except ValidationError as error:
        raise UserError(describe_validation_error(error, str(path))) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
    # A folder is data: what it says of its base must not have a module imported (as `load_policy` has it).
    if base is not None and is_import(str(asked.get("reads", ""))):
        raise UserError(f"{path} says that answers are read by {asked['reads']!r}, which is code; refused.")
    checkpoint = load_policy(folder) if base is None else load_policy(str(base), asked)
    model: Any = load_weights(checkpoint, dtype=torch.float32 if device == "cpu" else "auto", device=device)
    if base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder / LORA), is_trainable=False)
    elisa = build_elisa(checkpoint, model, settings, width, base=base, proposer=proposer, trained=trained)
    try:
        elisa.model.adapter.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read: {str(error).splitlines()[0]}") from None
    elisa.model.eval()
    return elisa
