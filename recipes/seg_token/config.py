"""The config of `prompter seg-token`: every key, what it says and its default."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from envs.executors.config import ExecutorConfig
from envs.seg_token.settings import HeadSettings
from prompter.runs.config import StrictModel
from recipes.config import LoraConfig


class SegTokenWeights(StrictModel):
    """Weights of the losses beside the next-token loss, which has weight 1."""

    bce: float = Field(default=2.0, ge=0)
    """Binary cross-entropy of a mask's pixels (LISA, LISAT: 2.0)."""

    dice: float = Field(default=0.5, ge=0)
    """DICE loss of a mask (LISA, LISAT: 0.5)."""

    attention: float = Field(default=0.0, ge=0)
    """SegEarth-R2's spatial attention supervision: the attention from `[SEG]` to the image's tokens, a mean
    over all layers and heads, has to differ on the target from its mean elsewhere (the paper: 0.01)."""

    look: float = Field(default=0.0, ge=0)
    """The cold start's term: half of the heads of the last layer but one have to look at the
    target from its `[SEG]`. For policies that the cold start made, whose heads look so at coordinates."""

    place: float = Field(default=0.0, ge=0)
    """A linear map of the state at `[SEG]`, thrown away afterwards, has to tell the middle and the size of
    the target's box. No paper has it; it costs no decoding."""

    align: float = Field(default=0.0, ge=0)
    """Squared distance between a projected embedding and the token by which the segmenter's own prompt
    encoder writes a point inside the target. No paper has it; it costs no decoding, and shortens a start
    from nothing. Heads of kind `sam` only."""


class PairsConfig(StrictModel):
    """Question-answer pairs without masks; see `recipes.seg_token.pairs` for what a file looks like."""

    path: str
    """JSON array or JSON lines."""

    root: str | None = None
    """Folder that the images' paths start from; null takes the file's own."""


class SegTokenConfig(StrictModel):
    """Everything `prompter seg-token` needs."""

    output_dir: str
    """Folder of the checkpoint; must be new or empty."""

    init: str
    """Checkpoint to start from: a Qwen-VL, `shipped:NAME`, or a seg-token policy, whose projection and head
    are taken over where they fit."""

    dataset: str = "synthetic-aerial"
    """Name of the training set; consecutive samples of one image are kept together."""

    split: str = "train"
    """Its split."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The set's own options."""

    queries_per_image: int = Field(default=6, ge=1)
    """How many consecutive samples share an image (the dataset's own option of that meaning)."""

    pairs: PairsConfig | None = None
    """Learn from these in the place of `dataset`: the first of LISAT's two stages. The second is a run whose
    `init` is the first one's checkpoint. `queries_per_image` pairs in a row are kept together."""

    executor: ExecutorConfig = ExecutorConfig()
    """The frozen segmenter whose image encoder sees the image. Its embeddings are kept as its cache says:
    with `cache_disk_mb` an image is encoded once for all runs."""

    head: HeadSettings = HeadSettings()

    queries: int = Field(default=1, ge=1, le=100)
    """Query tokens of a target. k > 1 is "propose then select": k masks are decoded, the one nearest to the
    target is trained, and which that was is learned."""

    targets: Literal["instances", "union"] = "instances"
    """One mark for each object that a question means, or one for all of them together."""

    max_targets: int = Field(default=8, ge=1)
    """Most marks in an answer; further objects are left out of it."""

    phrase_tag: str = "category"
    """Tag of a question that names its target between `<p>` and `</p>`; where it has none, "target"."""

    refusals: bool = False
    """Whether the answer to a false premise says what is there instead, before its `[REJ]`; for sets with the
    option `false_premises`."""

    start_from: dict[str, str] = Field(default_factory=dict)
    """New token -> a text that the checkpoint knows, from whose tokens' embeddings the new one starts; those
    that are not named start from the mean of all. `[SEG]` stands for all query tokens. A policy that looks at
    an object where it begins to write `{"bbox_2d":[` looks there from a `[SEG]` that starts as that text."""

    prompt: str = "[system]\nMark what is asked for.\n[user]\n{query}"
    """What the policy is asked; kept with its checkpoint. `{query}` stands for the question."""

    max_new_tokens: int = Field(default=96, ge=8)
    """Longest answer, in tokens."""

    weights: SegTokenWeights = SegTokenWeights()

    lora: LoraConfig | None = None
    """Adapters of the language model; its embeddings are trained beside them, as in LISA. null trains all of
    its weights."""

    seed: int = Field(default=0, ge=0)
    """Seed of the order of images and of new weights."""

    batch_size: int = Field(default=16, ge=1)
    """Questions per optimiser step."""

    steps: int = Field(default=1000, ge=0)
    """Optimiser steps; 0 writes the policy as it is before any, to be evaluated beside a trained one."""

    learning_rate: float = Field(default=3e-4, gt=0)
    """Highest learning rate, of the policy's weights (LISA: 3e-4)."""

    new_learning_rate: float | None = Field(default=None, gt=0)
    """Highest learning rate of what starts from nothing: embeddings (as far as they are the text's alone),
    projection, choice and place; null takes the same."""

    decoder_learning_rate: float | None = Field(default=None, gt=0)
    """Highest learning rate of the head; null takes the same."""

    warmup_steps: int = Field(default=20, ge=0)
    """Steps over which the learning rates rise to it."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay."""

    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """How the learning rates go on after the warm-up."""

    bfloat16: bool | Literal["auto"] = False
    """Multiply matrices in bfloat16; weights and losses stay float32. `auto` does where the device has
    instructions for it: about twice as fast there, and several times slower where there are none."""

    mask_every: int = Field(default=1, ge=1)
    """Masks are decoded and trained in every so many steps; the others train the text and what else costs no
    decoding. On a CPU nearly all of a step's time is in the mask decoder."""

    masks_after: int = Field(default=0, ge=0)
    """Steps before the first that trains masks. Learning rates rise and fall once before it, and once
    after."""

    save_every: int = Field(default=200, ge=1)
    """Steps between checkpoints that `--resume` goes on from; the last step is saved too."""

    log_every: int = Field(default=10, ge=1)
    """Steps over which logged losses are means."""

    threads: int = Field(default=2, ge=1)
    """CPU threads of the trainer."""

    @model_validator(mode="after")
    def _check(self) -> SegTokenConfig:
        if self.weights.attention and self.queries > 1:
            raise ValueError(
                "weights.attention supervises the one [SEG] of a target; with queries above 1 set it to 0"
            )
        return self
