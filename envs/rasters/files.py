"""A raster file: what its header says, and a way to read it. Refused in one sentence where it cannot be used.

GDAL opens far more than pictures: a text called x.tif may be a virtual raster that names any file of the
machine, and files beside a raster are looked into as well. So the driver is chosen here, by the file's first
bytes, and nothing beside the file is read but the six numbers of a world file.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envs.datasets.reading.pixels.georeference import world_file_of
from prompter.errors import UserError

Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): map x = a column + b row + c, map y = d column + e row + f; corners of pixels."""

PIXELS: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""The transform of a file that has none: columns and rows, y down."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"II*\0", "GTiff"),
    (b"MM\0*", "GTiff"),
    (b"II+\0", "GTiff"),
    (b"MM\0+", "GTiff"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JP2OpenJPEG"),
    (b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
)

_SETTINGS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no overview, mask or metadata files beside it
    "GDAL_PAM_ENABLED": "NO",  # no .aux.xml, which can name other files; and none is written
    "GDAL_NUM_THREADS": "1",
    "GDAL_CACHEMAX": 128,  # megabytes
}

_HANDLES = threading.local()


@dataclass(frozen=True)
class Raster:
    """What a raster's header says. Small, and may be pickled.

    Args:
        path: absolute.
        driver: GDAL's name of the format.
        wh: (width, height) in pixels.
        dtype: NumPy's name of what every band holds.
        nodata: per band, the value that stands for "not measured", or None.
        colours: per band, GDAL's colour interpretation in lower case: "red", "alpha", "gray", "palette", …
        names: per band, its description, or "".
        has_mask: whether the file holds a mask of its own.
        palette: index -> RGBA of a palette's entries; empty if there is none.
        crs: well-known text (WKT2) of the coordinate reference system; "" where there is none.
        transform: from pixels to `crs`; `PIXELS` where the file has none.
        notes: what is not as one might think, a sentence each.
    """

    path: str
    driver: str
    wh: tuple[int, int]
    dtype: str
    nodata: tuple[float | None, ...]
    colours: tuple[str, ...]
    names: tuple[str, ...]
    has_mask: bool
    palette: tuple[tuple[int, int, int, int], ...] = field(default=(), repr=False)
    crs: str = field(default="", repr=False)
    transform: Affine = PIXELS
    notes: tuple[str, ...] = ()

    @property
    def bands(self) -> int:
        """Number of bands."""
        return len(self.colours)

    @property
    def alpha(self) -> int | None:
        """Number of the alpha band, from 1; None where there is none."""
        return self.colours.index("alpha") + 1 if "alpha" in self.colours else None


def open_raster(path: Path | str) -> Raster:
    """Read a raster's header.

    Args:
        path: a GeoTIFF, JPEG 2000, PNG or JPEG file.

    Raises:
        UserError: if there is no such file, it is of another format (a virtual raster, say, which names
            other files), cannot be read, or holds complex numbers.
    """
    file = Path(os.path.abspath(path))
    driver = _driver_of(file)
    with _opened_file(str(file), driver) as dataset:
        return _described(file, driver, dataset)


@contextmanager
def dataset_of(raster: Raster) -> Iterator[Any]:
    """The open `rasterio` dataset of a raster, for reading; one for each thread, kept open for the next call.

    Raises:
        UserError: if the file is gone.
    """
    held: dict[tuple[str, int, int], Any] = _HANDLES.__dict__.setdefault("held", {})
    try:
        found = os.stat(raster.path)
    except OSError as error:
        raise UserError(f"raster {raster.path}: it cannot be opened ({error.strerror}).") from None
    key = (raster.path, found.st_mtime_ns, found.st_size)  # a file may be written anew under its name
    if key not in held:
        for dataset in held.values():
            dataset.close()
        held.clear()
        held[key] = _open(raster.path, raster.driver)
    with _environment():
        yield held[key]


def import_rasterio() -> Any:
    """`rasterio`, with the tables of coordinate systems it brings along.

    PROJ_LIB, PROJ_DATA and GDAL_DATA of another program's installation would make every coordinate system
    unknown; they are taken out of this process's environment.

    Raises:
        UserError: if it is not installed.
    """
    for name in ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA"):
        os.environ.pop(name, None)
    try:
        import rasterio
    except ModuleNotFoundError as error:
        raise UserError(
            f"Reading rasters needs {error.name}, which is not installed: pip install 'prompter-rl[geo]'."
        ) from None
    return rasterio


def _driver_of(file: Path) -> str:
    if str(file).startswith("/vsi"):
        raise UserError(f"raster {file}: it is no plain file of this machine; copy it here first.")
    try:
        with open(file, "rb") as handle:
            start = handle.read(512)
    except OSError as error:
        raise UserError(f"raster {file}: it cannot be opened ({error.strerror}).") from None
    for magic, driver in _MAGIC:
        if start.startswith(magic):
            return driver
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise UserError(
            f"raster {file}: it is a text that names other files (a virtual raster), which are not opened; "
            f"write one GeoTIFF of them (gdal_translate)."
        )
    raise UserError(f"raster {file}: it is no GeoTIFF, JPEG 2000, PNG or JPEG file; convert it to GeoTIFF.")


@contextmanager
def _environment() -> Iterator[Any]:
    rasterio = import_rasterio()
    with rasterio.Env(**_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield rasterio


def _open(path: str, driver: str) -> Any:
    with _environment() as rasterio:
        try:
            return rasterio.open(path, driver=driver)
        except rasterio.errors.RasterioError as error:
            raise UserError(f"raster {path}: it cannot be read ({_sentence(error)}).") from None


@contextmanager
def _opened_file(path: str, driver: str) -> Iterator[Any]:
    dataset = _open(path, driver)
    with _environment(), dataset:
        yield dataset


def _described(file: Path, driver: str, dataset: Any) -> Raster:
    kinds = sorted(set(dataset.dtypes))
    if any("complex" in kind for kind in kinds):
        raise UserError(
            f"raster {file}: it holds complex numbers ({kinds[0]}), which are no picture; write their "
            f"magnitude to a GeoTIFF."
        )
    if len(kinds) > 1:
        raise UserError(f"raster {file}: its bands hold different types ({', '.join(kinds)}).")
    colours = tuple(str(one.name).lower() for one in dataset.colorinterp)
    palette: tuple[tuple[int, int, int, int], ...] = ()
    if colours == ("palette",):
        entries = dataset.colormap(1)
        palette = tuple(tuple(entries.get(index, (0, 0, 0, 0))) for index in range(max(entries) + 1))
    notes = []
    transform: Affine = tuple(dataset.transform)[:6]
    if transform == PIXELS:
        transform = _from_world_file(file)
    crs = "" if dataset.crs is None else dataset.crs.to_wkt(version="WKT2_2019")
    if transform == PIXELS:
        if dataset.gcps[0] or dataset.rpcs is not None:
            notes.append("its control points are not used; outlines are in pixels, y down")
        elif crs:
            notes.append("it names a coordinate system, but no place in it; outlines are in pixels, y down")
        else:
            notes.append("it has no place on a map; outlines are in pixels, y down")
        crs = ""
    elif not crs:
        notes.append("it has a place, but no coordinate system; outlines are in its own coordinates")
    if len(dataset.subdatasets) > 1:
        notes.append(f"it holds {len(dataset.subdatasets)} pictures, of which the first is read")
    return Raster(
        path=str(file),
        driver=driver,
        wh=(dataset.width, dataset.height),
        dtype=kinds[0],
        nodata=tuple(None if value is None else float(value) for value in dataset.nodatavals),
        colours=colours,
        names=tuple(text or "" for text in dataset.descriptions),
        has_mask=any("per_dataset" in _flags(one) and "alpha" not in _flags(one) for one in _masks(dataset)),
        palette=palette,
        crs=crs,
        transform=transform,
        notes=tuple(notes),
    )


def _masks(dataset: Any) -> Any:
    return dataset.mask_flag_enums


def _flags(enums: Any) -> set[str]:
    return {str(one.name) for one in enums}


def _from_world_file(file: Path) -> Affine:
    """The transform of a world file, whose last two numbers are the centre of the first pixel."""
    beside = world_file_of(file)
    if beside is None:
        return PIXELS
    try:
        a, d, b, e, c, f = (float(word) for word in beside.read_text("ascii").split())
    except (OSError, ValueError):
        raise UserError(f"raster {file}: its world file {beside.name} does not hold six numbers.") from None
    return (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
