"""Promptable segmenters as `transformers` ports them: SAM, SAM-HQ, SAM 2 and 2.1, EdgeTAM, the SAM 3 tracker.

`model` is a hub id or a local folder in the format of `save_pretrained`; `model_type` in its config
says which of them it is. Prompts run through the port's own forward pass, many prompts of one image
at a time. `dtype` applies to the image encoder: the ports encode positions in the type of the
prompt encoder, and bfloat16 cannot tell neighbouring pixels apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from envs.executors.base import Embedding
from envs.executors.config import ExecutorConfig
from envs.executors.decoding.promptable import (
    Geometry,
    ImageEncoder,
    PromptableSegmenter,
    PromptDecoder,
    freeze,
    point_arrays,
    resolve_device,
)
from envs.executors.families.preprocessing import IMAGENET_MEAN, IMAGENET_STD, pad, resized_hw, squash
from envs.executors.families.weights import fingerprint, local_path
from envs.sample import RGB
from prompter.errors import UserError, did_you_mean
from prompter.types import Instance

HALF = (0.5, 0.5, 0.5)

PREPROCESSING = "SAM: as family segment-anything; else squashed and normalised; v1"


@dataclass(frozen=True)
class Port:
    """One of the ports.

    Args:
        model_class: name of its class in `transformers`.
        pads: whether images keep their shape and are padded (SAM), instead of squashed to a square.
        mean, std: of RGB in 0 to 1, for the squashed ones.
    """

    model_class: str
    pads: bool
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


PORTS: dict[str, Port] = {
    "sam": Port("SamModel", pads=True),
    "sam_hq": Port("SamHQModel", pads=True),
    "sam2": Port("Sam2Model", pads=False),
    "sam2_video": Port("Sam2Model", pads=False),
    "edgetam": Port("EdgeTamModel", pads=False),
    "edgetam_video": Port("EdgeTamModel", pads=False),
    "sam3_tracker": Port("Sam3TrackerModel", pads=False, mean=HALF, std=HALF),
    "sam3_tracker_video": Port("Sam3TrackerModel", pads=False, mean=HALF, std=HALF),
    "sam3_video": Port("Sam3TrackerModel", pads=False, mean=HALF, std=HALF),
}
"""`model_type` of a config -> port. Video checkpoints hold the single-image model as well."""

PROMPTS_PER_CALL = 16
"""The ports hold several copies of the image's features per prompt."""


class PortEncoder(ImageEncoder):
    """A port's image encoder, in the config's type.

    Embeddings have the float32 tensors "level0", "level1", …, the image embedding last, on the device.

    Args:
        model: one of the classes named in `PORTS`.
        port: what distinguishes it.
        config: device, dtype and batch size are read.
    """

    def __init__(self, model: Any, port: Port, config: ExecutorConfig) -> None:
        self.device, self.dtype = resolve_device(config.device), getattr(torch, config.dtype)
        self.batch = config.encode_batch
        self.model: Any = freeze(model).to(self.device)
        self.model.vision_encoder.to(self.dtype)
        self.modules = (self.model,)
        self.port, self.side = port, input_side(model, port)

    def encode_batch(self, images: Sequence[RGB]) -> list[Embedding]:
        """See `ImageEncoder.encode_batch`."""
        batch = torch.stack([self._preprocess(image) for image in images]).to(self.device, self.dtype)
        levels = self._features(batch)
        embeddings = []
        for i, image in enumerate(images):
            wh = (image.shape[1], image.shape[0])
            used = resized_hw(wh, self.side) if self.port.pads else (self.side, self.side)
            tensors = {f"level{n}": level[i].float().contiguous() for n, level in enumerate(levels)}
            embeddings.append(Embedding(tensors, wh, used))
        return embeddings

    def _preprocess(self, image: RGB) -> Tensor:
        if self.port.pads:
            return pad(image, self.side)
        return squash(image, self.side, self.device, self.port.mean, self.port.std)

    def _features(self, batch: Tensor) -> list[Tensor]:
        """Feature maps [B, …] that decoding needs, the image embedding last."""
        if self.port.model_class == "SamModel":
            return [self.model.get_image_embeddings(batch)]
        if self.port.model_class == "SamHQModel":
            embedding, intermediate = self.model.get_image_embeddings(batch)
            return [intermediate[0], embedding]  # the decoder reads the first intermediate map only
        # As `get_image_embeddings` does, but its projections stay in float32 while the encoder may not.
        encoder = self.model.vision_encoder
        maps = encoder(batch, return_dict=True).fpn_hidden_states
        # SAM 3 has one more, of half the image embedding's resolution, which its tracker leaves out as well.
        levels = [level.float() for level in maps[: len(self.model.backbone_feature_sizes)]]
        levels[0] = self.model.mask_decoder.conv_s0(levels[0])
        levels[1] = self.model.mask_decoder.conv_s1(levels[1])
        levels[-1] = levels[-1] + self.model.no_memory_embedding.view(1, -1, 1, 1)
        return levels


class PortDecoder(PromptDecoder):
    """A port's own forward pass from an embedding on, in float32.

    Args:
        model: one of the classes named in `PORTS`.
        port: what distinguishes it.
        config: device and multimask policy are read.
    """

    def __init__(self, model: Any, port: Port, config: ExecutorConfig) -> None:
        self.device, self.best = resolve_device(config.device), config.multimask == "best"
        self.model: Any = freeze(model).to(self.device)
        self.port, self.side = port, input_side(model, port)
        grid = self.side // int(_settings(model, port).patch_size)
        self.low_res = (4 * grid, 4 * grid)

    def geometry(self, embedding: Embedding) -> Geometry:
        """SAM's logits cover the padded input; the others' are resized to the image in one step."""
        if self.port.pads:
            return Geometry(self.low_res, (self.side, self.side), embedding.input_hw)
        return Geometry(self.low_res, self.low_res, self.low_res)

    @torch.inference_mode()
    def decode_image(
        self,
        embedding: Embedding,
        instances: Sequence[Instance],
        mask_prompts: Sequence[NDArray[np.float32] | None],
    ) -> tuple[Tensor, Tensor]:
        """See `PromptDecoder.decode_image`."""
        logits = torch.empty((len(instances), *self.low_res), device=self.device)
        ious = torch.empty(len(instances), device=self.device)
        inputs = self._decoder_inputs(embedding)
        # A prompt's tokens attend to each other: only prompts of equal shape share a call, mask prompts none.
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, (instance, mask) in enumerate(zip(instances, mask_prompts, strict=True)):
            points = len(instance.positive_points) + len(instance.negative_points)
            key = (points, instance.box is None, None if mask is None else index)
            groups.setdefault(key, []).append(index)
        for rows in groups.values():
            for start in range(0, len(rows), PROMPTS_PER_CALL):
                part = rows[start : start + PROMPTS_PER_CALL]
                logits[part], ious[part] = self._call(
                    inputs, [instances[i] for i in part], embedding, mask_prompts[part[0]]
                )
        return logits, ious

    def _decoder_inputs(self, embedding: Embedding) -> dict[str, Any]:
        """The features of one image as the port's forward pass takes them."""
        levels = [embedding.tensors[f"level{n}"][None].to(self.device) for n in range(len(embedding.tensors))]
        if self.port.model_class == "SamModel":
            return {"image_embeddings": levels[0]}
        if self.port.model_class == "SamHQModel":
            return {"image_embeddings": levels[1], "intermediate_embeddings": [levels[0]]}
        return {"image_embeddings": levels}

    def _call(
        self,
        inputs: dict[str, Any],
        instances: Sequence[Instance],
        embedding: Embedding,
        mask: NDArray[np.float32] | None,
    ) -> tuple[Tensor, Tensor]:
        """One forward pass for prompts of equal shape: logits [n, h, w] and predicted IoU [n]."""
        width, height = embedding.image_wh
        scale = torch.tensor([embedding.input_hw[1] / width, embedding.input_hw[0] / height])
        prompts: dict[str, Tensor] = {}
        arrays = [point_arrays(instance) for instance in instances]
        if arrays[0][0]:
            prompts["input_points"] = torch.tensor([[points for points, _ in arrays]]) * scale
            prompts["input_labels"] = torch.tensor([[labels for _, labels in arrays]], dtype=torch.int32)
        boxes = [instance.box for instance in instances if instance.box is not None]
        if boxes:
            prompts["input_boxes"] = torch.tensor([boxes]) * scale.repeat(2)
        if mask is not None:
            if tuple(np.shape(mask)) != self.low_res:
                raise ValueError(
                    f"a mask prompt must have shape {list(self.low_res)}, but got {list(np.shape(mask))}"
                )
            prompts["input_masks"] = torch.as_tensor(mask, dtype=torch.float32)[None, None]
        on_device = {name: value.to(self.device) for name, value in prompts.items()}
        output = self.model(**inputs, **on_device, multimask_output=self.best)
        masks, scores = output.pred_masks[0].float(), output.iou_scores[0].float()  # [n, K, h, w], [n, K]
        chosen = scores.argmax(dim=1) if self.best else torch.zeros_like(scores[:, 0], dtype=torch.int64)
        rows = torch.arange(len(instances), device=self.device)
        return masks[rows, chosen], scores[rows, chosen]


def _settings(model: Any, port: Port) -> Any:
    """The part of a port's config that says how large its input and its patches are."""
    return model.config.vision_config if port.pads else model.config.prompt_encoder_config


def input_side(model: Any, port: Port) -> int:
    """Side of a port's square input, in pixels."""
    return int(_settings(model, port).image_size)


def build_huggingface(config: ExecutorConfig) -> PromptableSegmenter:
    """Build a port from a folder or hub repository in `save_pretrained` format.

    Raises:
        UserError: if it is missing, of another kind, or incomplete.
    """
    path: Path = local_path(config, "a folder saved by `transformers`")
    if not path.is_dir():
        raise UserError(
            f"executor model {config.model!r} is a file, but a folder with `config.json` was expected."
        )
    try:
        settings, _ = transformers.PretrainedConfig.get_config_dict(str(path))
    except OSError:
        raise UserError(f"{path} holds no readable `config.json`.") from None
    model_type = str(settings.get("model_type", ""))
    port = PORTS.get(model_type)
    if port is None:
        raise UserError(
            f"{path} holds a model of type {model_type!r}, which is no promptable segmenter known here."
            f"{did_you_mean(model_type, PORTS)}"
        )
    if port.model_class == "EdgeTamModel":
        # Comparing a config with its defaults builds the default one, which asks the hub for its backbone.
        for name in ("EdgeTamConfig", "EdgeTamVisionConfig"):
            getattr(transformers, name).has_no_defaults_at_init = True
    try:
        model, report = getattr(transformers, port.model_class).from_pretrained(
            str(path), dtype=torch.float32, output_loading_info=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be loaded as {port.model_class}: {str(error).splitlines()[0]}"
        ) from None
    if report["missing_keys"] or report["mismatched_keys"]:
        name = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))[0]
        raise UserError(
            f"{path} does not hold all weights of {port.model_class}: {name} is missing or differs."
        )
    return PromptableSegmenter(
        PortEncoder(model, port, config),
        PortDecoder(model, port, config),
        fingerprint=fingerprint(config, path, preprocessing=PREPROCESSING),
        mask_threshold=config.mask_threshold,
    )
