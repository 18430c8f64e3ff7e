"""Questions and categories by a model that sees the image: any OpenAI-compatible endpoint.

The model is shown the image with the targets outlined, as in SegEarth-R2's prompts 6 to 8; the texts are
ours. Its replies are data: what cannot be used is counted by why, never repaired.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from envs.datasets.false_premises import plain_name
from envs.masks import decode_rle
from eval.answerers.endpoint import EndpointSampler, EndpointSettings
from prompter.chat import SamplingRequest, build_messages
from prompter.dialects.region import outside_thought
from prompter.errors import UserError
from prompter.runs.files import atomic_write
from prompter.sampling.base import SamplingSettings
from recipes.engine.masks import Candidate
from recipes.engine.questions import Length, Meant, Question, Reasoning, answer_of
from recipes.engine.words import plural

COLOURS: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("red", (255, 0, 0)),
    ("blue", (0, 64, 255)),
    ("orange", (255, 160, 0)),
)
"""Of the outlines, one for each category of a question."""

SYSTEM = "You write questions about overhead images for a data set. You answer with one JSON object only."

_EXPLICIT = "Name the {what} as it is, and say which one is meant by its looks, size or place."
_IMPLICIT = (
    "Do not name the {what}, nor any other word for it: say what it is for, or what somebody needs, so that "
    "a person who knows the world concludes which region is meant."
)
_SHORT = "at most 12 words"
_LONG = "15 to 40 words, with a real situation in which somebody would ask this"

QUESTION = """The outlined regions of this overhead image are: {targets}.
Write one question whose only right answer is exactly these regions, in {wordings} different wordings.
- {reasoning}
- Length of each: {length}.
- Somebody who sees the image without the outlines must find the regions: speak of no outline or mark.
- Nothing else in the image may fit the question.
Write also one sentence that answers it and names {names}.
Reply as {{"questions": [{slots}], "answer": "..."}}"""

CATEGORY = """One region of this overhead image is outlined in red. Which of these categories is it?
{categories}
If it is none of them, or no whole object or part of one, or badly outlined, it is "none".
Reply as {{"category": "..."}}"""

_FORBIDDEN = re.compile(r"\b(?:outlin\w*|contour\w*|highlight\w*|marked|annotat\w*)\b", re.IGNORECASE)
_LIMITS: dict[Length, tuple[int, int]] = {"short": (1, 20), "long": (10, 60)}
"""Fewest and most words of a question that is taken; wider than what is asked for."""


class Model:
    """An endpoint that is asked about images, and the replies it gave.

    Args:
        address: URL#MODEL.
        options: fields of `eval.answerers.endpoint.EndpointSettings`.
        folder: where each reply is kept, so that nothing is asked twice.
        seed: of its sampling.

    Raises:
        UserError: if the address names no model, or an option is unknown or bad.
    """

    def __init__(self, address: str, options: Mapping[str, Any], folder: Path, seed: int) -> None:
        from pydantic import ValidationError

        from prompter.runs.config import describe_validation_error

        url, mark, self.name = address.partition("#")
        if not mark or not self.name:
            raise UserError(f"--ask is URL#MODEL; {address!r} names no model.")
        try:
            settings = EndpointSettings.model_validate(dict(options))
        except ValidationError as error:
            raise UserError(f"--ask-option: {describe_validation_error(error)}") from None
        self._sampler = EndpointSampler(url, self.name, settings)
        self._folder, self._seed = folder, seed

    def replies(self, asked: Sequence[tuple[str, Image.Image]]) -> list[str]:
        """The reply to each (text, image), from the disk where it was asked before."""
        paths = [self._folder / f"{self._key(text, image)}.json" for text, image in asked]
        missing = [number for number, path in enumerate(paths) if not path.exists()]
        requests = [
            SamplingRequest(build_messages(asked[number][0], SYSTEM), asked[number][1], seed=self._seed)
            for number in missing
        ]
        # As the paper: temperature 1, so that questions differ.
        settings = SamplingSettings(max_new_tokens=1024, temperature=1.0, top_p=1.0, top_k=0, n=1)
        for number, found in zip(missing, self._sampler.sample(requests, settings), strict=True):
            with atomic_write(paths[number]) as handle:
                json.dump({"reply": found[0].text}, handle)
        return [json.loads(path.read_text(encoding="utf-8"))["reply"] for path in paths]

    def close(self) -> None:
        """Close the connections."""
        self._sampler.close()

    def _key(self, text: str, image: Image.Image) -> str:
        digest = hashlib.blake2b(
            f"{self.name}\0{self._seed}\0{text}\0{image.size}\0".encode(), digest_size=16
        )
        digest.update(image.tobytes())
        return digest.hexdigest()


def outlined(image: Image.Image, masks: Sequence[tuple[Candidate, tuple[int, int, int]]]) -> Image.Image:
    """The image with the outline of each mask in its colour, two pixels wide."""
    picture = np.array(image.convert("RGB"))
    for candidate, colour in masks:
        mask = decode_rle(candidate.mask, picture.shape[:2]).astype(np.uint8)
        lines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, lines, -1, colour, 2)
    return Image.fromarray(picture)


def name_masks(
    model: Model, image: Image.Image, candidates: Sequence[Candidate], categories: Sequence[str]
) -> list[str]:
    """The category of each mask, of those given; "" where the model says none, or something else."""
    text = CATEGORY.format(categories=", ".join(categories))
    asked = [(text, outlined(image, [(one, COLOURS[0][1])])) for one in candidates]
    known = {plain_name(one): plain_name(one) for one in categories}
    found = []
    for reply in model.replies(asked):
        said = _json(reply).get("category")
        found.append(known.get(plain_name(said), "") if isinstance(said, str) else "")
    return found


def ask_model(
    model: Model,
    image: Image.Image,
    kept: Sequence[Candidate],
    wanted: Sequence[tuple[Meant, Reasoning, Length]],
    wordings: int,
) -> tuple[list[Question], dict[str, int]]:
    """Have a model ask about masks.

    Args:
        model: who asks.
        image: PIL RGB, as the masks.
        kept: the image's masks.
        wanted: what each question is to be about, and its axes.
        wordings: how many of each, 1 to 3.

    Returns:
        The questions that can be used, and why -> how many cannot.
    """
    asked = []
    for meant, reasoning, length in wanted:
        own = list(dict.fromkeys(meant.categories))
        colour = {category: COLOURS[number % len(COLOURS)] for number, category in enumerate(own)}
        masks = [
            (kept[mask], colour[category][1])
            for mask, category in zip(meant.masks, meant.categories, strict=True)
        ]
        asked.append((_text(meant, reasoning, length, wordings, colour), outlined(image, masks)))
    questions, refused = [], dict[str, int]()
    for (meant, reasoning, length), reply in zip(wanted, model.replies(asked), strict=True):
        texts, answer, why = _read(reply, meant, reasoning, length, wordings)
        if why:
            refused[why] = refused.get(why, 0) + 1
        else:
            questions.append(Question(meant, reasoning, length, texts, answer, by=model.name))
    return questions, refused


def _text(
    meant: Meant,
    reasoning: Reasoning,
    length: Length,
    wordings: int,
    colour: Mapping[str, tuple[str, tuple[int, int, int]]],
) -> str:
    own = list(colour)
    what = own[0] if len(own) == 1 else "categories"
    targets = [
        f"{meant.categories.count(one)} {plural(one) if meant.categories.count(one) > 1 else one} in "
        f"{colour[one][0]}"
        for one in own
    ]
    return QUESTION.format(
        targets=", ".join(targets),
        wordings=wordings,
        reasoning=(_EXPLICIT if reasoning == "explicit" else _IMPLICIT).format(what=what),
        length=_SHORT if length == "short" else _LONG,
        names=" and ".join(own),
        slots=", ".join(['"..."'] * wordings),
    )


def _read(
    reply: str, meant: Meant, reasoning: Reasoning, length: Length, wordings: int
) -> tuple[tuple[str, ...], str, str]:
    """The wordings and the answer in a reply; or why they cannot be used."""
    data = _json(reply)
    texts, answer = data.get("questions"), data.get("answer")
    if not isinstance(texts, list) or not all(isinstance(one, str) and one.strip() for one in texts):
        return (), "", "no questions in JSON"
    found = tuple(dict.fromkeys(" ".join(one.split()) for one in texts))[:wordings]
    if len(found) < wordings:
        return (), "", "too few wordings"
    if any(_FORBIDDEN.search(one) for one in found):
        return (), "", "speaks of the outline"
    if reasoning == "implicit" and any(
        plain_name(category) in plain_name(one) for one in found for category in meant.categories
    ):
        return (), "", "names the category"
    least, most = _LIMITS[length]
    if not all(least <= len(one.split()) <= most for one in found):
        return (), "", "wrong length"
    said = " ".join(answer.split()) if isinstance(answer, str) else ""
    return found, said.replace("[SEG]", "").strip() or answer_of(meant), ""


def _json(reply: str) -> dict[str, Any]:
    """The first JSON object in a reply, thoughts and fences around it left aside; {} if there is none."""
    decoder = json.JSONDecoder()
    text = outside_thought(reply)
    for brace in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return {}
