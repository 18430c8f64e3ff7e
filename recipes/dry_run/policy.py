"""The policy of a run as far as it is known without its weights, or even without its files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prompter.checkpoint import Checkpoint, check_side, load_policy, make_checkpoint
from prompter.errors import UserError
from prompter.policy import Policy, PolicySettings
from recipes.config import TrainConfig
from recipes.dry_run.findings import NotHere
from recipes.dry_run.presence import describe_weights, policy_folder
from recipes.planning.shapes import known_config, shape_name
from recipes.training.checks import check_adapted_modules, check_quantised, check_weights_follow, merges


@dataclass
class KnownPolicy:
    """What a dry run knows of the policy.

    Args:
        policy: how it is asked; a `Checkpoint` if its files are here.
        source: a folder that holds at least its config.json.
        says: where this is known from, in words.
        lacks: what would be fetched, or "".
    """

    policy: Policy
    source: Path
    says: str
    lacks: str = ""


@contextmanager
def known_policy(config: TrainConfig) -> Iterator[KnownPolicy]:
    """What is known of a config's policy: from its files, else from the table of known shapes.

    Raises:
        NotHere: if its files are not here and its shape is in no table.
        UserError: if its files or its settings are bad.
    """
    try:
        folder, has_weights = policy_folder(config.policy.model)
    except NotHere as error:
        with tempfile.TemporaryDirectory(prefix="prompter-shape-") as name:
            yield _from_table(config, Path(name), str(error))
        return
    policy = load_policy(folder, config.policy.setting_overrides())
    says = f"{policy.family}, {describe_weights(folder)}" if has_weights else policy.family
    yield KnownPolicy(policy, folder, says, "" if has_weights else f"the weights of {config.policy.model}")


def _from_table(config: TrainConfig, folder: Path, lacks: str) -> KnownPolicy:
    shape = _known_shape(config.policy.model)
    if shape is None:
        raise NotHere(lacks)
    (folder / "config.json").write_text(json.dumps(shape.to_dict()), encoding="utf-8")
    vision = shape.vision_config
    merge = getattr(vision, "spatial_merge_size", 2)
    processor = _Patches(int(vision.patch_size), int(merge))
    settings = PolicySettings.model_validate(config.policy.setting_overrides()).resolved()
    policy = make_checkpoint(str(folder), shape.model_type, settings, processor)
    check_side(settings, policy.factor, config.policy.model)
    return KnownPolicy(policy, folder, f"{shape.model_type}, by the table of known shapes", lacks)


class _Patches:
    """In the place of a processor that is not here: the two sizes from which the frame follows."""

    def __init__(self, patch_size: int, merge_size: int) -> None:
        self.image_processor = self
        self.patch_size, self.merge_size = patch_size, merge_size


def _known_shape(source: str) -> Any:
    """The transformers config of a model by its name; None if it is in no table."""
    return None if shape_name(source) is None else known_config(source)


def adapters_found(config: TrainConfig, known: KnownPolicy) -> str:
    """What is trained, in words.

    Raises:
        NotHere: if what quantises the base is not installed.
        UserError: if adapters reach nothing, or what the sampler does not adapt; and as `check_quantised`.
    """
    quantise = config.policy.quantise
    if quantise is not None and find_spec("bitsandbytes") is None:
        raise NotHere(f"policy.quantise {quantise} needs bitsandbytes: install prompter-rl[qlora]")
    with _named(config, known) as policy:
        count = check_adapted_modules(config, policy)
        check_quantised(config, policy)
    lora = config.policy.lora
    if lora is None:
        return "all weights are trained"
    of = "" if quantise is None else f", whose frozen weights are {quantise}"
    return f"rank {lora.r} on {count} linear layers of the language model{of}"


def weights_follow(config: TrainConfig, known: KnownPolicy) -> str:
    """How the sampler gets what is trained, in words; UserError if it cannot."""
    with _named(config, known) as policy:
        check_weights_follow(config, policy)
    what = "all weights" if config.policy.lora is None else "the adapter"
    if merges(config):
        what = "all weights, adapters merged into them,"
    if config.sampler.backend == "hf":
        return "the sampler shares the trained model"
    return f"{what} to {config.sampler.actors} vLLM engine(s) before every window"


@contextmanager
def _named(config: TrainConfig, known: KnownPolicy) -> Iterator[Checkpoint]:
    """The policy for checks that read its config.json; what they say names the model, not the folder."""
    assert isinstance(known.policy, Checkpoint)
    try:
        yield known.policy
    except UserError as error:
        raise UserError(str(error).replace(str(known.source), config.policy.model)) from None
