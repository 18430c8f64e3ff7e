"""From a segmenter's low-resolution logits to masks of the original image.

SAM upsamples its 256 x 256 logits bilinearly to the padded input (1024 x 1024), cuts the padding off,
and resizes bilinearly to the original size (`segment_anything`'s `Sam.postprocess_masks`). Each step
is linear and separable, so both together are one banded matrix for the rows and one for the columns,
built here in float64. The million pixels between the two steps are never computed. Logits differ
from the two float32 steps by rounding only (a test holds 1e-4); so does the mask, where a logit is
that close to the threshold.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.executors.decoding.threads import parallel_map

BLOCK = 64
"""Output rows or columns per matrix product: small enough that the band stays narrow."""

ROW_BLOCK_VALUES = 1 << 24
"""Upper bound on logits held at full resolution at once (64 MiB of float32)."""


def bilinear_matrix(inputs: int, outputs: int) -> NDArray[np.float64]:
    """Matrix [outputs, inputs] of `F.interpolate(mode="bilinear", align_corners=False)` on one axis."""
    source = np.maximum((np.arange(outputs) + 0.5) * (inputs / outputs) - 0.5, 0)
    low = np.minimum(source.astype(np.int64), inputs - 1)
    high = np.minimum(low + 1, inputs - 1)
    matrix = np.zeros((outputs, inputs))
    rows = np.arange(outputs)
    np.add.at(matrix, (rows, low), 1 - (source - low))
    np.add.at(matrix, (rows, high), source - low)
    return matrix


class _Band:
    """A banded matrix [outputs, inputs], kept as dense blocks of rows with only their own columns.

    Args:
        matrix: the matrix.
        device: where it is used.
        transposed: keep the blocks' transposes.
    """

    def __init__(self, matrix: NDArray[np.float64], device: torch.device, transposed: bool) -> None:
        self.blocks: list[tuple[slice, slice, Tensor]] = []
        for start in range(0, len(matrix), BLOCK):
            rows = slice(start, min(start + BLOCK, len(matrix)))
            used = np.flatnonzero(matrix[rows].any(axis=0))
            columns = slice(int(used[0]), int(used[-1]) + 1)
            block = torch.as_tensor(matrix[rows, columns], dtype=torch.float32, device=device)
            self.blocks.append((rows, columns, (block.t() if transposed else block).contiguous()))


class MaskUpsampler:
    """Turns low-resolution logits into masks of one image.

    Args:
        low_hw: (height, width) of the logits.
        padded_hw: (height, width) of the segmenter's input that the logits cover.
        used_hw: (height, width) of the part of it that holds the image, from the top-left corner.
        original_hw: (height, width) of the image.
        device: where the logits are.
    """

    def __init__(
        self,
        low_hw: tuple[int, int],
        padded_hw: tuple[int, int],
        used_hw: tuple[int, int],
        original_hw: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.original_hw = original_hw
        matrices = []
        for axis in (0, 1):
            first = bilinear_matrix(low_hw[axis], padded_hw[axis])[: used_hw[axis]]
            matrices.append(bilinear_matrix(used_hw[axis], original_hw[axis]) @ first)
        self._rows = _Band(matrices[0], device, transposed=False)
        self._columns = _Band(matrices[1], device, transposed=True)

    def logits(self, low_res: Tensor) -> Tensor:
        """Low-resolution logits [..., h, w] -> logits [..., height, width] of the original image."""
        wide = self._widen(low_res)
        out = wide.new_empty((*low_res.shape[:-2], *self.original_hw))
        for rows, used, block in self._rows.blocks:
            torch.matmul(block, wide[..., used, :], out=out[..., rows, :])
        return out

    def masks(
        self, low_res: Tensor, threshold: float, offset: float = 1.0, at_once: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Threshold the upsampled logits.

        Args:
            low_res: float32 logits [n, h, w].
            threshold: a pixel is foreground where its logit is greater.
            offset: for the stability score.
            at_once: logits of so many instances are held at full resolution; None takes one for each
                thread on a CPU, whose caches hold no more, and `ROW_BLOCK_VALUES` on a GPU.

        Returns:
            bool masks [n, height, width], and the stability [n]: IoU between the masks at
            threshold + offset and threshold - offset, 1 when both are empty
            (`segment_anything.utils.amg.calculate_stability_score`, which gives NaN there).
        """
        count = len(low_res)
        masks = torch.empty((count, *self.original_hw), dtype=torch.bool, device=low_res.device)
        stability = torch.empty(count, device=low_res.device)

        def fill(part: int | slice) -> None:
            wide = self._widen(low_res[part])
            inner = outer = torch.zeros((), dtype=torch.int64, device=low_res.device)
            for rows, used, block in self._rows.blocks:
                values = block @ wide[..., used, :]  # [..., rows, width]
                _threshold(values, threshold, masks[part][..., rows, :])
                inner = inner + _count_above(values, threshold + offset)
                outer = outer + _count_above(values, threshold - offset)
            stability[part] = torch.where(outer > 0, inner / outer.clamp(min=1), 1.0)

        if low_res.device.type == "cpu" and at_once is None:
            parallel_map(fill, range(count))
        else:
            step = at_once or max(1, ROW_BLOCK_VALUES // (self.original_hw[0] * self.original_hw[1]))
            for start in range(0, count, step):
                fill(slice(start, start + step))
        return masks, stability

    def _widen(self, low_res: Tensor) -> Tensor:
        """[..., h, w] -> [..., h, width]."""
        wide = low_res.new_empty((*low_res.shape[:-1], self.original_hw[1]))
        for columns, used, block in self._columns.blocks:
            torch.matmul(low_res[..., used], block, out=wide[..., columns])
        return wide


mask_upsampler = lru_cache(maxsize=64)(MaskUpsampler)
"""A `MaskUpsampler`, kept for the next image of the same size."""


def _threshold(values: Tensor, level: float, out: Tensor) -> None:
    """out = values > level. On a CPU by NumPy, whose comparison is several times as fast as PyTorch's."""
    if values.device.type == "cpu":
        np.greater(values.numpy(), np.float32(level), out=out.numpy())
    else:
        torch.gt(values, level, out=out)


def _count_above(values: Tensor, level: float) -> Tensor:
    """Number of `values` [..., h, w] above `level`, int64 [...]."""
    if values.device.type == "cpu" and values.ndim == 2:
        return torch.tensor(np.count_nonzero(values.numpy() > np.float32(level)))
    return torch.count_nonzero(values > level, dim=(-2, -1))
