"""Pictures and a page's fragment of a result: for notebooks and for files."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from envs.rollout import Rollout
from eval.report.html import from_template
from eval.report.overlays import OBJECTS, data_url, draw_panel
from prompter.types import PromptSet
from recipes.api.shapes import boxes_of, scores_of

_GAP = 12  # pixels between pictures


def draw_rollout(rollout: Rollout, image: Image.Image, size: int) -> Image.Image:
    """Draw a rollout's objects and prompts on its image; see `recipes.api.result.Result.plot`."""
    prompts = rollout.reading if isinstance(rollout.reading, PromptSet) else None
    return draw_panel(image, objects=rollout.predicted_instance_masks, prompts=prompts, long_side=size)


def answer_html(rollout: Rollout, image: Image.Image, policy: str, summary: str, reasoning: str) -> str:
    """One answer as HTML for a notebook: its picture, what came of it, a row for each object, the reasoning.

    It loads nothing, and takes the notebook's own colours, dark or light.
    """
    rows = [
        {
            "colour": "rgb({}, {}, {})".format(*OBJECTS[number % len(OBJECTS)]),
            "score": f"{score:.2f}",
            "area": f"{int(rollout.predicted_instance_masks[number].sum()):,}",
            "box": ", ".join(f"{value:.0f}" for value in box),
        }
        for number, (box, score) in enumerate(zip(boxes_of(rollout), scores_of(rollout), strict=True))
    ]
    return str(
        from_template(
            "answer.html",
            picture=data_url(draw_rollout(rollout, image, 512)),
            query=rollout.query,
            summary=summary,
            by=" with ".join(name for name in (policy, rollout.executor) if name),
            rows=rows,
            reasoning=reasoning,
            completion=rollout.completion,
        )
    )


def side_by_side(pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Set pictures in a row, each under its label; their tops are level."""
    font = ImageFont.load_default(16)
    band = 26
    width = sum(picture.width for _, picture in pictures) + _GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, band + max(picture.height for _, picture in pictures)), (250, 249, 246))
    pen, left = ImageDraw.Draw(sheet), 0
    for label, picture in pictures:
        while len(label) > 1 and font.getlength(label) > picture.width:
            label = label[:-2] + "…"
        pen.text((left, 3), label, (28, 28, 30), font)
        sheet.paste(picture, (left, band))
        left += picture.width + _GAP
    return sheet
