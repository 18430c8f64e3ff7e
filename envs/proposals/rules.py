"""Which masks are proposed: typed settings. Imports no torch, so that a config is checked at once."""

from __future__ import annotations

from pydantic import Field

from prompter.runs.config import StrictModel


class ProposalRules(StrictModel):
    """Which masks stay, of those that a segmenter gave for prompts nobody chose."""

    predicted_iou: float = Field(default=0.88, ge=0, le=1)
    """A mask whose IoU the segmenter itself predicts to be lower is dropped."""

    stability: float = Field(default=0.95, ge=0, le=1)
    """A mask that changes more between the logit thresholds +1 and -1 (IoU of the two) is dropped."""

    smallest_share: float = Field(default=0.0, ge=0, le=1)
    """A mask with a smaller share of the image's pixels is dropped; an empty one always is."""

    largest_share: float = Field(default=0.95, gt=0, le=1)
    """A mask with a larger share is dropped: it is the ground."""

    duplicate_iou: float = Field(default=0.7, gt=0, le=1)
    """Of two masks with a higher IoU the one with the lower predicted IoU is dropped."""

    top: int | None = Field(default=None, ge=1)
    """So many with the highest predicted IoU stay; null keeps all."""


class GridRules(ProposalRules):
    """Proposals from a grid of points over the whole image."""

    points_per_side: int = Field(default=16, ge=1, le=128)
    """The grid has so many columns and rows; each point is one prompt."""
