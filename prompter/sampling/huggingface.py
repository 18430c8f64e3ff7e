"""Sampling with transformers' `generate`, in this process: no engine to start, slow for many samples."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from prompter.checkpoint import load_weights
from prompter.errors import UserError
from prompter.sampling.base import SamplingSettings
from prompter.sampling.token_sampler import TokenPrompt, TokenSampler
from prompter.sampling.weights import named_weights
from prompter.types import Completion

if TYPE_CHECKING:
    from prompter.checkpoint import Checkpoint


class HuggingFaceSampler(TokenSampler):
    """Samples from a transformers model.

    Args:
        model: a Qwen-VL image-text-to-text model, or a PEFT model around one. It is used as it is, on
            its device and with its present weights: wrap the model being trained, and the samples are
            always the newest policy's. Its training mode is put back after each call.
        processor: the policy's Hugging Face processor.
        batch_size: completions generated at once; in greedy sampling with weights of half precision, at
            most as many, because prompts of different lengths are then kept apart.
        follow: token id -> the one that always comes after it, whatever the model says.
    """

    def __init__(
        self, model: Any, processor: Any, *, batch_size: int = 64, follow: Mapping[int, int] | None = None
    ) -> None:
        super().__init__(processor)
        self.model = model
        self.batch_size = batch_size
        self.follow = dict(follow or {})
        self._owned = False
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._wants_types = "mm_token_type_ids" in inspect.signature(type(inner).forward).parameters
        declared = inner.generation_config.eos_token_id
        ends = set(declared if isinstance(declared, list) else [] if declared is None else [declared])
        self.end_ids = sorted(ends | {processor.tokenizer.eos_token_id})

    @classmethod
    def from_policy(
        cls,
        policy: Checkpoint,
        *,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int = 64,
        follow: Mapping[int, int] | None = None,
    ) -> HuggingFaceSampler:
        """Load a copy of the policy's weights; `sync_adapter` then puts adapters on it.

        `dtype` "auto" is float32 on a CPU and the checkpoint's own elsewhere; `device` None is the
        first GPU if there is one.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        chosen = "float32" if dtype == "auto" and device == "cpu" else dtype
        model = load_weights(policy, dtype=chosen, device=device)
        sampler = cls(model, policy.processor, batch_size=batch_size, follow=follow)
        sampler._owned = True
        return sampler

    def sync_adapter(self, adapter: Path, version: int) -> None:
        """Sample from the LoRA adapter in folder `adapter`, if the model is this sampler's own copy.

        A model that is trained in this process has the weights already: only `version` is set.
        """
        if self._owned:
            from peft import PeftModel

            name = f"version_{version}"
            if isinstance(self.model, PeftModel):
                stale = list(self.model.peft_config)
                self.model.load_adapter(str(adapter), adapter_name=name)
                self.model.set_adapter(name)
                for old in stale:
                    self.model.delete_adapter(old)
            else:
                self.model = PeftModel.from_pretrained(self.model, str(adapter), adapter_name=name)
        self.version = version

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Sample from these weights, if the model is this sampler's own copy. See `Sampler.sync_weights`.

        A model that is trained in this process has them already: only `version` is set.

        Raises:
            UserError: if names or shapes are not those of the model.
        """
        if self._owned:
            from peft import PeftModel

            if isinstance(self.model, PeftModel):
                self.model = self.model.unload()
            given, own = dict(weights), dict(named_weights(self.model))
            for name in sorted(given.keys() | own.keys()):
                if name not in given or name not in own or given[name].shape != own[name].shape:
                    raise UserError(f"the weights given are not those of the sampled model: see {name!r}")
            for name, value in given.items():
                own[name].copy_(value)
        self.version = version

    def _generate(
        self, prompts: Sequence[TokenPrompt], settings: SamplingSettings, logprobs: bool
    ) -> list[list[Completion]]:
        rows = [(prompt, copy) for prompt in prompts for copy in range(settings.n)]
        found: dict[int, Completion] = {}
        with _evaluating(self.model), torch.no_grad():
            for batch in self._batches([len(one.token_ids) for one, _ in rows], settings):
                chunk = [rows[index] for index in batch]
                seeds = [None if one.seed is None else one.seed + copy for one, copy in chunk]
                inputs = self._inputs([one for one, _ in chunk])
                found.update(zip(batch, self._run(inputs, settings, seeds, logprobs), strict=True))
        completions = [found[index] for index in range(len(rows))]
        return [completions[i : i + settings.n] for i in range(0, len(completions), settings.n)]

    def _batches(self, lengths: Sequence[int], settings: SamplingSettings) -> list[list[int]]:
        """Which rows are generated together, as their indices; `lengths` are those of their prompts.

        Padding shifts a prompt against the blocks that attention sums over. In float32 that moves logits by
        rounding that decides nothing; in half precision it has changed a quarter of the greedy answers. So
        there only prompts of one length share a batch, and an answer does not depend on its neighbours.
        """
        groups: dict[int, list[int]] = {}
        apart = settings.temperature == 0 and self.model.dtype != torch.float32
        for index, length in enumerate(lengths):
            groups.setdefault(length if apart else 0, []).append(index)
        return [
            group[start : start + self.batch_size]
            for group in groups.values()
            for start in range(0, len(group), self.batch_size)
        ]

    def _inputs(self, prompts: list[TokenPrompt]) -> dict[str, torch.Tensor]:
        """Left-padded model inputs: input_ids and attention_mask [rows, longest prompt], the image
        processor's tensors, and mm_token_type_ids (1 at image tokens) where the model takes them."""
        rows = [one.token_ids for one in prompts]
        longest = max(map(len, rows))
        padding = self.processor.tokenizer.pad_token_id
        input_ids = torch.tensor([[padding] * (longest - len(ids)) + list(ids) for ids in rows])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in rows])
        pixels = self.processor.image_processor(images=[one.image for one in prompts], return_tensors="pt")
        inputs = {"input_ids": input_ids, "attention_mask": mask, **pixels}
        if self._wants_types:
            inputs["mm_token_type_ids"] = (input_ids == self.pad_id).long()
        return {name: tensor.to(self.model.device) for name, tensor in inputs.items()}

    def _run(
        self,
        inputs: dict[str, torch.Tensor],
        settings: SamplingSettings,
        seeds: list[int | None],
        logprobs: bool,
    ) -> list[Completion]:
        drawing = _Drawing(settings, self.suppressed, seeds, self.model.device, self.follow)
        # Values are spelt out because `generate` fills the unset ones from the checkpoint's own defaults
        # (Qwen ships a repetition penalty), which would be a distribution the trainer knows nothing of.
        generation = GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            use_cache=True,
            eos_token_id=self.end_ids,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        with _flat_head(self.model):
            output = self.model.generate(
                **inputs, generation_config=generation, logits_processor=LogitsProcessorList([drawing])
            )
        sampled = output[:, inputs["input_ids"].shape[1] :].tolist()
        table = torch.stack(drawing.logprobs, dim=1).tolist()
        kept = [self._until_end(ids) for ids in sampled]
        texts = self.decode(kept)
        return [
            Completion(
                text=text,
                token_ids=tuple(ids),
                logprobs=tuple(row[: len(ids)]) if logprobs else None,
                finish_reason="stop" if ids[-1] in self.end_ids else "length",
            )
            for text, ids, row in zip(texts, kept, table, strict=True)
        ]

    def _until_end(self, token_ids: list[int]) -> list[int]:
        """Cut after the first end-of-sequence token; what follows is padding."""
        for position, token in enumerate(token_ids):
            if token in self.end_ids:
                return token_ids[: position + 1]
        return token_ids


class _Drawing(LogitsProcessor):
    """Draws every row's next token itself, with a generator of its own, and notes its log-probability.

    `generate` is run greedily and picks what is drawn here. The drawing is vLLM's (the largest of
    probability / exponential noise is a draw from the probabilities), so that on a CPU both engines
    give the same completions for the same seed.
    """

    def __init__(
        self,
        settings: SamplingSettings,
        suppressed: Sequence[int],
        seeds: list[int | None],
        device: torch.device,
        follow: Mapping[int, int],
    ) -> None:
        self.follow = follow
        self.temperature = settings.temperature
        self.suppressed = torch.tensor(suppressed, device=device)
        self.cuts: list[LogitsProcessor] = []
        if settings.top_k > 0:
            self.cuts.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1.0:
            self.cuts.append(TopPLogitsWarper(settings.top_p))
        self.generators: list[torch.Generator | None] = [
            None if seed is None else torch.Generator(device=device).manual_seed(seed) for seed in seeds
        ]
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores [rows, vocabulary] that are 0 at the drawn token and -inf elsewhere."""
        logits = scores.float().index_fill(1, self.suppressed, float("-inf"))
        if self.temperature > 0:
            logits = logits / self.temperature
            for cut in self.cuts:
                logits = cut(input_ids, logits)
            noise = torch.empty_like(logits)
            for row, generator in enumerate(self.generators):
                noise[row].exponential_(generator=generator)
            chosen = (logits.softmax(dim=-1) / noise).argmax(dim=-1, keepdim=True)
        else:
            chosen = logits.argmax(dim=-1, keepdim=True)
        for row, last in enumerate(input_ids[:, -1].tolist() if self.follow else ()):
            if last in self.follow:
                chosen[row] = self.follow[last]
        self.logprobs.append(logits.log_softmax(dim=-1).gather(1, chosen)[:, 0])
        return torch.full_like(scores, float("-inf")).scatter(1, chosen, 0.0)


@contextmanager
def _flat_head(model: Any) -> Iterator[None]:
    """On a CPU in half precision, hand the head its positions as one matrix for the block's length.

    After the prompt, `generate` gives the head a slice of all positions. PyTorch multiplies that per row, and
    in half precision on a CPU copies the head's weights for each: for Qwen2.5-VL-3B, 0.6 GB a row, and a
    hundred times the time.
    """
    head = model.get_output_embeddings()
    if head is None or head.weight.device.type != "cpu" or head.weight.dtype == torch.float32:
        yield
        return
    plain = head.forward

    def flat(hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = plain(hidden.reshape(-1, hidden.shape[-1]))
        return logits.unflatten(0, hidden.shape[:-1])

    head.forward = flat
    try:
        yield
    finally:
        del head.forward


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put the model in evaluation mode (no dropout, and a key-value cache) for the block's length."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
