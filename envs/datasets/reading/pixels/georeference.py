"""What ties an image file to a map, told from its header or the files beside it, without reading pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import TiffImagePlugin

_TAGS = {
    33550: "ModelPixelScale",
    33922: "ModelTiepoint",
    34264: "ModelTransformation",
    34735: "GeoKeyDirectory",
}
"""GeoTIFF's tags (OGC 19-008r4, section 7.1)."""


def georeference_of(path: Path | str) -> str | None:
    """What says where on Earth an image lies, for a sentence; None if nothing does.

    That is the tags of a GeoTIFF (BigTIFF, too), or a world file beside it: `a.pgw`, `a.pngw` or `a.wld`
    beside `a.png`.

    Raises:
        OSError: if the file cannot be opened.
    """
    file = Path(path)
    with open(file, "rb") as handle:
        start = handle.read(8)
        if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            if start[2:4] in (b"+\0", b"\0+"):
                start += handle.read(8)
            tags: Any = TiffImagePlugin.ImageFileDirectory_v2(start)
            handle.seek(tags.next)
            tags.load(handle)
            found = [name for number, name in _TAGS.items() if number in tags]
            if found:
                return f"GeoTIFF tags ({', '.join(found)})"
    beside = world_file_of(file)
    return None if beside is None else f"the world file {beside.name}"


def world_file_of(path: Path | str) -> Path | None:
    """The world file beside an image: `a.pgw`, `a.pngw` or `a.wld` beside `a.png`; None if there is none."""
    file = Path(path)
    suffix = file.suffix[1:]
    for world in (f"{suffix[:1]}{suffix[-1:]}w", f"{suffix}w", "wld"):
        for name in (world, world.upper()):
            beside = file.with_suffix(f".{name}")
            if suffix and beside != file and beside.is_file():
                return beside
    return None
