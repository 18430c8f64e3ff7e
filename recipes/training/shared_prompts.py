"""Completions of one prompt go through the model behind one copy of the prompt.

A group's completions share image and question, which hold hundreds of tokens, while an answer has
few. TRL gives every completion a row with a prompt of its own, padded to the longest completion. Here
a row is *packed*: the prompt once, then each completion, which sees the prompt and itself and not its
neighbours. Positions are those it would have alone, so the log-probabilities are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prompter.families import carries_state
from recipes.training.shared_vision import equal_images

_SPLIT_BY_ROW = {"pixel_values", "image_grid_thw", "mm_token_type_ids"}

PASS_TOKENS = 8192
"""Tokens (with padding) that go through the model in one pass; at least one packed row does."""

MOST_COMPLETION_TOKENS = 4
"""Completions of a packed row hold at most so many times the tokens of its prompt (but one always
fits): attention is paid for the square of a row, and completions do not look at each other."""


@dataclass(frozen=True)
class Packed:
    """A prompt and some of its completions.

    Args:
        prompt: tokens of the prompt.
        rows: the rows of the batch whose completions follow it, in this order.
        lengths: tokens of each of those completions.
    """

    prompt: int
    rows: tuple[int, ...]
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        # Each completion is preceded by the prompt's last token, whose hidden state tells its first.
        return self.prompt - 1 + sum(self.lengths) + len(self.lengths)


def shared_log_probabilities(
    accelerator: Any,
    model: Any,
    input_ids: Any,
    attention_mask: Any,
    logits_to_keep: int,
    *args: Any,
    most_passes: Callable[[int], int] | None = None,
    **options: Any,
) -> tuple[Any, Any, None] | None:
    """What TRL's `_get_per_token_logps_and_entropies` returns, with one copy of each prompt.

    Args:
        accelerator: the trainer's, for its autocast.
        model, input_ids, attention_mask, logits_to_keep, args, options: as TRL calls its method.
        most_passes: see `log_probabilities`.

    Returns:
        Log-probabilities [rows, logits_to_keep], entropies or None, and None (no auxiliary loss); or
        None where prompts cannot be shared: attention other than PyTorch's, layers that carry a state from
        token to token (Qwen3.5), several images a prompt, or something asked for that is not known here.
    """
    given = {name: value for name, value in options.items() if value is not None}
    wanted = bool(given.pop("compute_entropy", False))
    auxiliary = bool(given.pop("compute_aux_loss", False))
    images = given.pop("num_images", None)
    given.pop("batch_size", None)  # how many rows TRL would hold at a time
    inner = accelerator.unwrap_model(model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    # Attention masks of our own need PyTorch's attention, and a recurrent layer heeds no mask at all.
    masked = inner.config._attn_implementation == "sdpa" and not carries_state(inner.config)
    packable = masked and not auxiliary
    if args or not packable or given.keys() != _SPLIT_BY_ROW or set(images or ()) != {1}:
        return None
    with accelerator.autocast():
        logps, entropies = log_probabilities(
            partial(model, fused_lm_head=True),
            inner.model.get_rope_index,
            input_ids,
            attention_mask,
            logits_to_keep,
            most_passes=most_passes,
            **given,
        )
    return logps, entropies if wanted else None, None


def log_probabilities(
    score: Callable[..., Any],
    positions: Callable[..., tuple[Tensor, Tensor]],
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    *,
    pixel_values: Tensor,
    image_grid_thw: Tensor,
    mm_token_type_ids: Tensor,
    pass_tokens: int = PASS_TOKENS,
    most_passes: Callable[[int], int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every token of every completion.

    Args:
        score: the model with TRL's fused head, as `model(..., fused_lm_head=True)`: takes
            `input_ids`, a bool `attention_mask` [rows, 1, length, length], `position_ids`
            [3, rows, length], `pixel_values`, `image_grid_thw` and `shift_labels`; gives `log_probs`
            and `entropy` [rows, length].
        positions: the model's `get_rope_index`.
        input_ids, attention_mask, mm_token_type_ids: int64 [rows, length]; prompts are padded on the
            left, completions on the right.
        logits_to_keep: length of the completions, with padding.
        pixel_values, image_grid_thw: of the images, one per row, in the order of the rows.
        pass_tokens: see `PASS_TOKENS`.
        most_passes: where a model is divided among ranks, each call of it gathers its weights from all:
            gives the largest of all ranks' numbers of calls, to which every rank fills up with calls whose
            results count nothing.

    Returns:
        Log-probabilities and entropies (without gradient where the head gives none), both
        [rows, logits_to_keep], 0 where a completion is padded.
    """
    width = input_ids.shape[1] - logits_to_keep
    patches = pixel_values.split(image_grid_thw.prod(-1).tolist())
    packs = _packs(input_ids, attention_mask, width, patches, image_grid_thw)
    shape = (len(input_ids), logits_to_keep)
    places: list[Tensor] = []
    found: list[tuple[Tensor, Tensor]] = []
    passes = _passes(packs, pass_tokens)
    filling = 0 if most_passes is None else most_passes(len(passes)) - len(passes)
    for number_of_pass, chosen in enumerate(passes + passes[:1] * filling):
        firsts = torch.tensor([pack.rows[0] for pack in chosen], device=input_ids.device)
        prompt_positions, _ = positions(
            input_ids[firsts, :width],
            mm_token_type_ids=mm_token_type_ids[firsts, :width],
            image_grid_thw=image_grid_thw[firsts],
            attention_mask=attention_mask[firsts, :width],
        )
        laid_out = (
            _row(pack, input_ids, prompt_positions[:, number], width) for number, pack in enumerate(chosen)
        )
        ids, labels, where, owner = map(list, zip(*laid_out, strict=True))
        batch_labels = pad_sequence(labels, batch_first=True, padding_value=-100)
        output = score(
            input_ids=pad_sequence(ids, batch_first=True),
            attention_mask=_attention(pad_sequence(owner, batch_first=True, padding_value=-1)),
            position_ids=pad_sequence(where, batch_first=True).permute(2, 0, 1),
            pixel_values=torch.cat([patches[row] for row in firsts.tolist()]),
            image_grid_thw=image_grid_thw[firsts],
            shift_labels=batch_labels,
        )
        if number_of_pass >= len(passes):
            # In the graph, so that its backward pass gathers, too; worth nothing.
            found[0] = (found[0][0] + 0.0 * output.log_probs.sum(), found[0][1])
            continue
        told = batch_labels != -100
        # TRL's head of a reference model computes no entropy, and nobody asks for it.
        entropy = torch.zeros_like(output.log_probs) if output.entropy is None else output.entropy
        found.append((output.log_probs[told], entropy[told]))
        places += [
            row * logits_to_keep + torch.arange(length)
            for pack in chosen
            for row, length in zip(pack.rows, pack.lengths, strict=True)
        ]
    flat = torch.cat(places).to(input_ids.device)
    return tuple(  # type: ignore[return-value]
        torch.cat(parts).new_zeros(shape).flatten().index_copy(0, flat, torch.cat(parts)).view(shape)
        for parts in zip(*found, strict=True)
    )


def _packs(
    input_ids: Tensor, attention_mask: Tensor, width: int, patches: Sequence[Tensor], grids: Tensor
) -> list[Packed]:
    """Group rows whose prompt (tokens and image) is the same."""
    lengths = attention_mask[:, width:].sum(1).tolist()
    prompts = attention_mask[:, :width].sum(1).tolist()
    ids = input_ids[:, :width].tolist()
    _, images = equal_images(patches, grids)
    groups: dict[tuple[int, ...], list[list[int]]] = {}
    for row, length in enumerate(lengths):
        found = groups.setdefault((images[row], *ids[row][width - prompts[row] :]), [])
        held = sum(lengths[other] for other in found[-1]) if found else 0
        if found and held + length <= MOST_COMPLETION_TOKENS * prompts[row]:
            found[-1].append(row)
        else:
            found.append([row])
    return [
        Packed(prompts[group[0]], tuple(group), tuple(lengths[row] for row in group))
        for found in groups.values()
        for group in found
    ]


def _passes(packs: Sequence[Packed], tokens: int) -> list[list[Packed]]:
    """Sort packed rows by length and cut them where a pass would hold more than so many tokens."""
    passes: list[list[Packed]] = []
    for pack in sorted(packs, key=len):
        if passes and (len(passes[-1]) + 1) * len(pack) <= tokens:
            passes[-1].append(pack)
        else:
            passes.append([pack])
    return passes


def _row(
    pack: Packed, input_ids: Tensor, prompt_positions: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lay out one packed row.

    Args:
        prompt_positions: [3, width], of the left-padded prompt.

    Returns:
        Tokens, next-token labels (-100 where none is scored), positions [length, 3], and which
        completion a token belongs to (0: the prompt); else [length].
    """
    prompt = input_ids[pack.rows[0], width - pack.prompt : width]
    before = prompt_positions[:, width - pack.prompt :].T
    ids, where = [prompt[:-1]], [before[:-1]]
    labels = [torch.full_like(prompt[:-1], -100)]
    owner = [torch.zeros_like(prompt[:-1])]
    end = prompt.new_full((1,), -100)
    for number, (row, length) in enumerate(zip(pack.rows, pack.lengths, strict=True), start=1):
        completion = input_ids[row, width : width + length]
        ids += [prompt[-1:], completion]
        labels += [completion, end]
        steps = torch.arange(length + 1, device=before.device)
        where.append(before[-1] + steps[:, None])
        owner.append(torch.full_like(steps, number))
    return torch.cat(ids), torch.cat(labels), torch.cat(where), torch.cat(owner)


def _attention(owner: Tensor) -> Tensor:
    """Who sees whom: bool [rows, 1, length, length], from the owners [rows, length] (-1: padding).

    A token sees what precedes it in the prompt and in its own completion; padding sees itself, as a
    softmax over nothing is not a number.
    """
    length = owner.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=owner.device).tril()
    shared = owner[:, None, :] == 0
    own = owner[:, None, :] == owner[:, :, None]
    itself = torch.eye(length, dtype=torch.bool, device=owner.device)
    return (((shared | own) & earlier) | itself)[:, None]
