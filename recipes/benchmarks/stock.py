"""What `prompter bench step` compares with: TRL's own trainer, and a segmenter asked as the field asks it.

TRL samples with transformers' `generate`, all completions of a step in one batch, and computes its loss as
it does for everybody. The reward sets the image and predicts one instance at a time with the published
package's predictor; parsing, IoU and loading of images are ours, and are done once where TRL would not care.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from envs.executors.base import (
    Executor,
    ExecutorCounters,
    ExecutorFailure,
    Segmentation,
    SegmentRequest,
    by_image,
)
from envs.executors.families.reference import ReferencePredictor
from envs.rollouts import image_key
from envs.sample import Sample, SampleSource
from prompter.checkpoint import Checkpoint
from prompter.types import Completion
from recipes.training.scoring import RolloutScorer, ScoredGroup


class PeersExecutor(Executor):
    """A package's predictor behind our contract: one instance at a time, as published rewards do it.

    Args:
        predictor: see `envs.executors.families.reference`.
        encode_once: set each image of a call once, instead of once per completion.
    """

    name = "peers"

    def __init__(self, predictor: ReferencePredictor, *, encode_once: bool = False) -> None:
        self.predictor, self.encode_once = predictor, encode_once
        self.counters = ExecutorCounters()

    def segment(
        self, requests: Sequence[SegmentRequest], *, keep_instances: bool = False, keep_logits: bool = False
    ) -> list[Segmentation | ExecutorFailure]:
        """See `Executor.segment`; a prompt set without instances sets no image."""
        results: dict[int, Segmentation] = {}
        for image, own in by_image(requests):
            is_set = False
            for index in own:
                masks, scores = [], []
                for instance in requests[index].prompts.instances:
                    if not is_set:
                        self.predictor.set_image(image)
                        self.counters.encodes += 1
                        is_set = True
                    mask, score, _ = self.predictor.predict(instance)
                    masks.append(mask)
                    scores.append(score)
                union = np.any(masks, axis=0) if masks else np.zeros(image.shape[:2], np.bool_)
                results[index] = Segmentation(
                    union, np.asarray(scores, np.float32), instance_masks=tuple(masks)
                )
                is_set = is_set and self.encode_once
                self.counters.decodes += 1
                self.counters.instances += len(masks)
        return [results[index] for index in range(len(requests))]

    def close(self) -> None:
        """Nothing to release."""


class StockTrainer(GRPOTrainer):
    """TRL's trainer as it is, with a stopwatch on generating and on the reward.

    Args:
        model: a PEFT model, or a plain one of which all weights are trained.
        args: TRL's config; `shuffle_dataset` must be off.
        policy: whose prompts are asked.
        source: the training set.
        order: training-set indices of the questions in the order in which they are asked, whole windows.
        scorer: gives the rewards; its executor is what a step's segmenting costs.

    Attributes:
        seconds: phase -> seconds of each window so far, for "sample" and "segment".
        scored: the groups of each window so far, in the order of their questions.
    """

    def __init__(
        self,
        *,
        model: Any,
        args: GRPOConfig,
        policy: Checkpoint,
        source: SampleSource,
        order: Sequence[int],
        scorer: RolloutScorer,
    ) -> None:
        self.policy, self.source, self.scorer = policy, source, scorer
        self._group_size = int(args.num_generations or 1)
        self.seconds: dict[str, list[float]] = {"sample": [], "segment": []}
        self.scored: list[list[ScoredGroup]] = []
        self._samples: dict[int, Sample] = {}
        self._pictures: dict[str, Any] = {}
        rows = Dataset.from_dict({"index": list(order)})
        rows.set_transform(self._rows)
        policy.processor.tokenizer.padding_side = "left"
        super().__init__(
            model=model,
            args=args,
            processing_class=policy.processor,
            train_dataset=rows,
            reward_funcs=[self._reward],
        )
        self.remove_callback(PrinterCallback)

    def _sample(self, index: int) -> Sample:
        return self._samples.setdefault(index, self.source[index])

    def _rows(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        samples = [self._sample(index) for index in batch["index"]]
        return {
            "prompt": [self.policy.messages(sample.query) for sample in samples],
            "image": [self._picture(sample) for sample in samples],
            "index": batch["index"],
        }

    def _picture(self, sample: Sample) -> Any:
        """The picture as the model sees it, loaded once in a run: loading is not what is compared."""
        key = image_key(sample)
        if key not in self._pictures:
            self._pictures[key] = self.policy.model_image(sample.load_image())
        return self._pictures[key]

    def _generate_single_turn(self, *args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        found = super()._generate_single_turn(*args, **options)
        self.seconds["sample"].append(time.perf_counter() - started)
        return found

    def _reward(
        self, prompts: Any, completions: Any, completion_ids: Any, index: list[int], **_: Any
    ) -> list[float | None]:
        started = time.perf_counter()
        size = self._group_size
        answers = [
            Completion(
                one[0]["content"], tuple(ids), None, "stop" if ids[-1] in self.eos_token_ids else "length"
            )
            for one, ids in zip(completions, completion_ids, strict=True)
        ]
        groups = [answers[start : start + size] for start in range(0, len(answers), size)]
        asked = index[::size]
        scored = self.scorer.score(asked, [self._sample(one) for one in asked], groups, len(self.scored) + 1)
        self.seconds["segment"].append(time.perf_counter() - started)
        self.scored.append(scored)
        return [reward for group in scored for reward in group.rewards]
