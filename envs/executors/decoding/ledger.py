"""What each trick of the decoder gains: the same masks with and without it, in turn, in one process.

A row takes one trick out and computes the same by what stands in its place. `prompter bench decoder` times
the rows; the README beside this file keeps the table; tests hold that no row changes the answer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.executors.base import Embedding
from envs.executors.decoding import promptable, sam_decoder, upsample
from envs.executors.decoding.folded_attention import (
    FoldedAttention,
    FoldedTokens,
    ImageSide,
    ImageSlice,
    TokenReading,
)
from envs.executors.decoding.folded_upscaling import FoldedTrace
from envs.executors.decoding.package_prompts import PackagePrompts
from envs.executors.decoding.promptable import PromptableSegmenter
from envs.executors.decoding.sam_decoder import SamDecoder
from prompter.types import PromptSet

Without = Callable[[PromptableSegmenter], AbstractContextManager[None]]
Update = Callable[[Tensor, ImageSlice, FoldedTrace], Tensor]


class OwnFirstLayer(SamDecoder):
    """The first layer as the later ones: nothing of the image's side of its attentions is kept."""

    def _read_first(self, queries: Tensor, side: ImageSide) -> Tensor:
        attention = self._to_image[0]
        reading = TokenReading(attention.fold(attention.queries(queries)))
        for part in side.slices:
            reading.add(part.keys.expand(len(queries), -1, -1), part.where)
        return attention.finish(reading.result())

    def _image_update(self, number: int, queries: Tensor, tokens: Tensor) -> tuple[Update, Tensor]:
        if number:
            return super()._image_update(number, queries, tokens)
        attention, norm = self._to_tokens[0], self._norms[0]
        values, folded = attention.token_values(queries), attention.fold(attention.keys(queries + tokens))

        def update(x: Tensor, part: ImageSlice, trace: FoldedTrace) -> Tensor:
            weights = attention.over_tokens(folded.scores(x.expand(len(queries), -1, -1), part.where))
            x = torch.baddbmm(x, weights.mT, values)
            x, _, deviation = torch.native_layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
            trace.add(weights, deviation)
            return x

        return update, values


class ProjectedScores(FoldedAttention):
    """The image's tokens are projected for the scores, prompt by prompt, as in the packages."""

    def __init__(self, attention: Any, image_projection: nn.Linear, place: Tensor) -> None:
        super().__init__(attention, image_projection, place)
        self.image_projection, self.place = image_projection, place

    def fold(self, x: Tensor) -> FoldedTokens:
        return _ProjectedTokens(x, x, self)


@dataclass(frozen=True)
class _ProjectedTokens(FoldedTokens):
    attention: ProjectedScores

    def scores(self, x: Tensor, where: slice) -> Tensor:
        attention = self.attention
        image = attention._split(attention.image_projection(x + attention.place[where]))  # [B, H, n, D]
        return (self.folded @ image.mT).flatten(1, 2)


class ProjectedValues(FoldedAttention):
    """The image's tokens are projected to values before they are summed, as in the packages."""

    def fold(self, x: Tensor) -> FoldedTokens:
        tokens = super().fold(x)
        return _ValueTokens(tokens.folded, tokens.offsets, self)

    def finish(self, mixed: Tensor) -> Tensor:
        return self._merge(mixed)


@dataclass(frozen=True)
class _ValueTokens(FoldedTokens):
    attention: FoldedAttention


class _ValueReading(TokenReading):
    def result(self) -> Tensor:
        """[B, H, T, D]."""
        assert isinstance(self.tokens, _ValueTokens)
        attention = self.tokens.attention
        values = torch.cat([attention._split(attention.attention.v_proj(x)) for x in self._slices], dim=2)
        weights = torch.softmax(torch.cat(self._scores, dim=-1), dim=-1)
        return weights.unflatten(1, (attention.heads, -1)) @ values


class ProjectedOutputs(SamDecoder):
    """What the image reads off the tokens is projected at each image token, as in the packages."""

    def _image_update(self, number: int, queries: Tensor, tokens: Tensor) -> tuple[Update, Tensor]:
        attention, norm = self._to_tokens[number], self._norms[number]
        token_keys, values = attention.keys(queries + tokens), attention.token_values(queries)
        own = attention._split(attention.attention.v_proj(queries))  # [B, H, T, D]
        folded = None if number == 0 else attention.fold(token_keys)

        def update(x: Tensor, part: ImageSlice, trace: FoldedTrace) -> Tensor:
            if folded is None:
                scores = attention.compare(token_keys, part.first_queries)
            else:
                scores = folded.scores(x, part.where)
            weights = attention.over_tokens(scores)
            x = x + attention._merge(weights.unflatten(1, (attention.heads, -1)).mT @ own)
            x, _, deviation = torch.native_layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
            trace.add(weights, deviation)
            return x

        return update, values


class PlainUpscaling(SamDecoder):
    """The first upscaling layer is applied to the image tokens, prompt by prompt."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        constant = self._first_upscaling.constant
        self._first_upscaling.constant = torch.zeros_like(constant)  # it belongs to the fold

    def _image_update(self, number: int, queries: Tensor, tokens: Tensor) -> tuple[Update, Tensor]:
        update, values = super()._image_update(number, queries, tokens)

        def keep(x: Tensor, part: ImageSlice, trace: FoldedTrace) -> Tensor:
            assert isinstance(trace, _PlainTrace)
            trace.x = update(x, part, trace)
            return trace.x

        return keep, values

    def _upscale(
        self, traces: list[FoldedTrace], prompt_part: Tensor, side: ImageSide, hyper: Tensor
    ) -> Tensor:
        for trace in traces:
            assert isinstance(trace, _PlainTrace)
            trace.weight = self._upscale_weights[0][0]
        return super()._upscale(traces, prompt_part, side, hyper)


class _PlainTrace(FoldedTrace):
    x: Tensor
    weight: Tensor

    def add(self, weights: Tensor, deviation: Tensor) -> None:
        pass

    def apply(self, image_part: Tensor, prompt_part: Tensor, constant: Tensor) -> Tensor:
        if constant.ndim == 1:
            return F.linear(self.x, self.weight, constant)
        return torch.baddbmm(constant[None], self.x, self.weight.t().expand(len(self.x), -1, -1))


class AllTokens(SamDecoder):
    """All tokens go through the last attention."""

    def _tokens_read(self) -> slice:
        return slice(self._leading, None)


class AllMasks(SamDecoder):
    """All masks are upscaled and compared, then one is read."""

    def _tokens_read(self) -> slice:
        return slice(self._leading, self._leading + 1 + self.mask_decoder.num_mask_tokens)

    def _read_out(self, out: Tensor) -> tuple[Tensor, Tensor]:
        hyper, ious = super()._read_out(out)
        mlps = list(self.mask_decoder.output_hypernetworks_mlps)[hyper.shape[2] :]
        rest = [mlp(out[:, 1 + number]) for number, mlp in enumerate(mlps, start=hyper.shape[2])]
        return torch.cat([hyper, torch.stack(rest, dim=2)], dim=2), ious


class TwoResizings(upsample.MaskUpsampler):
    """Logits are resized as in the packages: to the padded input, and from there to the image."""

    def __init__(
        self,
        low_hw: tuple[int, int],
        padded_hw: tuple[int, int],
        used_hw: tuple[int, int],
        original_hw: tuple[int, int],
        device: torch.device,
    ) -> None:
        super().__init__(low_hw, padded_hw, used_hw, original_hw, device)
        self._padded_hw, self._used_hw = padded_hw, used_hw

    def masks(
        self, low_res: Tensor, threshold: float, offset: float = 1.0, at_once: int | None = None
    ) -> tuple[Tensor, Tensor]:
        def resize(one: Tensor) -> tuple[Tensor, Tensor]:
            x, (height, width) = one[None, None], self._used_hw
            if x.shape[2:] != self._padded_hw:
                x = F.interpolate(x, self._padded_hw, mode="bilinear", align_corners=False)
            x = x[..., :height, :width]
            x = F.interpolate(x, self.original_hw, mode="bilinear", align_corners=False)[0, 0]
            inner, outer = (torch.count_nonzero(x > threshold + side) for side in (offset, -offset))
            return x > threshold, torch.where(outer > 0, inner / outer.clamp(min=1), 1.0)

        masks, stability = zip(*upsample.parallel_map(resize, list(low_res)), strict=True)
        return torch.stack(masks), torch.stack(stability)


def _one_after_the_other(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return [function(item) for item in items]


def _threshold_by_torch(values: Tensor, level: float, out: Tensor) -> None:
    torch.gt(values, level, out=out)


def _count_by_torch(values: Tensor, level: float) -> Tensor:
    return torch.count_nonzero(values > level, dim=(-2, -1))


def _one_at_a_time(values: Tensor, grid: tuple[int, int]) -> Tensor:
    height, width = grid
    apart = values.unflatten(-1, (height, width, 2, 2, 2, 2)).permute(0, 1, 2, 4, 6, 3, 5, 7)
    return apart.reshape(*values.shape[:2], 4 * height, 4 * width)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute with another value for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _elsewhere(*changes: tuple[Any, str, Any]) -> Without:
    """Attributes of modules that have another value for a while: (module, name, value)."""

    @contextmanager
    def without(segmenter: PromptableSegmenter) -> Iterator[None]:
        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(_replaced(*change))
            yield

    return without


def _decoded_by(variant: type[SamDecoder], *changes: tuple[Any, str, Any], **settings: int) -> Without:
    """Another decoder, built and run while attributes of modules have other values; settings are its own."""
    elsewhere = _elsewhere(*changes)

    @contextmanager
    def without(segmenter: PromptableSegmenter) -> Iterator[None]:
        prompts = segmenter.decoder
        assert isinstance(prompts, PackagePrompts)
        with elsewhere(segmenter):
            decoder = variant(prompts.prompt_encoder, prompts.mask_decoder, prompts.sam_decoder.multimask)
            for name, value in settings.items():
                setattr(decoder, name, value)
            with _replaced(prompts, "sam_decoder", decoder):
                yield

    return without


@contextmanager
def _each_set_alone(segmenter: PromptableSegmenter) -> Iterator[None]:
    """Prompt sets of one image are not recognised as such."""
    decode = segmenter.decode

    def alone(embeddings: Sequence[Embedding], sets: Sequence[PromptSet], **options: Any) -> Any:
        return decode([replace(embedding) for embedding in embeddings], sets, **options)

    with _replaced(segmenter, "decode", alone):
        yield


_BY_ATTENTION = (sam_decoder, "FoldedAttention")
_THREADS = [(module, "parallel_map", _one_after_the_other) for module in (promptable, sam_decoder, upsample)]

LEDGER: dict[str, Without] = {
    "completions of an image decoded together": _each_set_alone,
    "first layer's image side kept for all prompts": _decoded_by(OwnFirstLayer),
    "score projections folded into the tokens": _decoded_by(SamDecoder, (*_BY_ATTENTION, ProjectedScores)),
    "value projection after the sum": _decoded_by(
        SamDecoder, (*_BY_ATTENTION, ProjectedValues), (sam_decoder, "TokenReading", _ValueReading)
    ),
    "output projection on the tokens' values": _decoded_by(ProjectedOutputs),
    "first upscaling folded through the norms": _decoded_by(
        PlainUpscaling, (sam_decoder, "FoldedTrace", _PlainTrace)
    ),
    "last attention for the tokens that are read": _decoded_by(AllTokens),
    "masks that are read, and no others": _decoded_by(AllMasks),
    "16 prompts a batch, not 1": _decoded_by(SamDecoder, batch=1, upscale_batch=1),
    "512 image tokens a slice, not 4,096": _decoded_by(SamDecoder, image_tokens=4096),
    "4 prompts upscaled at a time, not 16": _decoded_by(SamDecoder, upscale_batch=16),
    "both resizings in one banded product": _elsewhere((promptable, "mask_upsampler", TwoResizings)),
    "banded matrices kept for each size": _elsewhere((promptable, "mask_upsampler", upsample.MaskUpsampler)),
    "logits moved to their places two at a time": _elsewhere((sam_decoder, "_in_place", _one_at_a_time)),
    "masks compared with thresholds by NumPy": _elsewhere(
        (upsample, "_threshold", _threshold_by_torch), (upsample, "_count_above", _count_by_torch)
    ),
    "threads that compute alone": _elsewhere(*_THREADS),
    "nothing (how far figures scatter)": _elsewhere(),
}
"""Trick -> what takes it out of a segmenter that decodes by `PackagePrompts`, as long as it is entered."""


@dataclass(frozen=True)
class Row:
    """One trick, measured.

    Args:
        trick: a key of `LEDGER`.
        seconds, seconds_without: for each mask, the fastest round with it and without it.
        gain: median over rounds of the time without it over that with it, minus one.
    """

    trick: str
    seconds: float
    seconds_without: float
    gain: float


def measure(
    segmenter: PromptableSegmenter,
    embeddings: Sequence[Embedding],
    prompts: Sequence[PromptSet],
    rounds: int = 5,
) -> Iterator[Row]:
    """Time every trick on one batch of prompt sets; with and without it take turns.

    Args:
        segmenter: its decoder must be `PackagePrompts`.
        embeddings, prompts: as `Segmenter.decode` takes them.
        rounds: how often both ways are timed.

    Raises:
        ValueError: if the segmenter decodes by other means.
    """
    if not isinstance(segmenter.decoder, PackagePrompts):
        raise ValueError("the ledger is of `SamDecoder`, by which this segmenter does not decode")
    masks = sum(len(prompt_set) for prompt_set in prompts)

    def seconds() -> float:
        started = time.perf_counter()
        segmenter.decode(embeddings, prompts)
        return (time.perf_counter() - started) / masks

    for trick, without in LEDGER.items():
        ways: list[tuple[float, float]] = []
        with without(segmenter):
            seconds()  # first calls allocate
        for _ in range(rounds):
            own = seconds()
            with without(segmenter):
                ways.append((own, seconds()))
        gain = statistics.median(other / own for own, other in ways) - 1
        yield Row(trick, min(own for own, _ in ways), min(other for _, other in ways), gain)
