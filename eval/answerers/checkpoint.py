"""A sampled policy as the one who answers: a checkpoint of ours or of Qwen-VL, with its sampler."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from envs.rollouts import image_key, make_requests, question_key
from envs.sample import Sample
from envs.views import drawn_view, read_answer
from eval.answerers.base import LookedAnswers, LookSettings
from prompter.chat import SamplingRequest
from prompter.coords import FrameKind
from prompter.errors import UserError
from prompter.policy import Policy
from prompter.runs.config import describe_validation_error
from prompter.sampling.base import Sampler, SamplingSettings
from prompter.sampling.token_sampler import named_seed
from prompter.types import Answer, Completion


class SamplerAnswerer:
    """Answers with one completion per question from a sampler, greedily by default.

    Args:
        policy: how questions are put and answers read.
        sampler: draws the completions; closed with this object.
        settings: how to sample; `n` must be 1.
    """

    def __init__(self, policy: Policy, sampler: Sampler, settings: SamplingSettings) -> None:
        if settings.n != 1:
            raise ValueError(f"evaluation takes one completion per question, but n is {settings.n}")
        self.policy = policy
        self._sampler = sampler
        self._settings = settings

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """Return one answer per sample, in order."""
        groups = self._sampler.sample(make_requests(self.policy, samples), self._settings)
        return [
            self.policy.read(completions[0], sample.image_wh)
            for sample, completions in zip(samples, groups, strict=True)
        ]

    def look(self, samples: Sequence[Sample], settings: LookSettings) -> LookedAnswers:
        """See `Looker.look`. A question's completions depend on its name, not on what is asked beside it."""
        requests = make_requests(self.policy, samples)
        started = time.perf_counter()
        greedy = self._read(samples, self._sampler.sample(requests, self._settings))
        between = time.perf_counter()
        if settings.shift:
            sampled = self._moved(samples, settings)
        else:
            sampled = self._drawn(samples, requests, settings)
        ended = time.perf_counter()
        answers = [[*first, *others] for first, others in zip(greedy, sampled, strict=True)]
        return LookedAnswers(answers, between - started, ended - between)

    def _read(self, samples: Sequence[Sample], groups: Sequence[Sequence[Completion]]) -> list[list[Answer]]:
        """What was read in the completions about each sample's image."""
        return [
            [self.policy.read(one, sample.image_wh) for one in completions]
            for sample, completions in zip(samples, groups, strict=True)
        ]

    def _drawn(
        self, samples: Sequence[Sample], requests: Sequence[SamplingRequest], settings: LookSettings
    ) -> list[list[Answer]]:
        """`settings.samples` answers to each question, drawn in one request."""
        seeded = [
            replace(request, seed=named_seed(settings.seed, question_key(sample)))
            for request, sample in zip(requests, samples, strict=True)
        ]
        how = self._drawing(settings, settings.samples)
        return self._read(samples, self._sampler.sample(seeded, how))

    def _moved(self, samples: Sequence[Sample], settings: LookSettings) -> list[list[Answer]]:
        """`settings.samples` answers to each question, each about a view of the image of its own.

        The questions about an image share its views, and one view of all is in memory at a time.
        """
        how = self._drawing(settings, 1)
        found: list[list[Answer]] = [[] for _ in samples]
        for number in range(settings.samples):
            views = [
                drawn_view(f"{image_key(one)}/{number}", settings.seed, settings.shift, one.image_wh)
                for one in samples
            ]
            moved = [view.of(one) for one, view in zip(samples, views, strict=True)]
            requests = [
                replace(request, seed=named_seed(settings.seed, f"{question_key(one)}/{number}"))
                for request, one in zip(make_requests(self.policy, moved), samples, strict=True)
            ]
            answers = zip(samples, views, self._sampler.sample(requests, how), found, strict=True)
            for one, view, (completion,), mine in answers:
                mine.append(read_answer(self.policy, completion, one, view))
        return found

    def _drawing(self, settings: LookSettings, count: int) -> SamplingSettings:
        return replace(
            self._settings, n=count, temperature=settings.temperature, top_p=settings.top_p, top_k=0
        )

    def describe(self) -> dict[str, Any]:
        """How it asks and reads, with every default filled in, JSON-ready; kept beside the run."""
        return self.policy.describe()

    def forget(self) -> None:
        """Drop what the sampler keeps of earlier calls."""
        self._sampler.forget()

    def close(self) -> None:
        """Close the sampler."""
        self._sampler.close()


def open_checkpoint(
    source: str, options: dict[str, Any], *, assumed_frame: FrameKind | None = None
) -> SamplerAnswerer:
    """Open a checkpoint greedily; options `sampler` and `adapter` are taken out, the rest is its protocol.

    `assumed_frame`: see `prompter.checkpoint.load_policy`.
    """
    from prompter.checkpoint import load_policy, resolve_source
    from prompter.sampling import open_sampler
    from prompter.sampling.config import SamplerConfig

    given = options.pop("sampler", {})
    adapter = options.pop("adapter", None)
    if adapter is not None:
        adapter = resolve_source(str(adapter), "adapter")
    try:
        config = SamplerConfig.model_validate(given)
    except ValidationError as error:
        raise UserError(describe_validation_error(error, "the option sampler", data=given)) from None
    if "backend" not in config.model_fields_set:
        config = config.model_copy(update={"backend": _default_sampler()})
    rank = None if adapter is None else _adapter_rank(Path(adapter))
    policy = load_policy(source, options, assumed_frame=assumed_frame)
    if config.backend == "ray":
        from prompter.runs.ray_runtime import ensure_ray

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
