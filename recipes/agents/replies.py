"""What an agent gets back: models that are the tools' published output schemas as well."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from prompter.types import Instance
from recipes.api.result import Result


class Prompt(BaseModel):
    """What was pointed at for one object, in pixels of the image."""

    box: list[float] | None = Field(description="x1, y1, x2, y2")
    positive_points: list[list[float]] = Field(description="(x, y) on the object")
    negative_points: list[list[float]] = Field(description="(x, y) off the object")

    @classmethod
    def of(cls, instance: Instance) -> Prompt:
        """An `Instance` as it is told."""
        return cls.model_validate(instance.to_json())


class Object(BaseModel):
    """One object that was found; its number is its place in the list, from 0."""

    box: list[float] = Field(description="tight box of the mask: x1, y1, x2, y2 in pixels, half-open")
    score: float | None = Field(
        description="how sure the segmenter is of the outline, not whether it is the right object"
    )
    area_px: int = Field(description="pixels of the mask")


class Answer(BaseModel):
    """What came of a question or of a change of its prompts."""

    result: str = Field(description="name of this result, for refine and for resources")
    summary: str = Field(description="what came of it, in a few words")
    image: str
    image_wh: list[int] = Field(description="width and height in pixels")
    question: str
    refused: bool = Field(description="the policy says that the image shows nothing of the kind")
    failure: str | None = Field(description="why the policy's answer could not be read; null if it could")
    error: str | None = Field(description="why the segmenter failed; null if it did not")
    edited: bool = Field(description="the prompts are the caller's, not the policy's")
    reasoning: str = Field(description="what the policy thought before it answered")
    objects: list[Object]
    prompts: list[Prompt] = Field(description="one for each object, as refine changes them")
    resources: list[str] = Field(description="URIs of this result's files; read them where they are needed")
    saved: str | None = Field(description="folder with these files on disk; null if none is written")

    @classmethod
    def of(cls, result: Result, name: str, resources: list[str], saved: str | None) -> Answer:
        """A result as it is told."""
        told = result.to_json()
        failure = result.failure
        return cls(
            result=name,
            summary=result.summary(),
            image=told["image"],
            image_wh=told["image_wh"],
            question=told["query"],
            refused=told["refused"],
            failure=None if failure is None else f"{failure.kind}: {failure.message}",
            error=told["error"],
            edited=told["edited"],
            reasoning=told["reasoning"],
            objects=[Object.model_validate(one) for one in told["objects"]],
            prompts=[Prompt.of(one) for one in (result.prompts.instances if result.prompts else ())],
            resources=resources,
            saved=saved,
        )


class Kept(BaseModel):
    """A result that can still be refined."""

    result: str
    image: str
    question: str
    summary: str


class Status(BaseModel):
    """What is served."""

    version: str
    policy: str
    executor: str = Field(description="the segmenter")
    loaded: bool = Field(description="false until the first question, which loads the models and is slow")
    folders: list[str] = Field(description="what may be read")
    saves_to: str | None = Field(description="folder that results are written to; null if none")
    keeps: int = Field(description="how many results are kept; older ones are forgotten")
    results: list[Kept] = Field(description="results that are kept, the oldest first")
    counters: dict[str, float] = Field(description="what the segmenter did so far, such as encodes")


class Entry(BaseModel):
    """A folder, or an image file."""

    path: str = Field(description="absolute; segment takes it as it is")
    kind: Literal["folder", "image"]
    bytes: int | None = Field(description="size of a file; null for a folder")


class Listing(BaseModel):
    """Part of what a folder holds."""

    entries: list[Entry]
    total: int = Field(description="entries of the folder, all parts together")
    next_offset: int | None = Field(description="offset of the next part; null if this is the last")
