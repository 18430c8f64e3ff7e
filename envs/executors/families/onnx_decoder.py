"""The weights inside a SAM 2 decoder that was exported to ONNX, as modules of the `sam2` package.

An exported decoder is a fixed graph: one prompt a call, three masks, no way to share anything between
prompts. Its weights are all in the file, though, most under their own names. What the exporter folded
is found by its place in the graph: a linear layer's weight is the matrix of the MatMul before the
addition of its bias, a norm's weight the constant of the Mul that carries the norm's path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from torch import Tensor

from envs.executors.families.sam2 import OVERRIDES

NOT_EXPORTED = ("conv_s0", "conv_s1", "pred_obj_score_head")
"""Parts of the mask decoder that no exported decoder has: two belong to encoding, one is not read."""

NORMS = {"output_upscaling.1": "mask_decoder", "mask_downscaling.1": "prompt_encoder"}
NORMS |= {"mask_downscaling.4": "prompt_encoder"}
"""Norms over channels, whose constants lose their names: path in the graph -> module."""


def read_decoder(path: Path, side: int) -> tuple[PromptEncoder, MaskDecoder] | None:
    """Build SAM 2's prompt encoder and mask decoder with the weights of an exported decoder.

    Args:
        path: the `.onnx` file.
        side: side of the encoder's square input.

    Returns:
        The two modules, or None if the file is not a SAM 2 decoder as PyTorch exports it.
    """
    if path.suffix != ".onnx":
        return None
    try:
        graph = onnx.load(str(path)).graph
    except (DecodeError, OSError, ValueError):
        return None
    constants = {item.name: _tensor(item) for item in graph.initializer}
    named = {name: tensor for name, tensor in constants.items() if not name.startswith("onnx::")}
    named |= _linear_weights(graph, constants)
    named |= _norms(graph, constants)
    named |= _tokens(constants)
    prompt_encoder, mask_decoder = _empty_modules(side)
    for prefix, module in (("prompt_encoder.", prompt_encoder), ("mask_decoder.", mask_decoder)):
        state = {n.removeprefix(prefix): tensor for n, tensor in named.items() if n.startswith(prefix)}
        try:
            report = module.load_state_dict(state, strict=False)
        except RuntimeError:  # another shape
            return None
        if report.unexpected_keys or any(not n.startswith(NOT_EXPORTED) for n in report.missing_keys):
            return None
    return prompt_encoder, mask_decoder


def _tensor(item: Any) -> Tensor:
    return torch.from_numpy(np.array(numpy_helper.to_array(item)))


def _linear_weights(graph: Any, constants: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights [out, in] of linear layers: "x.weight" for every "x.bias" added to a MatMul's result."""
    producers = {output: node for node in graph.node for output in node.output}
    found = {}
    for node in graph.node:
        if node.op_type != "Add" or len(node.input) != 2:
            continue
        for bias, other in (tuple(node.input), tuple(node.input)[::-1]):
            producer = producers.get(other)
            if bias.endswith(".bias") and bias in constants and producer is not None:
                matrix = producer.input[1] if producer.op_type == "MatMul" else ""
                if matrix in constants:
                    found[bias.removesuffix("bias") + "weight"] = constants[matrix].t().contiguous()
    return found


def _norms(graph: Any, constants: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights and biases of `NORMS`: constants [channels, 1, 1] of a Mul and an Add on the norm's path."""
    found = {}
    for node in graph.node:
        kind = {"Mul": "weight", "Add": "bias"}.get(node.op_type)
        for norm, module in NORMS.items():
            if kind is not None and f"{norm}/" in node.output[0]:
                for name in node.input:
                    if name in constants and constants[name].ndim == 3:
                        found[f"{module}.{norm}.{kind}"] = constants[name].flatten()
    return found


def _tokens(constants: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output tokens, which are one constant [1, 6, C], and the "no mask" embedding, [1, C, 1, 1]."""
    found = {}
    for name, tensor in constants.items():
        if name.startswith("onnx::") and tensor.ndim == 3 and tensor.shape[:2] == (1, 6):
            found["mask_decoder.obj_score_token.weight"] = tensor[0, :1]
            found["mask_decoder.iou_token.weight"] = tensor[0, 1:2]
            found["mask_decoder.mask_tokens.weight"] = tensor[0, 2:]
        if name.startswith("onnx::") and tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and len(tensor) == 1:
            found["prompt_encoder.no_mask_embed.weight"] = tensor.flatten(1)
    return found


def _empty_modules(side: int) -> tuple[PromptEncoder, MaskDecoder]:
    """SAM 2's prompt encoder and mask decoder as the package builds them, with fresh weights."""
    grid = (side // 16, side // 16)
    prompt_encoder = PromptEncoder(
        embed_dim=256, image_embedding_size=grid, input_image_size=(side, side), mask_in_chans=16
    )
    mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        transformer_dim=256,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        use_multimask_token_for_obj_ptr=True,
        **OVERRIDES,
    )
    return prompt_encoder, mask_decoder
