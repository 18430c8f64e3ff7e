"""One image, wherever it is stored, as the rules in force read it: its header, and its pixels.

Pillow reads everything of 8 bits a channel, and one channel of more; it cuts several channels of more
to their upper 8 bits without a word, and does not know TIFFs of several floats. Those are OpenCV's.
"""

from __future__ import annotations

import io
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from envs.datasets.reading.faults import Fault, note
from envs.datasets.reading.pixels.stretch import parse_stretch
from envs.datasets.reading.rules import ReadingRules, in_force

Source = Path | str | bytes | Image.Image
"""A path, an encoded image, or one that is decoded."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what brings the stored pixels upright."""

_BACK = _TURNS | {6: _TURNS[8], 8: _TURNS[6]}

_ORIENTATION = 274
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _CHANNELS, _FORMAT, _NODATA = 256, 257, 258, 262, 277, 339, 42113

_LOCK = threading.Lock()  # of settings of Pillow and OpenCV that are the process's


@dataclass(frozen=True)
class Header:
    """What is known of an image before its pixels are read.

    Args:
        wh: (width, height) in pixels, as the rules read it.
        tag: EXIF's orientation 1 to 8, as the file says it.
        turn: the one that the pixels are turned by, which is 1 where the rules ignore the tag.
        depth: what a channel holds where it is more than 8 bits, for a sentence; else None.
        by_opencv: whether the pixels must come from OpenCV.
        nodata: the value that a GeoTIFF calls "not measured".
        is_inverted: whether zero is white.
    """

    wh: tuple[int, int]
    tag: int
    turn: int
    depth: str | None
    by_opencv: bool = False
    nodata: float | None = None
    is_inverted: bool = False


def read_header(source: Source) -> Header:
    """Read a header, and note what the rules do to the image.

    Raises:
        Fault: of kind "huge" or "depth", where the rules refuse it.
        OSError, ValueError, SyntaxError: as Pillow, if it is no image.
    """
    header = _any_header(source)
    _refuse_huge(header)
    if header.turn != 1:
        note("turned", f"it is turned by its orientation tag {header.turn}.", innermost=True)
    _check_depth(header)
    return header


def read_rgb(source: Source) -> Image.Image:
    """Read an image as PIL RGB of `read_header(source).wh`; errors as there."""
    header = read_header(source)
    if header.depth is not None:
        values = _deep_values(source, header)
        shown = parse_stretch(in_force().stretch).to_bytes(values, header.nodata)
        shown = 255 - shown if header.is_inverted else shown
        return Image.fromarray(shown).convert("RGB")
    with _opened(source) as image:
        return _turned(image, header).convert("RGB")


def read_values(source: Source) -> tuple[Header, Image.Image | NDArray[Any]]:
    """A label image: its header, and the upright PIL image, or the values of one of more than 8 bits.

    The values are [height, width] or [height, width, 3] RGB. Depth is not refused here, because a label's
    values are numbers and not brightness. Errors are those of `read_header`.
    """
    header = label_header(source)
    if header.depth is not None:
        return header, _deep_values(source, header)
    with _opened(source) as image:
        return header, _turned(image, header)


def label_header(source: Source) -> Header:
    """The header of a label image; errors are those of `read_header`, but for depth."""
    header = _any_header(source)
    _refuse_huge(header)
    return header


def _any_header(source: Source) -> Header:
    rules = in_force()
    try:
        with _opened(source) as image:
            header = _header(image, rules)
            if (count := _pictures(image)) > 1:
                note("pages", f"it holds {count} pictures, of which the first is read.", innermost=True)
            return header
    except UnidentifiedImageError:
        found = None if isinstance(source, Image.Image) else _strange_tiff(source, rules)
        if found is None:
            raise ValueError("it is no image of a format that can be read") from None
        return found


def _refuse_huge(header: Header) -> None:
    width, height = header.wh
    if width * height > in_force().max_pixels:
        raise Fault(
            "huge",
            f"it has {width} x {height} pixels (width x height), which is more than the limit of "
            f"{in_force().max_pixels:,}; the option max_pixels={width * height} lets it in",
        )


def _check_depth(header: Header) -> None:
    if header.depth is None:
        return
    rule = in_force().stretch
    if rule == "refuse":
        raise Fault(
            "depth",
            f"it holds {header.depth} a channel, and how they are to be seen is not said; say it with the "
            f"option stretch (percentile, minmax, full or range:LOW:HIGH)",
        )
    note("stretched", f"its {header.depth} a channel are stretched by {rule}.", innermost=True)


@contextmanager
def _opened(source: Source) -> Iterator[Image.Image]:
    """The image with its header read. Pillow's own limit is lifted: `_judge` holds the user's."""
    if isinstance(source, Image.Image):
        yield source
        return
    with _LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def _header(image: Image.Image, rules: ReadingRules) -> Header:
    tags = getattr(image, "tag_v2", {})
    orientation = _orientation(image)
    width, height = image.size
    is_tiff = image.format == "TIFF"  # Pillow turns these itself, and says the upright size
    if orientation >= 5 and is_tiff == (rules.orientation == "ignore"):
        width, height = height, width
    depth, by_opencv = _depth(image)
    if depth is not None and image.mode not in ("I", "F", "RGB", "RGBA", "LA") and image.mode[:4] != "I;16":
        raise Fault("depth", f"it holds {depth} a channel in the mode {image.mode}; write it as RGB or grey")
    return Header(
        (width, height),
        orientation,
        orientation if rules.orientation == "apply" else 1,
        depth,
        by_opencv,
        _number(tags.get(_NODATA)),
        depth is not None and tags.get(_PHOTOMETRIC) == 0,
    )


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where there is none or the tag is broken."""
    try:
        # Not the PNG plugin's own, which decodes the pixels to look behind them.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


_SUBFILE, _PAGES = 254, 64


def _pictures(image: Image.Image) -> int:
    """How many pictures a file holds, counted to 64; smaller copies and masks in a TIFF are none."""
    if image.format not in ("GIF", "PNG", "TIFF", "WEBP"):  # an MPO is a photo with its previews
        return 1
    count = 1
    try:
        if image.format != "TIFF":
            return int(getattr(image, "n_frames", 1))
        for page in range(1, _PAGES):
            image.seek(page)
            count += not image.tag_v2.get(_SUBFILE, 0) & 5  # type: ignore[attr-defined]
        return count
    except (EOFError, SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return count  # there are no more, or what follows is broken


_DEEP_LAYOUT = re.compile(r"(?!BGR).*;(12|16|32|64)")


def _depth(image: Image.Image) -> tuple[str | None, bool]:
    """What a channel holds, if more than 8 bits, and whether Pillow would cut it."""
    layout = ""
    for tile in getattr(image, "tile", ())[:1]:
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        layout = next((part for part in arguments if isinstance(part, str)), "")
        most = max((part for part in arguments if isinstance(part, int)), default=0)
        if image.format == "PPM" and most > 255:
            return "16 bits", image.mode == "RGB"
    if image.mode == "F":
        return "floating-point numbers", False
    if image.mode == "I":
        return ("16 bits" if ";16" in layout else "32 bits"), False
    if image.mode.startswith("I;16"):
        return "16 bits", False
    if image.format == "JPEG2000":
        bits = _jpeg2000_bits(image)
        return (f"{bits} bits", True) if bits > 8 else (None, False)
    found = _DEEP_LAYOUT.match(layout)
    return (f"{found[1]} bits", True) if found else (None, False)


def _jpeg2000_bits(image: Image.Image) -> int:
    """Bits of the first channel, from the codestream's marker SIZ (ISO 15444-1, A.5.1); 8 if unseen."""
    stream = getattr(image, "fp", None)
    if stream is None:
        return 8
    place = stream.tell()
    stream.seek(0)
    start = stream.read(1 << 16)
    stream.seek(place)
    marker = start.find(b"\xff\x4f\xff\x51")
    at = marker + 4 + 38  # behind the length, capabilities, eight sides and the number of channels
    return (start[at] & 0x7F) + 1 if marker >= 0 and at < len(start) else 8


def _strange_tiff(source: Path | str | bytes, rules: ReadingRules) -> Header | None:
    """The header of a TIFF whose kind of pixels Pillow does not know; None if it is no TIFF."""
    stream = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")
    with stream as handle:
        start = handle.read(8)
        if start[:4] not in (b"II*\0", b"MM\0*"):
            return None
        tags: Any = TiffImagePlugin.ImageFileDirectory_v2(start)
        handle.seek(tags.next)
        tags.load(handle)
    bits, channels = max(_numbers(tags.get(_BITS, 1))), tags.get(_CHANNELS, 1)
    if channels > 4:
        raise ValueError(f"it is a TIFF of {channels} channels; write the three to be seen as RGB")
    if bits <= 8:
        return None
    is_float = 3 in _numbers(tags.get(_FORMAT, 1))
    depth = f"{bits}-bit floating-point numbers" if is_float else f"{bits} bits"
    tag, wh = tags.get(_ORIENTATION, 1), (tags[_WIDTH], tags[_HEIGHT])
    turn = tag if rules.orientation == "apply" else 1
    nodata, is_inverted = _number(tags.get(_NODATA)), channels == 1 and tags.get(_PHOTOMETRIC) == 0
    return Header(wh[::-1] if turn >= 5 else wh, tag, turn, depth, True, nodata, is_inverted)


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _number(text: Any) -> float | None:
    """GDAL's "not measured" as text; None where there is none that is a finite number."""
    try:
        value = float(str(text).strip().strip("\0"))
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _turned(image: Image.Image, header: Header) -> Image.Image:
    """The decoded image, upright or as stored, as the header has it."""
    image.load()
    if image.format == "TIFF":  # Pillow has turned it
        upright = image if header.turn != 1 or header.tag == 1 else image.transpose(_BACK[header.tag])
    else:
        if _orientation(image) != header.tag:
            raise ValueError("its orientation tag stands behind its pixels; write the file anew")
        upright = image.transpose(_TURNS[header.turn]) if header.turn != 1 else image
    if upright.size != header.wh:
        raise ValueError(f"its header says {header.wh} (width, height), but it holds {upright.size}")
    return upright


def _deep_values(source: Source, header: Header) -> NDArray[Any]:
    """The numbers of an image of more than 8 bits: [height, width] or [height, width, 3] RGB, upright."""
    if not header.by_opencv:
        with _opened(source) as image:
            tags = getattr(image, "tag_v2", {})
            values = np.asarray(_turned(image, header))
        if values.dtype != np.int32:
            return values
        # Pillow widens 16 bits to a signed 32, and reads unsigned 32 as such.
        is_signed = 2 in _numbers(tags.get(_FORMAT, 1))
        if header.depth == "16 bits":
            return values.astype(np.int16 if is_signed else np.uint16)
        return values if is_signed or image.format != "TIFF" else values.view(np.uint32)
    if isinstance(source, Image.Image):
        raise ValueError("it was decoded to 8 bits before; give the file or its bytes")
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    with _LOCK:
        level = cv2.utils.logging.setLogLevel(0)  # it writes to the terminal what is said here as an error
        try:
            found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise ValueError(f"it cannot be decoded ({error.err})") from None
        finally:
            cv2.utils.logging.setLogLevel(level)
    if found is None:
        raise ValueError("it cannot be decoded")
    if data[:2] not in (b"II", b"MM"):
        found = _turn(found, _TURNS.get(header.turn))
    elif header.turn == 1:  # OpenCV turns TIFFs itself, also when it is told to leave EXIF alone
        found = _turn(found, _BACK.get(header.tag))
    if found.shape[1::-1] != header.wh:
        raise ValueError(f"its header says {header.wh} (width, height), but it holds {found.shape[1::-1]}")
    if found.ndim == 2:
        return found
    return found[..., 2::-1] if found.shape[2] >= 3 else found[..., 0]


def _turn(values: NDArray[Any], turn: Image.Transpose | None) -> NDArray[Any]:
    """`Image.transpose` of an array [height, width, …]."""
    if turn is None:
        return values
    swapped = np.swapaxes(values, 0, 1)
    return {
        Image.Transpose.FLIP_LEFT_RIGHT: values[:, ::-1],
        Image.Transpose.FLIP_TOP_BOTTOM: values[::-1],
        Image.Transpose.ROTATE_180: values[::-1, ::-1],
        Image.Transpose.ROTATE_90: swapped[::-1],
        Image.Transpose.ROTATE_270: swapped[:, ::-1],
        Image.Transpose.TRANSPOSE: swapped,
        Image.Transpose.TRANSVERSE: swapped[::-1, ::-1],
    }[turn]
