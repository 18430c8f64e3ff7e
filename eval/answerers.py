"""Who answers the questions of a benchmark: a sampled policy, an endpoint, or a baseline.

The runner knows only `Answerer`. `build_answerer` makes one from what a user types:

    baseline:NAME         a trivial or oracle baseline (`eval.baselines`)
    openai:URL#MODEL      any OpenAI-compatible endpoint (`eval.endpoint`)
    sam3:FOLDER_OR_ID     SAM 3 asked with the question as text, no policy (`eval.text_segmenter`)
    a folder or hub id    a checkpoint of ours or of Qwen-VL
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from PIL import Image
from pydantic import ValidationError

from envs.masks import RLE
from envs.sample import Sample
from envs.segmentation import image_key
from eval.baselines import BASELINES, Baseline
from prompter.config_files import describe_validation_error
from prompter.errors import UserError, did_you_mean
from prompter.jsonl import to_line
from prompter.sampling.base import Sampler, SamplingRequest, SamplingSettings
from prompter.types import ParseFailure, PromptSet


class Answer(NamedTuple):
    """One answer.

    Args:
        text: the completion.
        prompts: what the parser read, image frame, or why it could not.
        tokens: number of sampled tokens, or 0 if unknown.
        masks: one mask (RLE) per instance, from an answerer that segments by itself; None from all
            others. The executor `own-masks` takes them as they are.
        scores: the answerer's own score of each of these masks.
    """

    text: str
    prompts: PromptSet | ParseFailure
    tokens: int
    masks: tuple[RLE, ...] | None = None
    scores: tuple[float, ...] = ()


class Answerer(Protocol):
    """Answers questions, deterministically: equal batches get equal answers."""

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """Return one answer per sample, in order."""
        ...

    def close(self) -> None:
        """Release what it holds. Safe to call twice."""
        ...


class AskingPolicy(Protocol):
    """How a policy is asked and read; `prompter.policy.Policy` and `eval.endpoint.EndpointPolicy` fit."""

    def request(self, query: str, image: Image.Image, image_key: str = "") -> SamplingRequest:
        """Build the sampler's request for a query on an original image."""
        ...

    def parse(
        self, text: str, image_size: tuple[int, int], finish_reason: Literal["stop", "length"] = "stop"
    ) -> PromptSet | ParseFailure:
        """Read a completion about an image of (width, height) pixels."""
        ...


class SamplerAnswerer:
    """Answers with one completion per question from a sampler, greedily by default.

    Args:
        policy: how questions are put and answers read.
        sampler: draws the completions; closed with this object.
        settings: how to sample; `n` must be 1.
    """

    def __init__(self, policy: AskingPolicy, sampler: Sampler, settings: SamplingSettings) -> None:
        if settings.n != 1:
            raise ValueError(f"evaluation takes one completion per question, but n is {settings.n}")
        self._policy = policy
        self._sampler = sampler
        self._settings = settings

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """Return one answer per sample, in order."""
        images: dict[str, Image.Image] = {}
        requests = []
        for sample in samples:
            key = image_key(sample)
            if key not in images:
                images[key] = sample.load_image()
            requests.append(self._policy.request(sample.query, images[key], key))
        answers = []
        for sample, completions in zip(samples, self._sampler.sample(requests, self._settings), strict=True):
            completion = completions[0]
            prompts = self._policy.parse(completion.text, sample.image_size, completion.finish_reason)
            answers.append(Answer(completion.text, prompts, len(completion.token_ids)))
        return answers

    def close(self) -> None:
        """Close the sampler."""
        self._sampler.close()


class BaselineAnswerer:
    """Answers by a rule that needs no model. The completion is the prompts as JSON, image frame."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """Return one answer per sample, in order."""
        answers = []
        for sample in samples:
            prompts = self._baseline(sample)
            answers.append(Answer(to_line({"prompts": prompts.to_json()}).rstrip(), prompts, 0))
        return answers

    def close(self) -> None:
        """Nothing to release."""


def build_answerer(policy: str, options: Mapping[str, Any] | None = None) -> Answerer:
    """Make the answerer a user names.

    Args:
        policy: see the module's docstring.
        options: for an endpoint, the fields of `eval.endpoint.EndpointSettings`; for SAM 3, those of
            `eval.text_segmenter.TextSegmenterSettings`; for a checkpoint,
            overrides of `prompter.policy.PolicySettings`, `sampler` (a `SamplerConfig` as a dict) and
            `adapter` (folder of a LoRA adapter, or shipped:NAME); none for a baseline.

    Raises:
        UserError: if the name or an option is unknown.
    """
    scheme, colon, rest = policy.partition(":")
    if colon and scheme == "baseline":
        if rest not in BASELINES:
            raise UserError(f"There is no baseline {rest!r}.{did_you_mean(rest, BASELINES)}")
        if options:
            raise UserError(f"A baseline takes no options, but got {', '.join(options)}.")
        return BaselineAnswerer(BASELINES[rest])
    if colon and scheme == "openai":
        from eval.endpoint import build_endpoint

        return SamplerAnswerer(*build_endpoint(rest, options or {}))
    if colon and scheme == "sam3":
        from eval.text_segmenter import build_sam3

        return build_sam3(rest, options or {})
    return _open_checkpoint(policy, dict(options or {}))


def _open_checkpoint(source: str, options: dict[str, Any]) -> SamplerAnswerer:
    """Open a checkpoint greedily; options `sampler` and `adapter` are taken out, the rest is its protocol."""
    from prompter.policy import load_policy, resolve_source
    from prompter.sampling.config import SamplerConfig, open_sampler

    given = options.pop("sampler", {})
    adapter = options.pop("adapter", None)
    if adapter is not None:
        adapter = resolve_source(str(adapter), "adapter")
    try:
        config = SamplerConfig.model_validate({"kind": _default_sampler(), **given})
    except ValidationError as error:
        raise UserError(describe_validation_error(error, "the option sampler", data=given)) from None
    rank = None if adapter is None else _adapter_rank(Path(adapter))
    policy = load_policy(source, options)
    if config.kind == "ray":
        from prompter.ray_runtime import ensure_ray

        ensure_ray()
    sampler = open_sampler(policy, config, lora_rank=rank)
    if adapter is not None:
        sampler.sync_adapter(Path(adapter), 1)
    settings = SamplingSettings(max_new_tokens=policy.settings.max_new_tokens, temperature=0.0, n=1)
    return SamplerAnswerer(policy, sampler, settings)


def _default_sampler() -> str:
    """vLLM where it is installed, transformers elsewhere."""
    return "hf" if importlib.util.find_spec("vllm") is None else "vllm"


def _adapter_rank(folder: Path) -> int:
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise UserError(f"There is no LoRA adapter in {folder}: it holds no adapter_config.json.")
    return int(json.loads(path.read_text(encoding="utf-8"))["r"])
