"""Weights and adapters out of a model that ranks share among them (FSDP2, ZeRO-3), for samplers and files.

Every function here that gathers is called by all ranks together; only rank 0 gets, or uses, what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prompter.errors import UserError
from prompter.sampling.weights import named_weights
from recipes.training.ranks.world import Ranks


def shards(model: Any) -> str | None:
    """How a model's weights are divided among ranks: "fsdp", "zero", or None: each has them all."""
    from torch.distributed.tensor import DTensor

    for parameter in model.parameters():
        if isinstance(parameter, DTensor):
            return "fsdp"
        if hasattr(parameter, "ds_id"):  # what DeepSpeed's ZeRO-3 marks a parameter with
            return "zero"
    return None


def whole_weights(model: Any) -> Iterator[tuple[str, Any]]:
    """As `named_weights`, each parameter gathered while it is looked at.

    All ranks go through it in step; on the others than rank 0 what is given is of no use.
    """
    kind = shards(model)
    if kind is None:
        yield from named_weights(model)
    elif kind == "fsdp":
        from torch.distributed.tensor import DTensor

        for name, parameter in named_weights(model):
            whole: Any = parameter
            yield name, whole.full_tensor() if isinstance(whole, DTensor) else whole
    else:
        import deepspeed

        for name, parameter in model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                yield name, parameter.detach()


def give_weights(ranks: Ranks, model: Any, give: Callable[[Iterable[tuple[str, Any]]], None]) -> None:
    """Call `give` with all of a model's weights on rank 0; the others help to gather them.

    Raises:
        BaseException: what `give` raised, on all ranks.
    """
    weights = whole_weights(model)

    def give_all() -> None:
        try:
            give(weights)
        finally:
            _exhaust(weights)  # the others are in the gathering of the next one

    if not ranks.leads and shards(model) is not None:
        _exhaust(weights)
    ranks.first(give_all)


def _exhaust(weights: Iterator[Any]) -> None:
    for _ in weights:
        pass


def adapter_state(model: Any) -> dict[str, Any] | None:
    """The trained parameters of a sharded PEFT model, whole and on the CPU, by name.

    Rank 0 gets them, the others nothing. None where the model is not sharded: PEFT then saves it as it is.
    """
    kind = shards(model)
    if kind is None:
        return None
    if kind == "fsdp":
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        # PEFT's own `save_pretrained` takes the tensors' memory, which a shard does not have whole.
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return dict(get_model_state_dict(model, options=options))
    import deepspeed

    trained = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    with deepspeed.zero.GatheredParameters([one for _, one in trained]):
        return {name: one.detach().cpu().clone() for name, one in trained}


def give_adapters(ranks: Ranks, model: Any, folder: Path, give: Callable[[Path], None]) -> None:
    """Write a PEFT model's adapters into `folder` and call `give` with it, both on rank 0.

    Raises:
        BaseException: what either raised, on all ranks.
    """
    state = adapter_state(model)

    def save_and_give() -> None:
        options: dict[str, Any] = {} if state is None else {"state_dict": state}
        model.save_pretrained(str(folder), save_embedding_layers=False, **options)
        give(folder)

    ranks.first(save_and_give)


def whole_model(ranks: Ranks, model: Any, load: Callable[[], Any]) -> Any:
    """A model of one piece, adapters merged, on rank 0; None on the others.

    Args:
        ranks: all call this.
        model: what was trained; where it is not sharded, adapters are merged into it.
        load: loads the model that training began from, without adapters, on the CPU.
    """
    from peft import PeftModel, set_peft_model_state_dict

    if shards(model) is None:
        if not ranks.leads:
            return None
        return model.merge_and_unload() if isinstance(model, PeftModel) else model
    if isinstance(model, PeftModel):
        state = adapter_state(model)
        if not ranks.leads or state is None:
            return None
        name = model.active_adapter
        config = model.peft_config[name]
        base = PeftModel(load(), config, adapter_name=name)
        marked = {key.replace(f".{name}.", "."): value for key, value in state.items() if "lora_" in key}
        set_peft_model_state_dict(base, marked, adapter_name=name)
        return base.merge_and_unload()
    if not ranks.leads:
        _exhaust(whole_weights(model))
        return None
    base = load()
    own = dict(named_weights(base))
    for name, value in whole_weights(model):
        own[name].copy_(value)
    return base


def load_saved(model: Any, checkpoint: Path) -> None:
    """Put the weights or adapters of a checkpoint's folder into a model that is not sharded yet.

    Raises:
        UserError: if the folder holds neither.
    """
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
    from safetensors.torch import load_file

    adapters = checkpoint / "adapter_model.safetensors"
    if isinstance(model, PeftModel) and adapters.is_file():
        set_peft_model_state_dict(model, load_peft_weights(str(checkpoint), device="cpu"))
        return
    files = sorted(checkpoint.glob("model*.safetensors"))
    if isinstance(model, PeftModel) or not files:
        raise UserError(
            f"{checkpoint} holds no {'adapters' if isinstance(model, PeftModel) else 'weights'} to load: "
            "resume the run from an older checkpoint by removing this one"
        )
    for file in files:
        model.load_state_dict(load_file(str(file)), strict=False)
