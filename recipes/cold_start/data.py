"""Batches for the cold start: samples rendered as chats with their answers, plus cell-wise supervision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from envs.datasets import open_dataset
from envs.masks import Mask, cell_coverage
from envs.oracle import oracle_prompts, reading_order, target_masks
from envs.premise import FalsePremise
from envs.sample import Sample, SampleSource
from prompter.chat_batch import AnsweredChat, chat_batch
from prompter.checkpoint import Checkpoint
from prompter.errors import UserError
from prompter.types import PromptSet
from recipes.cold_start.augment import photograph_anew
from recipes.cold_start.config import AnswerForm


@dataclass(frozen=True)
class Example:
    """One supervised example.

    Args:
        image_id: samples of one image share it.
        image: PIL RGB at the size the model sees.
        query, answer: texts.
        coverage: float32 [instances, rows, columns]: share of each merged vision token's cell that
            belongs to each target object, in the order of the answer.
        numbers: int64 [instances, 6]: x1, y1, x2, y2 of each object's box and x, y of its first
            interior point, in the model frame.
    """

    image_id: str
    image: Image.Image
    query: str
    answer: str
    coverage: NDArray[np.float32]
    numbers: NDArray[np.int64]


def allowed_forms(kind: str) -> tuple[AnswerForm, ...]:
    """The forms of answer an action space admits; `any` admits all three."""
    forms: dict[str, tuple[AnswerForm, ...]] = {
        "box": ("box",),
        "points": ("points",),
        "box+points": ("box+points",),
        "any": ("box", "points", "box+points"),
    }
    return forms[kind]


def make_example(
    sample: Sample,
    policy: Checkpoint,
    form: AnswerForm,
    *,
    prose: bool = False,
    refuse: bool = False,
    shown: Image.Image | None = None,
) -> Example:
    """Turn a sample into an example whose answer prompts every target object in one form.

    With `prose` the answer is a sentence instead, which `prompter.parse` does not read. With `refuse` the
    answer to a false premise (`envs.premise`) says first, as a thought, what there is instead. `shown`
    replaces the sample's image, already at the size the model sees.
    """
    premise = FalsePremise.from_tags(sample.tags) if refuse else None
    think = None if premise is None else premise.refusal()
    masks = reading_order(target_masks(sample))[: policy.settings.action_space.max_instances]
    points = 0 if form == "box" else min(1, policy.settings.action_space.positive_points)
    prompts = oracle_prompts(masks, box=form != "points", points=points) if masks else PromptSet()
    image = policy.model_image(sample.load_image()) if shown is None else shown
    grid = (image.height // policy.factor, image.width // policy.factor)
    numbers = _model_numbers(masks, policy, sample.image_wh)
    return Example(
        sample.image_id,
        image,
        sample.query,
        _sentence(numbers) if prose else policy.write_answer(prompts, sample.image_wh, think=think),
        cell_coverage(masks, grid),
        numbers,
    )


def _sentence(numbers: NDArray[np.int64]) -> str:
    """Say where objects are as people would: their interior points, in the model frame."""
    places = " and ".join(f"({x},{y})" for x, y in numbers[:, 4:].tolist())
    if not places:
        return "there is no such thing here."
    return f"it is at {places}." if len(numbers) == 1 else f"they are at {places}."


def _model_numbers(masks: Sequence[Mask], policy: Checkpoint, image_wh: tuple[int, int]) -> NDArray[np.int64]:
    frame = policy.frame(image_wh)
    rows = []
    for instance in oracle_prompts(masks, box=True, points=1).instances:
        assert instance.box is not None
        rows.append([*frame.box_to_model(instance.box), *frame.point_to_model(instance.positive_points[0])])
    return np.asarray(rows, np.int64).reshape(-1, 6)


class OpenedAnew:
    """A dataset as a source that other processes open for themselves: not all of what reads it can be sent.

    Args:
        name, split, options: as `envs.datasets.open_dataset` takes them.

    Raises:
        UserError: as that does, here and where it is opened again.
    """

    def __init__(self, name: str, split: str, options: Mapping[str, Any]) -> None:
        self.name, self.split, self.options = name, split, dict(options)
        self._source: SampleSource | None = open_dataset(name, split, **self.options)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": None}

    @property
    def _opened(self) -> SampleSource:
        if self._source is None:
            self._source = open_dataset(self.name, self.split, **self.options)
        return self._source

    def __len__(self) -> int:
        return len(self._opened)

    def __getitem__(self, index: int) -> Sample:
        return self._opened[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._opened)


class ImageStream(IterableDataset, ABC):
    """An endless stream of examples: whole images at a time, in a seeded order.

    Args:
        images: how many there are.
        seed: of their order.
        skip: how many to leave out at the beginning, which a run before it saw.
    """

    def __init__(self, images: int, *, seed: int, skip: int = 0) -> None:
        super().__init__()
        self.images, self.seed, self.skip = images, seed, skip

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        epoch, skipped = divmod(self.skip, self.images)
        while True:
            rng = np.random.default_rng([self.seed, epoch])
            for image in rng.permutation(self.images)[skipped:][number::count]:
                yield from self.about(int(image), epoch)
            epoch, skipped = epoch + 1, 0

    @abstractmethod
    def about(self, image: int, epoch: int) -> Iterator[Any]:
        """The examples about one image in one pass over all."""


class ExampleStream(ImageStream):
    """A stream of examples, each answer's form drawn.

    Args:
        source: training samples; consecutive samples may share an image.
        policy: how questions and answers are written.
        seed: of order and forms.
        queries_per_image: consecutive samples that belong together and are emitted together.
        prose: share of answers that are sentences, by the question's tag `length`.
        forms: weights of the forms of answers; none: all that the action space admits are alike.
        augment: share of images that are photographed anew (`recipes.cold_start.augment`).
        refuse: whether answers to false premises say what there is instead (`make_example`).
        skip: how many images to leave out at the beginning, which a run before it saw.

    Raises:
        UserError: if `forms` names a form that the action space does not admit, or weighs none.
    """

    def __init__(
        self,
        source: SampleSource,
        policy: Checkpoint,
        *,
        seed: int,
        queries_per_image: int,
        prose: Mapping[str, float] | None = None,
        forms: Mapping[AnswerForm, float] | None = None,
        augment: float = 0.0,
        refuse: bool = False,
        skip: int = 0,
    ) -> None:
        super().__init__(len(source) // queries_per_image, seed=seed, skip=skip)
        self.source, self.policy, self.queries_per_image = source, policy, queries_per_image
        self.prose, self.augment, self.refuse = prose or {}, augment, refuse
        self.forms = allowed_forms(policy.settings.action_space.kind)
        self.chances = form_chances(forms, self.forms) if forms else None

    def about(self, image: int, epoch: int) -> Iterator[Example]:
        """The examples about one image, which is loaded (and changed) once for all of them."""
        drawn = np.random.default_rng([self.seed, epoch, image])
        first = image * self.queries_per_image
        samples = [self.source[first + query] for query in range(self.queries_per_image)]
        shown = self.policy.model_image(samples[0].load_image())
        if self.augment:
            light = np.random.default_rng([self.seed, epoch, image, 1])
            if light.random() < self.augment:
                coloured = any(sample.tags.get("family") == "colour" for sample in samples)
                shown = Image.fromarray(photograph_anew(np.asarray(shown), light, keep_colours=coloured))
        for sample in samples:
            count = len(self.forms)
            form = int(drawn.choice(count, p=self.chances) if self.chances else drawn.integers(count))
            share = self.prose.get(sample.tags.get("length", ""), 0.0)
            prose = share > 0 and bool(drawn.random() < share)
            yield make_example(
                sample, self.policy, self.forms[form], prose=prose, refuse=self.refuse, shown=shown
            )


def form_chances(weights: Mapping[AnswerForm, float], forms: Sequence[AnswerForm]) -> list[float]:
    """The chance of each of `forms`, which sum to 1.

    Raises:
        UserError: if a weight is negative or of a form that is not among them, or all weights are zero.
    """
    strange = [form for form in weights if form not in forms]
    if strange:
        raise UserError(
            f"forms names {strange[0]!r}, which the action space does not admit ({', '.join(forms)})"
        )
    given = [float(weights.get(form, 0.0)) for form in forms]
    if min(given) < 0 or not sum(given):
        raise UserError(f"forms must be weights of 0 or more, not all 0, but is {dict(weights)}")
    return [weight / sum(given) for weight in given]


class Collator:
    """Collates examples into one tensor batch.

    Returns of a call: what `prompter.chat_batch.chat_batch` gives, and
        instance: int64 [batch, length], which object of the answer a token speaks of; -1 outside.
        coverage: float32 [objects of the batch, cells] in row-major order; first_object: int64
            [batch + 1], where each sequence's objects begin.
        numbers: int64 [objects of the batch, 6], see `Example`.
    """

    def __init__(self, policy: Checkpoint) -> None:
        self.policy = policy

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        tokenizer = self.policy.processor.tokenizer
        batch = chat_batch(
            self.policy,
            [
                AnsweredChat(
                    one.image_id,
                    one.image,
                    one.query,
                    tokenizer(one.answer + tokenizer.eos_token)["input_ids"],
                )
                for one in examples
            ],
        )
        instance = torch.full_like(batch["input_ids"], -1)
        for row, labels in zip(instance, batch["labels"], strict=True):
            answered = labels != -100
            row[answered] = torch.tensor(self._objects(labels[answered].tolist()))
        return batch | {
            "instance": instance,
            "coverage": torch.from_numpy(
                np.concatenate(
                    [
                        one.coverage.reshape(len(one.coverage), int(np.prod(one.coverage.shape[1:])))
                        for one in examples
                    ]
                )
            ),
            "first_object": torch.tensor([0, *np.cumsum([len(one.coverage) for one in examples])]),
            "numbers": torch.from_numpy(np.concatenate([one.numbers for one in examples])),
        }

    def _objects(self, answer_ids: Sequence[int]) -> list[int]:
        """Which object of the answer each token belongs to: each begins with a brace, in prose a bracket."""
        pieces = self.policy.processor.tokenizer.convert_ids_to_tokens(list(answer_ids))
        return list(np.cumsum(["{" in piece or "(" in piece for piece in pieces]) - 1)
