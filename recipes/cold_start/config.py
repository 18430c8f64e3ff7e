"""The config of a cold start: every key, what it says and its default."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from prompter.action import ActionSpace
from prompter.coords import FrameKind
from prompter.runs.config import StrictModel
from recipes.cold_start.small_policy import SmallPolicySize

AnswerForm = Literal["box", "points", "box+points"]


class AuxiliaryWeights(StrictModel):
    """Weights of the auxiliary losses beside the next-token loss (weight 1); see `ColdStartModel`."""

    place: float = 0.2
    """Weight of each vision token telling its own cell."""

    target: float = 1.0
    """Weight of each image token telling how much of its cell is target."""

    extent: float = 0.3
    """Weight of a token on a target telling the coordinates of its object."""

    look: float = 0.3
    """Weight of looking at an object's cells while its coordinates are written."""

    number_spread: float = Field(default=8.0, gt=0)
    """Standard deviation, in coordinate units (0 to 1000), of the Gaussian that coordinates are trained
    against."""


class ColdStartConfig(StrictModel):
    """Everything `prompter cold-start` needs."""

    output_dir: str
    """Folder of the checkpoint; must be new or empty."""

    dataset: str = "synthetic-aerial"
    """Name of the training set; consecutive samples of one image are kept together."""

    split: str = "train"
    """Its split; `val` is held out."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The set's own options."""

    queries_per_image: int = Field(default=6, ge=1)
    """How many consecutive samples share an image (the dataset's own option of that meaning)."""

    policy: SmallPolicySize = SmallPolicySize()

    init: str | None = None
    """Checkpoint to continue from; null starts from random weights."""

    init_heads: str | None = None
    """Trainer's state (`OUTPUT/trainer/checkpoint-N`) to take the auxiliary heads from; null starts new ones,
    which disturbs a checkpoint that goes on from `init` at first."""

    action_space: ActionSpace = ActionSpace(kind="any", positive_points=1, max_instances=8)
    """What it may answer with; with `any`, each answer's form is drawn at random, so that reinforcement
    learning can find out which form the segmenter serves best."""

    frame: FrameKind | None = None
    """Coordinates it learns to speak; null takes those of the checkpoint in `init`, or thousandths."""

    prose: dict[str, float] = Field(default_factory=dict)
    """Share of answers that are sentences, by the question's tag `length` (`short`, `long`). Models that
    were pre-trained on people's talk answer so; nothing here reads it."""

    forms: dict[AnswerForm, float] = Field(default_factory=dict)
    """Weights of the forms an answer may take (`box`, `points`, `box+points`), of those that the action space
    admits; empty: all alike. What a greedy answer looks like follows the heaviest."""

    no_target_weight: float = Field(default=1.0, gt=0)
    """How much the tokens of an answer weigh that says that there is no target: they are few beside those
    that name objects, and a policy that seldom learns from them names something always."""

    refusals: bool = False
    """Answer questions of false premise (the sets' option `false_premises`) with a thought that says what is
    there instead, before the empty answer."""

    augment: float = Field(default=0.0, ge=0, le=1)
    """Share of images whose light, colour, sharpness and noise are changed at random, so that what is learned
    holds for other cameras."""

    auxiliary: AuxiliaryWeights = AuxiliaryWeights()

    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, order and forms of answers."""

    batch_size: int = Field(default=96, ge=1)
    """Samples per optimiser step."""

    steps: int = Field(default=1500, ge=1)
    """Optimiser steps."""

    optimiser: Literal["adamw", "muon"] = "adamw"
    """`muon` takes Muon for the matrices inside the layers and AdamW for the rest, at the same rates."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate."""

    warmup_steps: int = Field(default=50, ge=0)
    """Steps over which the learning rate rises to it."""

    weight_decay: float = Field(default=0.02, ge=0)
    """Weight decay."""

    schedule: Literal["cosine", "constant_with_warmup"] = "cosine"
    """How the learning rate goes on after the warm-up."""

    average: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the exponential average of the weights that is measured and exported (0.99 averages over
    about the last hundred steps); null exports the weights as they are."""

    bfloat16: bool | Literal["auto"] = False
    """Multiply matrices in bfloat16; weights and losses stay float32. `auto` does where the device has
    instructions for it: about twice as fast there, and several times slower where there are none."""

    length_parts: int = Field(default=1, ge=1)
    """In how many parts of like length the language model takes a batch: more parts pad less."""

    probe_every: int = Field(default=100, ge=1)
    """Steps between two measurements of localisation, each followed by an export of the checkpoint."""

    probe_samples: int = Field(default=120, ge=1)
    """Validation samples of such a measurement."""

    threads: int = Field(default=2, ge=1)
    """CPU threads of the trainer."""
