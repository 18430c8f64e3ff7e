"""What the probe asks: pictures of one square each, at a known place, and a question about it.

The pictures are small, so that a policy that keeps an image's ratio is shown them enlarged: pixels of the
picture and pixels of what the model sees then differ, as both differ from thousandths. The squares lie away
from the origin, where all frames agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from PIL import Image

from envs.sample import Sample
from prompter.types import Box

GROUND = (90, 120, 70)

SQUARES: tuple[tuple[tuple[int, int], tuple[float, float], str, tuple[int, int, int]], ...] = (
    ((200, 150), (0.76, 0.72), "red", (220, 30, 30)),
    ((150, 210), (0.28, 0.74), "white", (250, 250, 250)),
    ((180, 180), (0.72, 0.30), "blue", (30, 60, 220)),
    ((240, 130), (0.80, 0.50), "red", (220, 30, 30)),
    ((130, 220), (0.56, 0.80), "blue", (30, 60, 220)),
    ((170, 140), (0.66, 0.62), "white", (250, 250, 250)),
)
"""Size of each picture (width, height) in pixels; its square's centre in shares of the sides, and colour."""

SIDE = 0.26
"""Side of a square, as a share of the picture's shorter side."""


@dataclass(frozen=True)
class Question:
    """One question of the probe.

    Args:
        sample: picture and question, for an answerer.
        box: where the square is, image frame.
    """

    sample: Sample
    box: Box


def questions(wording: str) -> list[Question]:
    """One question about each picture of `SQUARES`.

    Args:
        wording: the question, with `{colour}` for the square's colour.
    """
    asked = []
    for number, (wh, centre, colour, rgb) in enumerate(SQUARES):
        box = square_box(wh, centre)
        sample = Sample(
            sample_id=f"square-{number}",
            dataset="probe",
            split="squares",
            image_id=str(number),
            image_wh=wh,
            load_image=partial(draw_square, wh, box, rgb),
            query=wording.format(colour=colour),
            target=None,
            boxes=(box,),
        )
        asked.append(Question(sample, box))
    return asked


def square_box(wh: tuple[int, int], centre: tuple[float, float]) -> Box:
    """XYXY in whole pixels of the square around a centre (shares of the sides) in a picture of this size."""
    side = round(SIDE * min(wh))
    left, top = (round(share * length - side / 2) for share, length in zip(centre, wh, strict=True))
    return (float(left), float(top), float(left + side), float(top + side))


def draw_square(wh: tuple[int, int], box: Box, colour: tuple[int, int, int]) -> Image.Image:
    """A PIL RGB picture of (width, height) pixels with one filled box on plain ground."""
    image = Image.new("RGB", wh, GROUND)
    left, top, right, bottom = map(int, box)
    image.paste(colour, (left, top, right, bottom))
    return image
