"""Training examples of a seg-token policy: a chat with its marks, the image as it is, and the masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from envs.masks import Mask, decode_rle
from envs.oracle import reading_order, target_masks
from envs.premise import FalsePremise
from envs.rollouts import image_key
from envs.sample import RGB, Sample, SampleSource, as_rgb
from prompter.chat_batch import AnsweredChat, chat_batch
from prompter.checkpoint import Checkpoint
from prompter.errors import UserError
from prompter.seg_tokens import write_marked
from recipes.cold_start.data import ImageStream
from recipes.seg_token.config import SegTokenConfig


@dataclass(frozen=True)
class SegExample:
    """One supervised example.

    Args:
        image_key: samples of one image share it.
        shown: PIL RGB at the size the policy sees.
        image: [height, width, 3] uint8 RGB, for the segmenter.
        query, answer: texts.
        masks: one bool [height, width] per mark of the answer, in its order.
        ignore: bool [height, width], pixels that no loss counts; or None.
    """

    image_key: str
    shown: Image.Image = field(repr=False)
    image: RGB = field(repr=False)
    query: str
    answer: str
    masks: tuple[Mask, ...] = field(repr=False)
    ignore: Mask | None = field(default=None, repr=False)


def marked_targets(sample: Sample, config: SegTokenConfig) -> tuple[Mask, ...]:
    """The masks that an answer to a sample marks, in reading order.

    Raises:
        UserError: if the sample has boxes only.
    """
    if sample.target is None:
        raise UserError(
            f"sample {sample.sample_id!r} of {sample.dataset} has boxes, but no masks to learn from"
        )
    if config.targets == "union":
        target = sample.target_mask()
        return (target,) if target.any() else ()
    return tuple(reading_order(target_masks(sample))[: config.max_targets])


def make_example(
    sample: Sample, policy: Checkpoint, config: SegTokenConfig, image: Image.Image | None = None
) -> SegExample:
    """Turn a sample into an example; `image` is its image, if it is at hand."""
    loaded = sample.load_image() if image is None else image
    masks = marked_targets(sample, config)
    phrase = sample.tags.get(config.phrase_tag, "target")
    answer = write_marked([phrase] * len(masks), config.queries)
    premise = FalsePremise.from_tags(sample.tags) if config.refusals else None
    if premise is not None and not masks:
        answer = f"{premise.refusal()} {answer}"
    return SegExample(
        image_key(sample),
        policy.model_image(loaded),
        as_rgb(loaded),
        sample.query,
        answer,
        masks,
        None if sample.ignore is None else decode_rle(sample.ignore, sample.mask_hw),
    )


class SegStream(ImageStream):
    """An endless stream of examples, whole images at a time."""

    def __init__(
        self, source: SampleSource, policy: Checkpoint, config: SegTokenConfig, *, skip: int = 0
    ) -> None:
        super().__init__(len(source) // config.queries_per_image, seed=config.seed, skip=skip)
        self.source, self.policy, self.config = source, policy, config

    def about(self, image: int, epoch: int) -> Iterator[SegExample]:
        """See `ImageStream.about`."""
        first = image * self.config.queries_per_image
        samples = [self.source[first + query] for query in range(self.config.queries_per_image)]
        loaded: dict[str, Image.Image] = {}
        for sample in samples:
            if sample.image_id not in loaded:
                loaded[sample.image_id] = sample.load_image()
            yield make_example(sample, self.policy, self.config, loaded[sample.image_id])


class SegCollator:
    """Collates examples.

    Returns of a call: what `prompter.chat_batch.chat_batch` gives, and
        images: the distinct images, each [height, width, 3] uint8 RGB, in the order of `image_index`.
        masks: one bool [height, width] per mark of the batch, in order; ignore: one or None per chat.
    """

    def __init__(self, policy: Checkpoint) -> None:
        self.policy = policy

    def __call__(self, examples: Sequence[SegExample]) -> dict[str, Any]:
        tokenizer = self.policy.processor.tokenizer
        batch = chat_batch(
            self.policy,
            [
                AnsweredChat(
                    one.image_key,
                    one.shown,
                    one.query,
                    tokenizer(one.answer + tokenizer.eos_token)["input_ids"],
                )
                for one in examples
            ],
        )
        images: dict[str, RGB] = {}
        for one in examples:
            images.setdefault(one.image_key, one.image)
        return batch | {
            "images": list(images.values()),
            "masks": [mask for one in examples for mask in one.masks],
            "ignore": [one.ignore for one in examples],
        }
