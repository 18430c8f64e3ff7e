"""`load` opens a policy with a frozen segmenter; `Prompter` asks it about pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from envs.datasets.reading.rules import PILLOW_LIMIT, ReadingRules
from envs.executors import open_executor
from envs.executors.base import Executor
from envs.executors.config import ExecutorConfig
from envs.rollout import Rollout
from envs.rollouts import make_rollouts
from envs.sample import Sample
from eval.answerers import build_answerer, is_checkpoint
from prompter.errors import UserError
from prompter.runs.jsonl import to_line
from prompter.types import Answer, PromptSet
from recipes.api.comparison import Comparison
from recipes.api.looks import Looks
from recipes.api.pictures import ImageLike, Picture, read_picture
from recipes.api.result import Result
from recipes.commands.arguments import OWN_MASKS, executor_name, parse_executor

if TYPE_CHECKING:
    from eval.answerers.base import Answerer

T = TypeVar("T")
Several = list[T] | tuple[T, ...]
"""What counts as several: an array or a text is one thing."""

LooksLike = int | Mapping[str, Any] | None
"""How often to look at a question; see `Prompter.segment`."""

QUESTIONS_AT_ONCE = 16
"""Questions that are handed to the policy and the segmenter together."""


def load(
    policy: str | Path,
    executor: str | ExecutorConfig = "mobile-sam",
    *,
    adapter: str | Path | None = None,
    sampler: Literal["hf", "vllm"] = "hf",
    options: Mapping[str, Any] | None = None,
    stretch: str = "refuse",
    max_pixels: int = PILLOW_LIMIT,
) -> Prompter:
    """Open a policy and the segmenter that draws what it points at.

    Args:
        policy: who answers: a checkpoint folder, a hub id, `shipped:NAME`, or anything else that
            `prompter eval --policy` takes, such as `openai:URL#MODEL`.
        executor: the segmenter, `FAMILY[:MODEL][,KEY=VALUE…]` as `--executor` takes it, or its config;
            `own-masks` for a policy that brings its own masks. See docs/segmenters.md.
        adapter: folder of a LoRA adapter for the policy, or `shipped:NAME`.
        sampler: what generates a checkpoint's answers: `hf` (transformers) or `vllm`, which starts slower and
            answers many questions faster.
        options: how the policy is asked, as `--policy-option` takes it: {"max_new_tokens": 256}.
        stretch: how images of more than 8 bits a channel are seen; see
            `envs.datasets.reading.rules.ReadingRules`.
        max_pixels: images of more pixels are refused.

    Returns:
        A `Prompter`; close it, or use it in a `with` block. Answers are greedy: the same question about the
        same image is answered alike.

    Raises:
        UserError: if there is no such policy, segmenter or option; one sentence says which.
    """
    rules = ReadingRules(stretch=stretch, max_pixels=max_pixels)
    config = _executor_config(executor)
    given = checkpoint_options(str(policy), options or {}, sampler)
    if adapter is not None:
        given["adapter"] = str(adapter)
    answerer = build_answerer(str(policy), given)
    try:
        opened = None if config is None else open_executor(config)
    except BaseException:
        answerer.close()
        raise
    return Prompter(answerer, opened, executor_name(config), policy=str(policy), rules=rules)


def checkpoint_options(policy: str, options: Mapping[str, Any], sampler: str = "hf") -> dict[str, Any]:
    """Options of a policy, with a sampler where they name none; what is no checkpoint has no sampler."""
    if not is_checkpoint(policy):
        return dict(options)
    return {**options, "sampler": {"backend": sampler, **options.get("sampler", {})}}


def thought_is_opened(answerer: Answerer) -> bool:
    """Whether completions begin inside a thought; no where an answerer has no policy of ours."""
    return bool(getattr(getattr(answerer, "policy", None), "thought_opened", False))


def _executor_config(given: str | ExecutorConfig) -> ExecutorConfig | None:
    """The config of a segmenter; None for `own-masks`."""
    if isinstance(given, ExecutorConfig):
        return given
    return None if given == OWN_MASKS else parse_executor(given)


class Prompter:
    """A policy with a segmenter, ready to be asked. Made by `load`.

    Args:
        answerer: who answers; closed with this object.
        executor: what segments; closed with this object. None takes the masks that answers bring along.
        name: of the executor.
        policy: name of the policy.
        rules: how images are read.
    """

    def __init__(
        self,
        answerer: Answerer,
        executor: Executor | None,
        name: str,
        *,
        policy: str = "",
        rules: ReadingRules | None = None,
    ) -> None:
        self.policy, self.executor = policy, name
        self._answerer = answerer
        self._executors: dict[str, Executor | None] = {name: executor}
        self._rules = rules or ReadingRules()
        self._thought_opened = thought_is_opened(answerer)
        self._closed = False

    @overload
    def segment(self, image: ImageLike, query: str, *, looks: LooksLike = None) -> Result: ...
    @overload
    def segment(self, image: ImageLike, query: Several[str], *, looks: LooksLike = None) -> list[Result]: ...
    @overload
    def segment(
        self, image: Several[ImageLike], query: str | Several[str], *, looks: LooksLike = None
    ) -> list[Result]: ...

    def segment(self, image: Any, query: Any, *, looks: LooksLike = None) -> Any:
        """Ask one question about one image, or several at once.

        Args:
            image: a path, a PIL image, an array, bytes (see `recipes.api.pictures.read_picture`), or a list
                of them.
            query: a question, or a list of them. With one image, all are about it; with as many images as
                questions, each is about its image. One question with several images is asked of each.
            looks: how many further answers to each question are drawn and combined with the greedy one into
                one answer with a `confidence`: their number, or a dict of `samples`, `shift`, `temperature`,
                `top_p`, `seed`, `combine`, `confidence`, `calibration` (docs/looks.md); None asks once.

        Returns:
            A `Result`; a list of them, in order, if either was a list. An image is encoded once, whatever is
            asked about it, and not again in later calls while the segmenter's cache keeps it.

        Raises:
            UserError: if an image cannot be read, the lists differ in length, or `looks` cannot be done.
        """
        self._check_open()
        how = None if looks is None else Looks.asked(looks)
        several = _is_list(image) or _is_list(query)
        given = list(image) if _is_list(image) else [image]
        queries = list(query) if _is_list(query) else [query]
        for one in queries:
            if not isinstance(one, str) or not one.strip():
                raise UserError(f"A question should be text that is not empty, but is {one!r}.")
        if len(given) != len(queries) and 1 not in (len(given), len(queries)):
            raise UserError(
                f"{len(given)} images and {len(queries)} questions do not pair; give as many of both, or one."
            )
        count = max(len(given), len(queries)) if given and queries else 0
        pictures = [read_picture(one, self._rules) for one in given]
        results: list[Result] = []
        for start in range(0, count, QUESTIONS_AT_ONCE):
            samples = [
                pictures[number % len(pictures)].sample(queries[number % len(queries)])
                for number in range(start, min(start + QUESTIONS_AT_ONCE, count))
            ]
            if how is None:
                results += self._results(samples, self._answerer.answer(samples), self.executor)
            else:
                executor = self._executors[self.executor]
                rollouts = how.answer(samples, self._answerer, executor, self.executor)
                results += self._told(samples, rollouts)
        return results if several else results[0]

    def compare(self, image: ImageLike, query: str, executors: Sequence[str | ExecutorConfig]) -> Comparison:
        """Ask once, and have several segmenters draw what the policy pointed at.

        Args:
            image, query: one of each, as in `segment`.
            executors: segmenters, each as in `load`. They stay open until this object is closed.

        Returns:
            The results by name of the segmenter, in order, with a picture of all of them.

        Raises:
            UserError: as `load` and `segment`; or if there is no segmenter, or one is given twice.
        """
        self._check_open()
        configs = [_executor_config(one) for one in executors]
        names = [executor_name(config) for config in configs]
        if not names or len(set(names)) < len(names):
            raise UserError(f"compare needs segmenters, each once, but got {', '.join(names) or 'none'}.")
        sample = read_picture(image, self._rules).sample(query)
        for name, config in zip(names, configs, strict=True):
            if name not in self._executors:
                self._executors[name] = None if config is None else open_executor(config)
        answers = self._answerer.answer([sample])
        return Comparison({name: self._results([sample], answers, name)[0] for name in names})

    @property
    def counters(self) -> dict[str, float]:
        """What the segmenters did since they were opened, all together: `encodes`, `decodes` and so on
        (`envs.executors.base.ExecutorCounters`)."""
        total: dict[str, float] = {}
        for executor in self._executors.values():
            for name, value in (executor.counters.to_dict() if executor is not None else {}).items():
                total[name] = total.get(name, 0) + value
        return total

    def close(self) -> None:
        """Release models and actors. Results stay as they are, but cannot be refined any more."""
        if self._closed:
            return
        self._closed = True
        self._answerer.close()
        for executor in self._executors.values():
            if executor is not None:
                executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Prompter {self.policy} with {self.executor}{', closed' if self._closed else ''}>"

    def _check_open(self) -> None:
        if self._closed:
            raise UserError("This Prompter is closed; load the policy again.")

    def _results(
        self, samples: Sequence[Sample], answers: Sequence[Answer], name: str, *, edited: bool = False
    ) -> list[Result]:
        rollouts = make_rollouts(samples, answers, self._executors[name], name=name, keep_instances=True)
        return self._told(samples, rollouts, edited=edited)

    def _told(
        self, samples: Sequence[Sample], rollouts: Sequence[Rollout], *, edited: bool = False
    ) -> list[Result]:
        return [
            Result(
                rollout,
                sample.load_image,
                self.policy,
                thought_opened=self._thought_opened and not edited,
                edited=edited,
                redo=self._redo,
            )
            for rollout, sample in zip(rollouts, samples, strict=True)
        ]

    def _redo(self, result: Result, prompts: PromptSet) -> Result:
        """Decode other prompts on a result's image; for `Result.refine`."""
        self._check_open()
        rollout = result.rollout
        if self._executors[rollout.executor] is None:
            raise UserError("A policy that brings its own masks has no segmenter that could refine them.")
        _check_inside(prompts, rollout.image_wh)
        picture = Picture(rollout.image_id, result.load_image, rollout.image_wh)
        text = to_line({"prompts": prompts.to_json()}).rstrip()
        sample = picture.sample(rollout.query, rollout.sample_id)
        return self._results([sample], [Answer(text, prompts)], rollout.executor, edited=True)[0]


def _is_list(given: Any) -> bool:
    return isinstance(given, list | tuple)


def _check_inside(prompts: PromptSet, image_wh: tuple[int, int]) -> None:
    """Refuse points outside the image and boxes that do not meet it, perhaps of another frame."""
    width, height = image_wh
    for number, one in enumerate(prompts.instances):
        outside = [
            point
            for point in (*one.positive_points, *one.negative_points)
            if not (0 <= point[0] <= width and 0 <= point[1] <= height)
        ]
        box = one.box or (0.0, 0.0, math.inf, math.inf)
        if outside or box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
            what = f"point {outside[0]}" if outside else f"box {one.box}"
            raise UserError(
                f"{what} of object {number} is outside the image, which is {width} x {height} pixels."
            )
