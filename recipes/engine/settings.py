"""What an engine's set is made with; the same settings and images give the same set."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from prompter.runs.config import StrictModel


class FilterRules(StrictModel):
    """Which proposed masks stay; each rule is named in the counts of what it removed."""

    predicted_iou: float = Field(default=0.8, ge=0, le=1)
    """Least IoU that the segmenter itself predicts for its mask."""

    stability: float = Field(default=0.9, ge=0, le=1)
    """Least IoU between the mask at the logit thresholds +1 and -1."""

    smallest_share: float = Field(default=0.0002, ge=0, le=1)
    """Smallest share of the image's pixels."""

    largest_share: float = Field(default=0.6, gt=0, le=1)
    """Largest share of the image's pixels."""

    speck_share: float = Field(default=0.02, ge=0, lt=1)
    """Pieces of a mask smaller than this share of it are taken off it and not counted as components."""

    box_iou: float = Field(default=0.5, ge=0, le=1)
    """Least IoU of the box around a mask with the detection's box that it was made from."""

    deviations: float = Field(default=2.5, gt=0)
    """How many standard deviations from the reference set's mean a shape statistic may lie."""

    duplicate_iou: float = Field(default=0.8, gt=0, le=1)
    """Of two masks of an image with a higher IoU one goes: a detection's stays, else the better scored."""


class EngineSettings(StrictModel):
    """Everything that decides what an engine's set holds, but for its images and replies of a model."""

    executor: dict[str, Any]
    """What of the frozen segmenter changes its masks."""

    grid: int = Field(default=4, ge=0, le=64)
    """Points a side of the grid over the whole image; 0 has none."""

    inside: bool = False
    """Also a grid inside each detection's box, by the rule of its aspect ratio: parts."""

    boxes: str | None = None
    """SHA-256 of the file of detections."""

    rules: FilterRules = FilterRules()

    reference: str | None = None
    """NAME:SPLIT of the set whose masks are the shapes' reference."""

    reference_category: str = ""
    """The category of all masks of the reference, where its samples name none."""

    unique: bool = False
    """Ask only about categories of which an image shows one object (LISAT's filter of detections)."""

    ask: str | None = None
    """URL#MODEL of the model that names and asks; null asks offline, from categories and geometry."""

    ask_options: dict[str, Any] = Field(default_factory=dict)
    """How it is reached (`eval.answerers.endpoint.EndpointSettings`)."""

    categories: list[str] = Field(default_factory=list)
    """What a model may name masks without a category; empty: only detections have one."""

    questions: int = Field(default=8, ge=1)
    """Most targets asked about in an image, each along one of explicit or implicit x short or long."""

    rephrasings: int = Field(default=3, ge=1, le=3)
    """In how many wordings each is asked."""

    test_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the images that are held out as LaSeRS' nine test axes."""

    seed: int = Field(default=0, ge=0)
    """Of what is asked, and of a model's sampling."""
