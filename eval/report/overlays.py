"""Pictures of rollouts: image, prompts, predicted and true mask. Drawn with Pillow, image frame in."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from envs.masks import Mask
from prompter.types import Instance, PromptSet

RGBColour = tuple[int, int, int]

PREDICTED: RGBColour = (255, 122, 26)
TRUE: RGBColour = (34, 211, 120)
POSITIVE: RGBColour = (30, 200, 255)
NEGATIVE: RGBColour = (255, 64, 96)
BOX: RGBColour = (255, 221, 51)
_DARK: RGBColour = (16, 20, 28)

OBJECTS: tuple[RGBColour, ...] = (PREDICTED, (255, 64, 160), (0, 225, 255), (150, 110, 255), (90, 255, 120))
"""Colours of the first, second, … predicted object where they are told apart; they repeat after the last."""

_SHARPNESS = 2
"""Lines are drawn at this multiple of the final size and averaged down, so that they are smooth."""


def draw_panel(
    image: Image.Image,
    *,
    predicted: Mask | None = None,
    objects: Sequence[Mask] = (),
    true: Mask | None = None,
    fill_true: bool = False,
    prompts: PromptSet | None = None,
    long_side: int = 360,
) -> Image.Image:
    """Draw one picture of a rollout.

    The predicted mask is filled in orange (`objects` each in a colour of its own, the first in orange), the
    true one outlined in green (or filled, where it is the subject); boxes are yellow, positive points blue
    with a plus, negative points red with a minus.

    Args:
        image: PIL RGB, the original image.
        predicted, true: bool [height, width] at the image's size, or None to leave out.
        objects: one mask like `predicted` for each predicted object, where they are to be told apart.
        fill_true: fill the true mask as well.
        prompts: image-frame prompts to draw.
        long_side: longer side of the result in pixels; small images are enlarged.

    Returns:
        PIL RGB image with the aspect ratio of `image`.
    """
    scale = long_side * _SHARPNESS / max(image.size)
    wh = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = np.asarray(image.convert("RGB").resize(wh, Image.Resampling.BICUBIC)).astype(np.float32)
    line = max(2, round(_SHARPNESS * long_side / 190))
    filled = [] if predicted is None else [(predicted, PREDICTED)]
    filled += [(mask, OBJECTS[number % len(OBJECTS)]) for number, mask in enumerate(objects)]
    for mask, colour in filled:
        canvas = _fill(canvas, _resized(mask, wh), colour, 0.42)
        canvas = _outline(canvas, _resized(mask, wh), colour, line)
    if true is not None:
        if fill_true:
            canvas = _fill(canvas, _resized(true, wh), TRUE, 0.38)
        canvas = _outline(canvas, _resized(true, wh), TRUE, line)
    drawn = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
    if prompts is not None:
        _draw_prompts(ImageDraw.Draw(drawn), prompts.instances, scale, line)
    return drawn.resize((wh[0] // _SHARPNESS or 1, wh[1] // _SHARPNESS or 1), Image.Resampling.LANCZOS)


def _resized(mask: Mask, wh: tuple[int, int]) -> Mask:
    """Nearest-neighbour resize of a mask to (width, height)."""
    return cv2.resize(mask.astype(np.uint8), wh, interpolation=cv2.INTER_NEAREST).astype(np.bool_)


def _fill(canvas: np.ndarray, mask: Mask, colour: RGBColour, opacity: float) -> np.ndarray:
    """Blend a colour over the mask's pixels of canvas (float32 [height, width, 3])."""
    blended = canvas * (1 - opacity) + np.array(colour, np.float32) * opacity
    return np.where(mask[..., None], blended, canvas)


def _outline(canvas: np.ndarray, mask: Mask, colour: RGBColour, width: int) -> np.ndarray:
    """Draw a mask's border, dark edged so that it shows on any ground."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = np.ascontiguousarray(canvas)
    for thickness, tone in ((width + 2, _DARK), (width, colour)):
        cv2.drawContours(drawn, contours, -1, tone, thickness, cv2.LINE_AA)
    return drawn


def _draw_prompts(draw: ImageDraw.ImageDraw, instances: Iterable[Instance], scale: float, line: int) -> None:
    radius = 2.9 * line
    for instance in instances:
        if instance.box is not None:
            x1, y1, x2, y2 = (value * scale for value in instance.box)
            draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_DARK, width=line + 2)
            draw.rectangle((x1, y1, x2, y2), outline=BOX, width=line)
        for points, colour in ((instance.positive_points, POSITIVE), (instance.negative_points, NEGATIVE)):
            for x, y in points:
                _draw_point(draw, x * scale, y * scale, radius, colour, cross=colour is POSITIVE)


def _draw_point(
    draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: RGBColour, *, cross: bool
) -> None:
    """A disc with a white rim and a plus (or a minus) in it."""
    rim = radius * 1.3
    draw.ellipse((x - rim, y - rim, x + rim, y + rim), fill=(255, 255, 255), outline=_DARK)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    arm, half = radius * 0.55, max(1.0, radius * 0.16)
    draw.rectangle((x - arm, y - half, x + arm, y + half), fill=_DARK)
    if cross:
        draw.rectangle((x - half, y - arm, x + half, y + arm), fill=_DARK)


def data_url(image: Image.Image, quality: int = 82) -> str:
    """A picture as a `data:` URL (JPEG), for pages that fetch nothing."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
