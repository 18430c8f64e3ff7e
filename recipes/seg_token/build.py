"""From a checkpoint to a seg-token policy that can be trained: new tokens, projection, head, adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from envs.seg_token.build_head import build_head
from envs.seg_token.model import SegTokenModel, SegTokenPolicy, open_encoder, take_over_state
from envs.seg_token.settings import SETTINGS_FILE, SegTokenSettings
from prompter.checkpoint import Checkpoint, load_policy, load_weights, resolve_source
from prompter.errors import UserError
from prompter.sampling.weights import merged_weights
from prompter.seg_tokens import add_mark_tokens, mark_tokens, query_ids, query_tokens
from recipes.seg_token.config import SegTokenConfig
from recipes.training.shared_vision import share_vision


def build(config: SegTokenConfig) -> tuple[SegTokenPolicy, Any]:
    """Build the policy that a config describes, its trained parameters requiring grad.

    Returns:
        The policy, and the PEFT model around its language model; None where all weights are trained.

    Raises:
        UserError: if the checkpoint or the segmenter is not to be had, or they do not fit.
    """
    policy = load_policy(config.init, {"prompt": config.prompt, "max_new_tokens": config.max_new_tokens})
    settings = SegTokenSettings(
        executor=config.executor,
        head=config.head,
        queries=config.queries,
        max_targets=config.max_targets,
    )
    executor = open_encoder(settings)
    language = load_weights(policy, dtype=torch.float32)
    torch.manual_seed(config.seed)
    add_marks(language, policy, config.queries, config.start_from)
    share_vision(language)
    policy = replace(policy)  # what it had derived from the tokenizer before
    adapted = _adapt(language, policy, config)
    ids = query_ids(policy.processor.tokenizer, config.queries)
    model = SegTokenModel(language, build_head(executor, config.head), ids)
    source = Path(resolve_source(config.init))
    if (source / SETTINGS_FILE).is_file():
        take_over_state(model, source)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return SegTokenPolicy(policy, model.to(device), settings, executor), adapted


def add_marks(
    model: Any, policy: Checkpoint, queries: int, start_from: Mapping[str, str] | None = None
) -> None:
    """Add the tokens of the notation to a tokenizer, and rows for them to a model that lacks some.

    A new row is the mean of the known tokens' rows with a little noise, or that of the tokens of the text
    that `start_from` names for it, with less (a target's further query tokens with more). Where a vocabulary
    was padded (Qwen's is) new rows take the place of some that no training has seen.

    Raises:
        UserError: if `start_from` names what is no token of the notation, or gives it no text.
    """
    tokenizer = policy.processor.tokenizer
    known = sorted(tokenizer.get_vocab().values())
    like = _starts(tokenizer, queries, start_from or {})
    add_mark_tokens(tokenizer, queries)
    vocabulary = tokenizer.get_vocab()
    new = sorted(set(vocabulary.values()) - set(known))
    if not new:
        return
    if new[-1] >= len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(new[-1] + 1, mean_resizing=False)
    tables = {
        id(one.weight): one.weight for one in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    with torch.no_grad():
        for weight in tables.values():
            old = weight[known]
            noise = old.std(0) * torch.randn(len(new), weight.shape[1], dtype=weight.dtype).to(weight.device)
            weight[new] = old.mean(0) + 0.1 * noise
            for text, ids in like.items():
                if vocabulary[text] in new:
                    share = 0.2 if text in query_tokens(queries)[1:] else 0.02  # or all queries ask the same
                    weight[vocabulary[text]] = (
                        weight[ids].mean(0) + share * noise[new.index(vocabulary[text])]
                    )


def _starts(tokenizer: Any, queries: int, start_from: Mapping[str, str]) -> dict[str, list[int]]:
    """Of each token of the notation that is named, the token ids that it starts from."""
    found: dict[str, list[int]] = {}
    for name, text in start_from.items():
        tokens = query_tokens(queries) if name == "[SEG]" else (name,)
        if not set(tokens) <= set(mark_tokens(queries)):
            raise UserError(
                f"start_from names {name!r}, which is none of {', '.join(mark_tokens(1))}: name one of those"
            )
        ids = tokenizer(text)["input_ids"]
        if not ids:
            raise UserError(f"start_from gives {name!r} an empty text: name one that the checkpoint writes")
        found |= dict.fromkeys(tokens, ids)
    return found


def _adapt(model: Any, policy: Checkpoint, config: SegTokenConfig) -> Any:
    """Put adapters on the language model and train its embeddings beside them; None trains everything."""
    if config.lora is None:
        return None
    import peft

    adapted = peft.get_peft_model(model, config.lora.for_family(policy.family))
    model.get_input_embeddings().requires_grad_(True)
    model.get_output_embeddings().requires_grad_(True)
    return adapted


def saved_weights(adapted: Any) -> Iterator[tuple[str, Tensor]] | None:
    """The language model's weights with the adapters merged; None where there are none."""
    return None if adapted is None else merged_weights(adapted)
