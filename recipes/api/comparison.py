"""Several segmenters on the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.masks import pairwise_iou
from recipes.api.drawing import side_by_side
from recipes.api.result import Result


class Comparison(Mapping[str, Result]):
    """Results of one answer by name of the segmenter, in the order they were asked for.

    Args:
        results: at least one.
    """

    def __init__(self, results: Mapping[str, Result]) -> None:
        self._results = dict(results)

    def __getitem__(self, name: str) -> Result:
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    @cached_property
    def ious(self) -> NDArray[np.float64]:
        """IoU of each segmenter's union with each other's, float64 [n, n]; 1 where both are empty."""
        unions = [result.union for result in self.values()]
        return pairwise_iou(unions, unions, None)

    def plot(self, size: int = 512) -> Image.Image:
        """The results' pictures in a row, each `size` pixels on its longer side: PIL RGB."""
        return side_by_side([(name, result.plot(size)) for name, result in self.items()])

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(f'{name}: {result.summary()}' for name, result in self.items())}>"

    def _repr_html_(self) -> str:
        return "".join(result._repr_html_() for result in self.values())
