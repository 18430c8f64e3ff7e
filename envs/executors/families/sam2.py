"""SAM 2 and SAM 2.1 through the `sam2` package.

Ravi et al., "SAM 2: Segment Anything in Images and Videos" (arXiv 2408.00714). `model` is a hub id
such as `facebook/sam2.1-hiera-small`, or a local `.pt` checkpoint of one of the published sizes, or
a local `.pt` with its model's YAML of the same name beside it. Images go through the package's
encoder, prompts through `SamDecoder` with the package's weights. As in the package, "single" falls
back to the best of three masks where the one mask is unstable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from torch import Tensor

from envs.executors.base import Embedding
from envs.executors.config import ExecutorConfig
from envs.executors.decoding.folded_attention import ImageSide
from envs.executors.decoding.package_prompts import PackagePrompts
from envs.executors.decoding.promptable import (
    Geometry,
    ImageEncoder,
    PromptableSegmenter,
    freeze,
    point_arrays,
    resolve_device,
)
from envs.executors.families.preprocessing import SQUASHING, squash, squashed_points
from envs.executors.families.weights import fingerprint, load_state_dict, load_strictly, local_path
from envs.sample import RGB
from prompter.errors import UserError, did_you_mean
from prompter.types import Instance

SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
"""(width, depth) of the Hiera trunk -> suffix of the package's config."""

MASK_LIMIT = 32.0
"""The package clips logits to this before they are fed back as a mask prompt."""

OVERRIDES = {
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}
"""What `sam2.build_sam.build_sam2` adds to the mask decoder by default."""


class Sam2Prompts(PackagePrompts):
    """SAM 2's prompts and masks, whatever encodes its images."""

    def geometry(self, embedding: Embedding) -> Geometry:
        """The package resizes its logits to the image in one step."""
        return Geometry(self.low_res, self.low_res, self.low_res)

    def image_side(self, embedding: Embedding) -> ImageSide:
        """See `PackagePrompts.image_side`."""
        tensors = embedding.tensors
        return self.sam_decoder.prepare(tensors["image"], (tensors["fine"], tensors["coarse"]))

    def prompt_tokens(self, embedding: Embedding, instances: Sequence[Instance]) -> Tensor:
        """As in `SAM2ImagePredictor`: a box is two first points labelled 2 and 3; padding comes last."""
        coordinates, labels = [], []
        for instance in instances:
            points, kinds = point_arrays(instance)
            if instance.box is not None:
                x1, y1, x2, y2 = instance.box
                points, kinds = [(x1, y1), (x2, y2), *points], [2, 3, *kinds]
            coordinates.append(squashed_points(points, embedding, self.side))
            labels.append(kinds)
        given = (torch.tensor(coordinates, device=self.device), torch.tensor(labels, device=self.device))
        sparse, _ = self.prompt_encoder(given, None, None)
        return sparse

    def decode_with_mask(self, embedding: Embedding, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `PackagePrompts.decode_with_mask`."""
        _, dense = self.prompt_encoder(None, None, mask.clamp(-MASK_LIMIT, MASK_LIMIT))
        maps = {name: value[None].to(self.device, self.dtype) for name, value in embedding.tensors.items()}
        low_res, ious, _, _ = self.mask_decoder(
            image_embeddings=maps["image"],
            image_pe=self.prompt_encoder.get_dense_pe().to(self.dtype),
            sparse_prompt_embeddings=tokens.to(self.dtype),
            dense_prompt_embeddings=dense.to(self.dtype),
            multimask_output=self.sam_decoder.multimask == "best",
            repeat_image=False,
            high_res_features=[maps["fine"], maps["coarse"]],
        )
        return self.choose(low_res, ious)


class Sam2Encoder(ImageEncoder):
    """SAM 2's image encoder on single images, with what the mask decoder does to its maps first.

    Embeddings have the tensors "image" [256, h, w], "coarse" [64, 2 h, 2 w] and "fine" [32, 4 h, 4 w], with
    h = w = side / 16, on the device.

    Args:
        model: the package's `SAM2Base`.
        config: device, dtype and batch size are read.
    """

    def __init__(self, model: Any, config: ExecutorConfig) -> None:
        self.device, self.dtype = resolve_device(config.device), getattr(torch, config.dtype)
        self.side, self.batch = int(model.image_size), config.encode_batch
        # The decoder's two convolutions for high-resolution features are part of encoding.
        parts = (model.image_encoder, model.sam_mask_decoder.conv_s0, model.sam_mask_decoder.conv_s1)
        self.modules = tuple(freeze(part).to(self.device, self.dtype) for part in parts)
        self._no_memory = model.no_mem_embed.detach() if model.directly_add_no_mem_embed else None

    def encode_batch(self, images: Sequence[RGB]) -> list[Embedding]:
        """See `ImageEncoder.encode_batch`."""
        image_encoder, conv_fine, conv_coarse = self.modules
        batch = torch.stack([squash(image, self.side, self.device) for image in images]).to(self.dtype)
        fine, coarse, image_features = image_encoder(batch)["backbone_fpn"][-3:]
        fine, coarse = conv_fine(fine), conv_coarse(coarse)
        if self._no_memory is not None:
            bias = self._no_memory.to(image_features.device, image_features.dtype)
            image_features = image_features + bias.view(1, -1, 1, 1)
        embeddings = []
        for i, image in enumerate(images):
            maps = {"image": image_features[i], "coarse": coarse[i], "fine": fine[i]}
            tensors = {
                name: value.clone(memory_format=torch.contiguous_format) for name, value in maps.items()
            }
            embeddings.append(Embedding(tensors, (image.shape[1], image.shape[0]), (self.side, self.side)))
        return embeddings


def compose_sam2(model: Any, config: ExecutorConfig, identity: str) -> PromptableSegmenter:
    """A segmenter of the package's `SAM2Base`.

    Args:
        model: its image encoder, prompt encoder and mask decoder are used, and moved to device and type.
        config: device, dtype, multimask policy, threshold and batch size are read.
        identity: the fingerprint under which embeddings are kept.
    """
    decoder = Sam2Prompts(model.sam_prompt_encoder, model.sam_mask_decoder, config)
    encoder = Sam2Encoder(model, config)
    return PromptableSegmenter(encoder, decoder, fingerprint=identity, mask_threshold=config.mask_threshold)


def published_config(state: Mapping[str, Tensor], path: Path) -> str:
    """Name of the package's config for a checkpoint's tensors.

    Raises:
        UserError: if they are of no published size.
    """
    patch = state.get("image_encoder.trunk.patch_embed.proj.weight")
    prefix = "image_encoder.trunk.blocks."
    blocks = {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}
    size = None if patch is None else SIZES.get((patch.shape[0], len(blocks)))
    if size is None:
        raise UserError(f"{path} is no checkpoint of SAM 2 or SAM 2.1 in a published size.")
    # An embedding that only SAM 2.1 has.
    return (
        f"configs/sam2.1/sam2.1_hiera_{size}.yaml"
        if "no_obj_embed_spatial" in state
        else (f"configs/sam2/sam2_hiera_{size}.yaml")
    )


def read_description(path: Path) -> dict[str, Any]:
    """The `model` section of a SAM 2 YAML, with the mask decoder's defaults of `build_sam2`.

    Raises:
        UserError: if there is no such section.
    """
    # Not PyYAML, to which the package's "1e-6" is a text.
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("model"), dict):
        raise UserError(f"{path} has no `model` section.")
    extra = {**OVERRIDES, **(loaded["model"].get("sam_mask_decoder_extra_args") or {})}
    return {**loaded["model"], "sam_mask_decoder_extra_args": extra}


def build_model(description: Mapping[str, Any], path: Path) -> Any:
    """Instantiate the `model` section of a SAM 2 YAML, classes of the `sam2` package only.

    Raises:
        UserError: if the section names anything else: it would be run.
    """
    from hydra.utils import instantiate

    for target in _targets(description):
        if not target.startswith("sam2."):
            raise UserError(f"{path} names {target!r}, but a SAM 2 config may only name classes of `sam2`.")
    return instantiate(description, _recursive_=True)


def _targets(node: Any) -> list[str]:
    """Every class that a hydra config would instantiate."""
    if isinstance(node, Mapping):
        found = [str(node["_target_"])] if "_target_" in node else []
        return found + [target for value in node.values() for target in _targets(value)]
    if isinstance(node, list | tuple):
        return [target for value in node for target in _targets(value)]
    return []


def load_sam2(config: ExecutorConfig) -> tuple[Any, Path]:
    """The package's model with a checkpoint's weights, on the CPU, and the checkpoint's path.

    Raises:
        UserError: if the file is missing or is no such checkpoint.
    """
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES, build_sam2

    model_id = config.model
    if model_id in HF_MODEL_ID_TO_FILENAMES:
        config = config.model_copy(update={"model": f"{model_id}:{HF_MODEL_ID_TO_FILENAMES[model_id][1]}"})
    elif model_id is not None and model_id.startswith("facebook/"):
        raise UserError(
            f"unknown SAM 2 model {model_id!r}.{did_you_mean(model_id, HF_MODEL_ID_TO_FILENAMES)}"
        )
    path = local_path(config, "a SAM 2 checkpoint (.pt)")
    if path.is_dir():
        raise UserError(
            f"executor model {model_id!r} is a folder, but a SAM 2 checkpoint (.pt) was expected."
        )
    state = load_state_dict(path)
    beside = path.with_suffix(".yaml")
    if beside.is_file():
        model = build_model(read_description(beside), beside)
    else:
        model = build_sam2(published_config(state, path), device="cpu")
    load_strictly(model, state, path, "this SAM 2")
    return model, path


def build_sam2_package(config: ExecutorConfig) -> PromptableSegmenter:
    """Build SAM 2 or 2.1 from a checkpoint (.pt).

    Raises:
        UserError: if the file is missing or is no such checkpoint.
    """
    model, path = load_sam2(config)
    return compose_sam2(model, config, fingerprint(config, path, preprocessing=SQUASHING))
