"""Pixels of a raster as a picture of 8 bits: read by windows, all by one stretch for the whole file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.datasets.reading.pixels.stretch import parse_stretch
from envs.masks import Mask
from envs.rasters.files import Raster, dataset_of, import_rasterio
from envs.rasters.windows import Rect, Window
from envs.sample import RGB
from prompter.errors import UserError

LOOKED_AT = 1024
"""Rows, and columns, that are looked at to find the range of a file's values."""

PATCHES = 16


@dataclass(frozen=True)
class RasterView:
    """How a raster is seen. Small, and may be pickled; a file is opened once for each thread.

    Args:
        raster: the file.
        bands: three that are seen as red, green and blue, or one in grey; from 1.
        ranges: per band of `bands`, the values that become 0 and 255; empty where values are taken as they
            are, which is so for 8 bits and palettes.
    """

    raster: Raster
    bands: tuple[int, ...]
    ranges: tuple[tuple[float, float], ...] = ()

    def picture(self, window: Window) -> Image.Image:
        """What a window shows, PIL RGB of `window.picture_wh`. What was not measured is black.

        Raises:
            UserError: if the file cannot be read there.
        """
        width, height = window.picture_wh
        values, measured = _read(self.raster, self.bands, window.rect, (height, width))
        return Image.fromarray(self._coloured(values, measured))

    def shown(self, window: Window) -> Mask | None:
        """Pixels of a window of scale 1 that hold a measurement, bool [height, width]; None if all do.

        A value that stands for "not measured", but that a roof or a shadow may have, too (within what 8 bits
        hold, or 0), cuts no object: it is not taken into account here.
        """
        raster = self.raster
        if not (
            raster.alpha or raster.has_mask or raster.dtype.startswith("float") or self._strange_nodata()
        ):
            return None
        width, height = window.picture_wh
        measured = _read(raster, self.bands, window.rect, (height, width), plain=True)[1]
        return None if measured.all() else measured

    def _strange_nodata(self) -> bool:
        return any(_is_strange(self.raster.nodata[band - 1], self.raster.dtype) for band in self.bands)

    def _coloured(self, values: NDArray[Any], measured: Mask) -> RGB:
        """uint8 [height, width, 3] of values [bands, height, width]."""
        if self.raster.palette:
            table = np.zeros((256 if values.itemsize == 1 else 65536, 3), np.uint8)
            table[: len(self.raster.palette)] = np.asarray(self.raster.palette, np.uint8)[:, :3]
            picture = table[values[0]]
        else:
            ranges = self.ranges or [None] * len(values)
            bands = [_in_bytes(one, limits) for one, limits in zip(values, ranges, strict=True)]
            picture = np.stack(bands * (3 // len(bands)), axis=-1)
        picture[~measured] = 0
        return np.ascontiguousarray(picture)


def view_of(raster: Raster, bands: tuple[int, ...], stretch: str | None = None) -> RasterView:
    """A raster, seen by a stretch that is found once, for the whole file.

    Args:
        raster: the file.
        bands: from 1, three or one.
        stretch: `full`, `minmax`, `percentile[:LOW:HIGH]` or `range:LOW:HIGH`, as
            `envs.datasets.reading.rules.ReadingRules`; each band has a range of its own. None takes 8 bits as
            they are, and anything else by its percentiles 2 and 98.

    Raises:
        UserError: if the rule is none of these, or the file cannot be read.
    """
    if raster.palette or (stretch is None and raster.dtype == "uint8"):
        return RasterView(raster, bands)
    rule = parse_stretch("percentile" if stretch in (None, "refuse") else str(stretch))
    if rule.kind in ("range", "full"):
        limits = rule.limits(np.zeros(0, raster.dtype))
        return RasterView(raster, bands, (limits,) * len(bands))
    values, measured = _looked_at(raster, bands)
    return RasterView(raster, bands, tuple(rule.limits(one[measured]) for one in values))


def _looked_at(raster: Raster, bands: tuple[int, ...]) -> tuple[NDArray[Any], Mask]:
    """Values from all over a file, and whether they were measured, as `_read`.

    Every so many rows and columns; of a large file without coarser copies, which would be read whole for
    that, `PATCHES` x `PATCHES` squares.
    """
    width, height = raster.wh
    with dataset_of(raster) as dataset:
        has_coarser = bool(dataset.overviews(1))
    if has_coarser or width * height <= (4 * LOOKED_AT) ** 2:
        size = (min(height, LOOKED_AT), min(width, LOOKED_AT))
        return _read(raster, bands, (0, 0, width, height), size, nearest=True)
    side = (min(LOOKED_AT // PATCHES, height), min(LOOKED_AT // PATCHES, width))
    found = [
        _read(raster, bands, (left, top, left + side[1], top + side[0]), side)
        for top in (int(place) for place in np.linspace(0, height - side[0], PATCHES))
        for left in (int(place) for place in np.linspace(0, width - side[1], PATCHES))
    ]
    return np.concatenate([one[0] for one in found], axis=2), np.concatenate(
        [one[1] for one in found], axis=1
    )


def _read(
    raster: Raster,
    bands: tuple[int, ...],
    rect: Rect,
    hw: tuple[int, int],
    *,
    nearest: bool = False,
    plain: bool = False,
) -> tuple[NDArray[Any], Mask]:
    """Values [bands, height, width] and whether each pixel was measured, bool [height, width].

    Args:
        rect: what is read, in pixels of the file.
        hw: (height, width) of what is returned; a coarser copy in the file is used if there is one.
        nearest: take one value for each pixel instead of their mean.
        plain: leave nodata values out of account that brightness may have as well.
    """
    rasterio = import_rasterio()
    x0, y0, x1, y1 = rect
    window = rasterio.windows.Window(x0, y0, x1 - x0, y1 - y0)
    coarser = hw != (y1 - y0, x1 - x0)
    average = rasterio.enums.Resampling.average
    how = rasterio.enums.Resampling.nearest if nearest or raster.palette or not coarser else average
    with dataset_of(raster) as dataset:
        try:
            values = dataset.read(list(bands), window=window, out_shape=(len(bands), *hw), resampling=how)
            measured = np.ones(hw, np.bool_)
            if raster.alpha is not None:
                measured &= dataset.read(raster.alpha, window=window, out_shape=hw) != 0
            elif raster.has_mask:
                measured &= dataset.read_masks(bands[0], window=window, out_shape=hw) != 0
        except rasterio.errors.RasterioError as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"raster {raster.path}: its pixels cannot be read in columns {x0} to {x1}, rows {y0} to {y1} "
                f"({reason})."
            ) from None
    measured &= ~_not_measured(values, [raster.nodata[band - 1] for band in bands], raster.dtype, plain)
    return values, measured


def _not_measured(
    values: NDArray[Any], nodata: list[float | None], dtype: str, plain: bool
) -> NDArray[np.bool_]:
    """Pixels of which every band is not finite, or holds its "not measured"; bool [height, width].

    Every band, because a value such as 255 in one of three is a bright roof.
    """
    found = np.ones(values.shape[1:], np.bool_)
    for band, value in zip(values, nodata, strict=True):
        missing = ~np.isfinite(band) if band.dtype.kind == "f" else np.zeros(band.shape, np.bool_)
        if value is not None and np.isfinite(value) and (not plain or _is_strange(value, dtype)):
            missing |= band == value
        found &= missing
    return found


def _is_strange(value: float | None, dtype: str) -> bool:
    """Whether a "not measured" cannot be the brightness of anything."""
    return value is not None and np.isfinite(value) and dtype != "uint8" and (value < 0 or value > 255)


def _in_bytes(values: NDArray[Any], limits: tuple[float, float] | None) -> NDArray[np.uint8]:
    if limits is None:
        return values.astype(np.uint8)
    low, high = limits
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    numbers: NDArray[Any] = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    np.nan_to_num(numbers, copy=False, nan=low, posinf=high, neginf=low)
    np.subtract(numbers, low, out=numbers)  # in place: a window is large
    np.multiply(numbers, 255 / (high - low), out=numbers)
    np.rint(numbers, out=numbers)
    return np.clip(numbers, 0, 255, out=numbers).astype(np.uint8)
