"""New weights for a vLLM engine while it lives, and the proof that it took all of them.

`reload_weights` of vLLM 0.31 puts checkpoint tensors into a loaded model layer by layer. Two things it
leaves undone. A parameter that the tensors do not reach keeps its old value, with a warning in a log.
And a head that is tied to the embeddings, which CPUs multiply by a packed copy, keeps the old copy (the
log-probabilities of the small policy were then off by 0.39): the reload saw no weight of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

from prompter.errors import UserError


def reload_weights(engine: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Put weights by transformers' names into an `LLM` whose worker runs in this process.

    Its caches are the caller's to reset. If this raises, the engine is half one version, half another.

    Raises:
        UserError: if vLLM does not know a name or a shape, or misses a parameter.
    """
    try:
        engine.collective_rpc(_reload, args=(iter(weights),))
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f"vLLM does not take the policy's weights while it runs ({' '.join(str(error).split())}): train "
            "adapters (policy.lora), or take sampler.backend hf"
        ) from error


def _reload(worker: Any, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
    model = worker.model_runner.get_model()
    load, taken = model.load_weights, set()

    def load_and_note(given: Iterable[tuple[str, torch.Tensor]]) -> Any:
        names = load(given)
        taken.update(names)
        return names

    model.load_weights = load_and_note
    try:
        worker.model_runner.reload_weights(weights_iterator=weights)
    finally:
        del model.load_weights
    # In an engine for adapters the adapted layers hold theirs as `base_layer`. Tied parameters come once.
    missing = {name.replace(".base_layer.", ".") for name, _ in model.named_parameters()} - taken
    if missing:
        raise ValueError(f"nothing was given for {min(missing)!r}, one of {len(missing)} such parameters")
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
