"""Image features of a frozen segmenter, for pooling under masks."""

from __future__ import annotations

import math

from torch import Tensor

from envs.executors.base import Executor
from envs.executors.decoding.promptable import PromptableSegmenter
from envs.executors.serving.local import LocalExecutor
from envs.sample import RGB
from prompter.errors import UserError


def segmenter_features(executor: Executor, image: RGB) -> Tensor:
    """The segmenter's embedding of an image, without what pads it; from the executor's cache if it is there.

    Args:
        executor: with a segmenter of the SAM family, in this process.
        image: [height, width, 3] uint8 RGB.

    Returns:
        float32 [rows, columns, C] over the whole image.

    Raises:
        UserError: if the segmenter has no such features, or runs elsewhere.
        RuntimeError: if the image cannot be encoded.
    """
    if not isinstance(executor, LocalExecutor) or not isinstance(executor.segmenter, PromptableSegmenter):
        raise UserError(
            f"features: segmenter needs a segmenter of the SAM family with backend local, "
            f"but {executor.name} is none."
        )
    (embedding,) = executor.embeddings([image])
    if "image" not in embedding.tensors:
        raise UserError(
            f"features: segmenter cannot use {executor.name}: its embeddings hold "
            f"{', '.join(sorted(embedding.tensors))}, not `image`."
        )
    found: Tensor = embedding.tensors["image"].float().cpu()
    geometry = executor.segmenter.decoder.geometry(embedding)
    rows, columns = (
        math.ceil(size * used / padded)
        for size, used, padded in zip(found.shape[1:], geometry.used_hw, geometry.padded_hw, strict=True)
    )
    return found[:, :rows, :columns].permute(1, 2, 0).contiguous()
