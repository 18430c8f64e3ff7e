"""What a frozen segmenter reaches when it is told the truth: the ceiling of every policy that prompts it.

No language model takes part. Every target object (or, with --unit query, every question's target) is
prompted by an oracle in each action space, and the mask is compared with the true one. Points are
interior points: the one farthest from the background first, then points spread out inside. The command is
in `recipes.commands.ceiling`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from envs.segmenting import segment
from prompter.runs.files import atomic_write
from prompter.types import PromptSet

if TYPE_CHECKING:
    from envs.executors.base import Executor
    from envs.masks import Mask
    from envs.sample import RGB, Sample

IMAGES_AT_ONCE = 8
"""Images whose objects are segmented in one call."""


@dataclass(frozen=True)
class Oracle:
    """One way of telling a segmenter where an object is.

    Args:
        box: give the tight box.
        points: how many interior points.
        by_component: prompt every connected component on its own, instead of the object as a whole.
    """

    box: bool
    points: int
    by_component: bool = False


ORACLES: dict[str, Oracle] = {
    "box": Oracle(box=True, points=0),
    "box+1": Oracle(box=True, points=1),
    "box+2": Oracle(box=True, points=2),
    "box+3": Oracle(box=True, points=3),
    "1-point": Oracle(box=False, points=1),
    "2-points": Oracle(box=False, points=2),
    "3-points": Oracle(box=False, points=3),
    "box-per-component": Oracle(box=True, points=0, by_component=True),
}
"""Action spaces by the name used on the command line and in tables."""


@dataclass(frozen=True)
class Unit:
    """One thing to be segmented.

    Args:
        name: of the sample or object, for the pictures.
        sample: where it comes from.
        parts: the masks that the oracle prompts one by one; their union is the truth.
    """

    name: str
    sample: Sample
    parts: tuple[Mask, ...]


@dataclass
class _Scores:
    """IoU and image of each unit, for one segmenter and one oracle."""

    ious: list[float] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    failures: int = 0


@dataclass(order=True)
class _Worst:
    """A unit that went badly; ordered so that a heap's smallest is the least bad."""

    goodness: float
    number: int
    picture: Any = field(compare=False)
    caption: str = field(compare=False)


def units_of(samples: Iterable[Sample], unit: str) -> Iterator[Unit]:
    """What to segment in a dataset, image after image, each thing once.

    Args:
        samples: with masks; those without a target are left out.
        unit: "object" for every target object of every image, "query" for every question's target.
    """
    from envs.oracle import target_masks

    seen: set[tuple[str, ...]] = set()
    for sample in samples:
        if sample.target is None:
            continue
        if unit == "query":
            parts = tuple(target_masks(sample))
            if parts:
                yield Unit(sample.sample_id, sample, parts)
            continue
        rles = sample.instances or (sample.target,)
        for number, rle in enumerate(rles):
            # Several questions of one image ask for the same object.
            key = (sample.dataset, sample.split, sample.image_id, rle["counts"])
            if key not in seen:
                seen.add(key)
                from envs.masks import decode_rle

                mask = decode_rle(rle, sample.mask_hw)
                if mask.any():
                    yield Unit(f"{sample.sample_id}#{number}", sample, (mask,))


def oracle_prompt_set(parts: Sequence[Mask], oracle: Oracle) -> PromptSet:
    """The oracle's prompts for a unit: one instance per part, or per connected component of it."""
    import cv2
    import numpy as np

    from envs.oracle import oracle_prompts

    masks = list(parts)
    if oracle.by_component:
        masks = []
        for part in parts:
            count, labels = cv2.connectedComponents(part.astype(np.uint8), connectivity=8)
            masks.extend(labels == number for number in range(1, count))
    return oracle_prompts(masks, box=oracle.box, points=oracle.points)


def measure_ceilings(
    samples: Iterable[Sample],
    executors: Mapping[str, Executor],
    *,
    oracles: Sequence[str] = tuple(ORACLES),
    unit: str = "object",
    limit: int | None = None,
    worst: int = 0,
    pictures: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Segment every unit by every oracle and segmenter.

    Args:
        samples: see `units_of`.
        executors: segmenters by name.
        oracles: names of `ORACLES`.
        unit: "object" or "query".
        limit: stop after this many units.
        worst: how many of the worst units to draw per segmenter, by the first oracle of `oracles`.
        pictures: folder for the drawings.
        progress: show a bar on stderr.

    Returns:
        `units`, `images`, `unit` and `results`: executor -> oracle -> `mean_iou`, `interval` (95 %
        bootstrap, drawing whole images), `precision_50`, `n`, `failures`.
    """
    scores = {name: {oracle: _Scores() for oracle in oracles} for name in executors}
    bad: dict[str, list[_Worst]] = {name: [] for name in executors}
    image_numbers: dict[tuple[str, str, str], int] = {}
    count = 0
    with tqdm(total=limit, unit=unit, disable=not progress) as bar:
        for chunk in _chunks(units_of(samples, unit), limit):
            count += len(chunk)
            asked = [one.sample for one in chunk]
            images: dict[str, RGB] = {}
            for number, oracle in enumerate(oracles):
                prompts = [oracle_prompt_set(one.parts, ORACLES[oracle]) for one in chunk]
                for name, executor in executors.items():
                    found = segment(asked, prompts, executor, images=images)
                    keep = bad[name] if number == 0 else None
                    answers = list(zip(prompts, found, strict=True))
                    _score(chunk, answers, scores[name][oracle], image_numbers, keep, worst, oracle)
            bar.update(len(chunk))
    for name, items in bad.items():
        if pictures is not None and items:
            _draw_worst(sorted(items, reverse=True), pictures / f"worst-{name.replace('/', '-')}.png")
    return {
        "unit": unit,
        "units": count,
        "images": len(image_numbers),
        "results": {
            name: {oracle: _summary(one) for oracle, one in by_oracle.items()}
            for name, by_oracle in scores.items()
        },
    }


def _chunks(units: Iterator[Unit], limit: int | None) -> Iterator[list[Unit]]:
    """Units of a few images at a time, so that a dataset of any length is never held in memory."""
    chunk: list[Unit] = []
    images: set[str] = set()
    for taken, unit in enumerate(units):
        if limit is not None and taken >= limit:
            break
        if unit.sample.image_id not in images and len(images) == IMAGES_AT_ONCE:
            yield chunk
            chunk, images = [], set()
        images.add(unit.sample.image_id)
        chunk.append(unit)
    if chunk:
        yield chunk


def _score(
    units: Sequence[Unit],
    answers: Sequence[tuple[PromptSet, Any]],
    scores: _Scores,
    image_numbers: dict[tuple[str, str, str], int],
    bad: list[_Worst] | None,
    worst: int,
    oracle: str,
) -> None:
    """Add the units' IoUs to `scores` and, where `bad` is given, the worst of them to it."""
    from envs.executors.base import ExecutorFailure
    from envs.masks import iou, union
    from eval.report.overlays import draw_panel

    for unit, (prompts, answer) in zip(units, answers, strict=True):
        sample = unit.sample
        key = (sample.dataset, sample.split, sample.image_id)
        number = image_numbers.setdefault(key, len(image_numbers))
        if isinstance(answer, ExecutorFailure):
            scores.failures += 1
            continue
        truth = union(unit.parts, unit.parts[0].shape)
        value = iou(answer.mask, truth)
        scores.ious.append(value)
        scores.images.append(number)
        if bad is None or worst == 0 or (len(bad) >= worst and -value <= bad[0].goodness):
            continue
        picture = draw_panel(sample.load_image(), predicted=answer.mask, true=truth, prompts=prompts)
        entry = _Worst(-value, len(scores.ious), picture, f"{oracle} {value:.2f}  {unit.name}")
        (heapq.heappushpop if len(bad) >= worst else heapq.heappush)(bad, entry)


def _summary(scores: _Scores) -> dict[str, Any]:
    import numpy as np

    from eval.bootstrap import Ratio, intervals

    if not scores.ious:
        return {"mean_iou": None, "interval": None, "precision_50": None, "n": 0, "failures": scores.failures}
    values = np.array(scores.ious)
    interval = intervals({"iou": Ratio.of(values, 1.0)}, np.array(scores.images, dtype=np.int64))["iou"]
    return {
        "mean_iou": float(values.mean()),
        "interval": None if interval is None else interval.to_json(),
        "precision_50": float((values > 0.5).mean()),
        "n": len(values),
        "failures": scores.failures,
    }


def _draw_worst(items: Sequence[_Worst], path: Path) -> None:
    """Write the pictures in a grid, the worst first, each with its caption."""
    from PIL import Image, ImageDraw

    columns = min(4, len(items))
    rows = -(-len(items) // columns)
    width = max(item.picture.width for item in items)
    height = max(item.picture.height for item in items) + 22
    sheet = Image.new("RGB", (columns * (width + 8) + 8, rows * (height + 8) + 8), (250, 249, 246))
    draw = ImageDraw.Draw(sheet)
    for number, item in enumerate(items):
        x, y = 8 + number % columns * (width + 8), 8 + number // columns * (height + 8)
        sheet.paste(item.picture, (x, y))
        draw.text((x + 2, y + item.picture.height + 4), item.caption[: width // 6], fill=(28, 28, 30))
    with atomic_write(path, "wb") as handle:
        sheet.save(handle, format="PNG")
