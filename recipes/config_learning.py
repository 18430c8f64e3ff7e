"""Sections of a training config about what is learned from: groups, the order of questions, averages."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prompter.runs.config import StrictModel


class GroupConfig(StrictModel):
    """What is done with a prompt's group of completions before the loss."""

    zero_spread: Literal["drop", "resample", "keep"] = "drop"
    """A group whose rewards are all alike teaches nothing. `drop` takes it out of the loss's denominator,
    `resample` draws other prompts in its place, `keep` leaves it as TRL does."""

    max_resamples: int = Field(default=2, ge=0)
    """Rounds of drawing other prompts in one step."""

    keep: int | None = Field(default=None, ge=2)
    """Completions of a group that are trained on, of the `trainer.num_generations` that are sampled and
    scored; null is all. A window's batch (`trainer.per_device_train_batch_size`) counts those that are
    trained on. Advantages are relative to their mean, as in PODS (arXiv:2504.13818)."""

    select: str = "spread"
    """Which those are: `spread` (of the largest variance of rewards: so many of the worst and of the best),
    `extremes` (half of the worst, half of the best), `best`, `first` (at random), or "module:function" for
    one of your own (see `recipes/training/selection.py`)."""

    shape: str | None = None
    """What rewards are turned into before that: `quantile` (of the window, Dr. Seg), `rank` (in the group),
    or "module:function" for one of your own (see `recipes/training/advantages.py`); null leaves them."""

    objective: Literal["grpo", "best-of-n"] = "grpo"
    """What is trained on a group: advantages (`grpo`), or the likelihood of its best completion alone
    (`best-of-n`: distillation, the baseline of GRPO)."""

    floor: float = 0.5
    """With `best-of-n`, what the best completion has to earn more than, to be imitated."""

    memory: Literal["none", "question", "image"] = "none"
    """Answers of earlier windows that take the place of a group's worst, where they earn more than all that
    was drawn: `question` those to the same question, `image` those to any question about the same image."""

    balance: Literal["none", "kind"] = "none"
    """`kind` divides the advantages of questions that something in the image answers, and of those that
    nothing does, each by their root mean square over the window, after `trainer.scale_rewards`. Where nothing
    is there an answer is worth 0 or 1, while IoUs of answers to one question mostly differ by tenths: without
    this, a refusal counts several times a better box."""

    no_target_weight: float = Field(default=1.0, ge=0)
    """Weight in the loss of questions that nothing in the image answers, after `balance`. 0 trains on the
    others alone; refusals are sampled and logged all the same."""

    executors: Literal["mean", "min", "draw"] = "mean"
    """With several segmenters, what a completion's reward is: the `mean` or `min` over them, or one
    segmenter per group, drawn at random (`draw`)."""


class OrderConfig(StrictModel):
    """Which questions a window asks. A pass over the set asks each once, in an order that the seed gives; how
    many passes there are hangs on `dataset.samples` and `trainer.max_steps`."""

    mining: Literal["none", "spread"] = "none"
    """`spread`: after the first pass questions are drawn in proportion to the standard deviation of their
    rewards when they were last asked; those whose rewards were all alike rest."""

    fresh: float = Field(default=0.25, ge=0, le=1)
    """Share of a mined window that is drawn from the whole set alike, so that what rests is asked again."""


class AverageConfig(StrictModel):
    """A running average of the trained weights, which is evaluated and saved at the end in place of the last
    ones. Training and the evaluations during it have the weights as they are."""

    decay: float | None = Field(default=None, ge=0, lt=1)
    """How much of the average stays after each window: 0.8 is a mean over about 1 / (1 - 0.8) = 5 windows.
    null averages nothing."""
