"""The config of `prompter elisa`: every key, what it says and its default."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from envs.proposals.config import ProposerConfig
from prompter.elisa.settings import ElisaSettings
from prompter.runs.config import StrictModel
from recipes.config import LoraConfig


class ElisaConfig(StrictModel):
    """Everything `prompter elisa` needs."""

    output_dir: str
    """Folder of the policy; must be new or empty."""

    policy: str = "shipped:small-policy"
    """Checkpoint to start from: a folder or hub id of a Qwen-VL, or `shipped:NAME`."""

    policy_settings: dict[str, Any] = Field(default_factory=dict)
    """How it is asked, where not by its own settings (`prompter.policy.PolicySettings`); such as `prompt`."""

    dataset: str = "synthetic-aerial"
    """Name of the training set."""

    split: str = "train"
    """Its split."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The set's own options."""

    samples: int | None = Field(default=None, ge=1)
    """Only the first so many samples; null takes all. What is known of their masks is kept in memory: about
    0.4 MB an image for a language model of width 2,048."""

    proposer: ProposerConfig = ProposerConfig()
    """Who proposes masks."""

    elisa: ElisaSettings = ElisaSettings()
    """How the policy is built, and what it says."""

    truth_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the samples in which the targets themselves are among the masks, as in all of the paper's;
    in the others only proposals are, as when it is used, and those that match a target are right. A sample
    none of whose proposals match is taught with its targets."""

    match_iou: float = Field(default=0.5, gt=0, le=1)
    """IoU from which on a proposal answers for a target."""

    twin_iou: float = Field(default=0.95, gt=0, le=1)
    """Beside the targets, proposals that overlap one more than this are left out."""

    lora: LoraConfig | None = None
    """Adapters of the language model; null trains all of its weights. The vision tower is frozen."""

    mask_weight: float = Field(default=2.0, gt=0)
    """Weight of a mask's token in the loss; that of a word is 1."""

    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, order, and which samples see their targets."""

    batch_size: int = Field(default=32, ge=1)
    """Samples per optimiser step."""

    steps: int = Field(default=500, ge=1)
    """Optimiser steps."""

    learning_rate: float = Field(default=3e-4, gt=0)
    """Highest learning rate of the language model."""

    adapter_learning_rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate of the adapter."""

    warmup_steps: int = Field(default=20, ge=0)
    """Steps over which the learning rates rise."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay."""

    schedule: Literal["cosine", "constant_with_warmup"] = "cosine"
    """How the learning rates go on after the warm-up."""

    save_every: int = Field(default=100, ge=1)
    """Steps between two checkpoints, each a policy that can be evaluated and a place to resume from."""

    keep: int = Field(default=2, ge=1)
    """How many checkpoints stay."""

    log_every: int = Field(default=10, ge=1)
    """Steps between two lines of the log."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads; null takes torch's."""
