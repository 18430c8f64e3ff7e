"""Shape statistics of masks, and the range that a reference set allows them (SegEarth-R2, supplement 7.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from envs.datasets.false_premises import plain_name
from envs.masks import Mask, encode_rle, mask_to_box
from envs.oracle import target_masks
from envs.sample import SampleSource
from prompter.errors import UserError

FEWEST = 10
"""Reference masks of a category below which its shapes are not known (the paper takes 50)."""


@dataclass(frozen=True)
class Shape:
    """Statistics of the largest component of a mask; each without a unit.

    Args:
        eccentricity: of the ellipse with the same second moments: 0 for a circle, towards 1 for a line.
        circularity: 4 pi area / perimeter^2 of the outline; about 1 for a disc, less for all else.
        solidity: area over the area of the convex hull.
        symmetry: IoU of the mask with its mirror image about the better of its two principal axes.
        extent: area over the area of its upright box.
    """

    eccentricity: float
    circularity: float
    solidity: float
    symmetry: float
    extent: float

    def to_json(self) -> dict[str, float]:
        """Name -> value, rounded to what is worth keeping."""
        return {name: round(value, 5) for name, value in self.__dict__.items()}


STATISTICS = tuple(Shape.__dataclass_fields__)


def largest_component(mask: Mask) -> Mask:
    """The largest 8-connected component of a bool mask [height, width]; the first of equals."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    return np.asarray(labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))


def shape_of(mask: Mask) -> Shape:
    """The statistics of a mask, bool [height, width], that is not empty.

    Areas are counted in pixels, as squares of side 1, so that a straight rectangle has solidity and extent 1.
    """
    box = mask_to_box(largest_component(mask))
    if box is None:
        raise ValueError("an empty mask has no shape")
    left, top, right, bottom = (int(value) for value in box)
    part = np.pad(largest_component(mask)[top:bottom, left:right].astype(np.uint8), 1)
    area = float(part.sum())
    moments = cv2.moments(part, binaryImage=True)
    # Each pixel is a square: its own spread of 1/12 keeps thin shapes from a division by zero.
    xx, yy = moments["mu20"] / area + 1 / 12, moments["mu02"] / area + 1 / 12
    xy = moments["mu11"] / area
    root = float(np.hypot((xx - yy) / 2, xy))
    long, short = (xx + yy) / 2 + root, max((xx + yy) / 2 - root, 1e-12)
    # The outline without its stairs, within a pixel of the true one: a digital disc then has a circularity of
    # 0.96 to 0.98. OpenCV's goes through pixel centres, so it is taken of the shape enlarged.
    scale = 4
    fine = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=len)
    smooth = cv2.approxPolyDP(outline, scale, True)
    perimeter = (cv2.arcLength(smooth if len(smooth) > 2 else outline, True) + 4) / scale
    rows, columns = np.nonzero(part)
    corners = np.concatenate(
        [np.stack([columns + dx, rows + dy], axis=1) for dx in (0, 1) for dy in (0, 1)]
    ).astype(np.float32)
    hull = float(cv2.contourArea(cv2.convexHull(corners)))
    angle = 0.5 * float(np.arctan2(2 * xy, xx - yy))
    centre = (moments["m10"] / area, moments["m01"] / area)
    return Shape(
        eccentricity=float(np.sqrt(1 - short / long)),
        circularity=min(1.0, 4 * np.pi * area / perimeter**2),
        solidity=min(1.0, area / hull),
        symmetry=max(_mirrored(part, centre, angle), _mirrored(part, centre, angle + np.pi / 2)),
        extent=area / ((right - left) * (bottom - top)),
    )


def _mirrored(part: np.ndarray, centre: tuple[float, float], angle: float) -> float:
    """IoU of a mask with its mirror image about the line through `centre` at `angle`."""
    cosine, sine = float(np.cos(2 * angle)), float(np.sin(2 * angle))
    reach = int(np.ceil(np.hypot(*part.shape)))
    padded = np.pad(part, reach)
    x, y = centre[0] + reach, centre[1] + reach
    turn = np.array(
        [[cosine, sine, x - cosine * x - sine * y], [sine, -cosine, y - sine * x + cosine * y]], np.float64
    )
    other = cv2.warpAffine(padded, turn, padded.shape[::-1], flags=cv2.INTER_NEAREST)
    both = np.count_nonzero(padded & other)
    return float(both / np.count_nonzero(padded | other))


@dataclass(frozen=True)
class Reference:
    """Mean and standard deviation of each statistic over a category's reference masks."""

    masks: int
    mean: Mapping[str, float]
    deviation: Mapping[str, float]

    def outside(self, shape: Shape, deviations: float) -> str | None:
        """The first statistic that lies further from the mean than so many deviations; None if none does."""
        for name in STATISTICS:
            if abs(getattr(shape, name) - self.mean[name]) > deviations * self.deviation[name]:
                return name
        return None

    def to_json(self) -> dict[str, object]:
        """JSON-ready."""
        rounded = [{name: round(one[name], 5) for name in STATISTICS} for one in (self.mean, self.deviation)]
        return {"masks": self.masks, "mean": rounded[0], "deviation": rounded[1]}


def make_reference(shapes: Sequence[Shape]) -> Reference:
    """The range of some shapes."""
    values = {name: np.array([getattr(one, name) for one in shapes]) for name in STATISTICS}
    return Reference(
        len(shapes),
        {name: float(column.mean()) for name, column in values.items()},
        {name: float(column.std()) for name, column in values.items()},
    )


def references(source: SampleSource, category: str = "", *, most: int = 500) -> dict[str, Reference]:
    """References of a set's categories, from each object's mask once.

    Args:
        source: whose samples have masks.
        category: of all of them, where they have no tag `category`.
        most: masks of a category that are looked at, the first ones.

    Raises:
        UserError: if the set names no category, or none has `FEWEST` masks.
    """
    found: dict[str, list[Shape]] = {}
    seen: set[tuple[str, str]] = set()
    for sample in source:
        name = plain_name(sample.tags.get("category", category))
        if not name or sample.target is None or len(found.setdefault(name, [])) >= most:
            continue
        for mask in target_masks(sample):
            key = (sample.image_id, str(encode_rle(mask)["counts"]))
            if mask.any() and key not in seen:
                seen.add(key)
                found[name].append(shape_of(mask))
    enough = {name: make_reference(shapes) for name, shapes in found.items() if len(shapes) >= FEWEST}
    if not enough:
        raise UserError(
            f"{source.name}:{source.split} is no reference for shapes: no category has {FEWEST} masks; "
            f"--reference-category names the category of a set whose samples have none."
        )
    return enough
