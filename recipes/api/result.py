"""What comes back from a question about an image: masks and how they came about, in every form."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.masks import Mask
from envs.rollout import Rollout
from prompter.dialects.region import split_thought
from prompter.errors import UserError
from prompter.types import ParseFailure, PromptSet
from recipes.api import shapes
from recipes.api.edits import edited_prompts

if TYPE_CHECKING:
    import geopandas
    import supervision

PICTURES = (".png", ".jpg", ".jpeg")
"""Endings of what `Result.save` writes as a picture."""

Redo = Callable[["Result", PromptSet], "Result"]


@dataclass(frozen=True, repr=False, eq=False)
class Result:
    """The answer to one question about one image. Everything is in the image frame: pixels of the image, x to
    the right, y down, boxes XYXY and half-open.

    An answer that could not be read, and an image in which the policy sees nothing of the kind, are results
    too: there are no masks then, and `failure` or `refused` says which it is.

    Args:
        rollout: question, completion, prompts and masks, as training and evaluation keep them.
        load_image: returns the image, PIL RGB.
        policy: who answered.
        thought_opened: whether the completion began inside a thought.
        edited: whether the prompts are a user's (`refine`), not the policy's.
        redo: decodes other prompts on the image; None where no segmenter is at hand.
    """

    rollout: Rollout
    load_image: Callable[[], Image.Image]
    policy: str = ""
    thought_opened: bool = False
    edited: bool = False
    redo: Redo | None = None

    @property
    def image(self) -> Image.Image:
        """The image, PIL RGB, upright."""
        return self.load_image()

    @property
    def query(self) -> str:
        """The question."""
        return self.rollout.query

    @property
    def executor(self) -> str:
        """Name of the segmenter."""
        return self.rollout.executor

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """One mask per object, bool [n, height, width], in the order of `prompts`."""
        return shapes.stacked(self.rollout)

    @cached_property
    def union(self) -> Mask:
        """All objects as one mask, bool [height, width]; all False if there are none."""
        found = self.rollout.prediction_mask
        return np.zeros(self.rollout.mask_hw, np.bool_) if found is None else found

    @cached_property
    def boxes(self) -> NDArray[np.float64]:
        """Tight box of each mask, float64 [n, 4], XYXY in pixels, half-open; zeros where a mask is empty.

        The boxes that the policy drew are in `prompts`.
        """
        return shapes.boxes_of(self.rollout)

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """The segmenter's own estimate of each mask's IoU, float32 [n], about 0 to 1; NaN where it gave none.

        It says how sure the segmenter is of an outline, not whether the policy pointed at the right thing.
        """
        return shapes.scores_of(self.rollout)

    @property
    def prompts(self) -> PromptSet | None:
        """Boxes and points that the segmenter was given, one `Instance` per object; None where the answer
        could not be read (`failure`)."""
        return self.rollout.reading if isinstance(self.rollout.reading, PromptSet) else None

    @property
    def completion(self) -> str:
        """All that the policy said."""
        return self.rollout.completion

    @property
    def reasoning(self) -> str:
        """What the policy thought before it answered; "" if it did not."""
        return split_thought(self.completion, opened=self.thought_opened)[0].strip()

    @property
    def refused(self) -> bool:
        """Whether the policy says that the image shows nothing of the kind."""
        return self.prompts is not None and self.prompts.is_empty

    @property
    def failure(self) -> ParseFailure | None:
        """Why the policy's answer could not be read (`kind`, `message`); None if it could."""
        return self.rollout.reading if isinstance(self.rollout.reading, ParseFailure) else None

    @property
    def confidence(self) -> dict[str, float | None]:
        """How far the answer can be trusted, where the question was looked at several times; else empty.

        `agreement`, `share`, `predicted_iou`, `stability` (`eval.looks.confidence`), each in [0, 1] or None,
        and with a calibration the expected `iou` and the chance `hit` that it reaches 0.5. Nobody knows it of
        prompts that a user changed (`edited`).
        """
        return dict(self.rollout.confidence)

    @property
    def error(self) -> str | None:
        """One sentence if the segmenter failed; None if it did not."""
        return self.rollout.executor_error

    def refine(
        self,
        *,
        boxes: Sequence[Any] | NDArray[Any] | None = None,
        points: Sequence[Any] | NDArray[Any] | None = None,
        labels: Sequence[int] | NDArray[Any] | None = None,
        object: int | None = None,
        prompts: PromptSet | None = None,
    ) -> Result:
        """Change the prompts and decode again: the policy is not asked, and the image not encoded again.

        Args:
            boxes: XYXY in pixels, one or [k, 4]. Each is a new object beside those there are; with `object`
                it takes the place of that object's box.
            points: (x, y) in pixels, one or [k, 2], that belong to one object: `object`, or the only one
                there is; where there is none, positive points make one.
            labels: 1 (on the object) or 0 (off it) for each point; all 1 if not given.
            object: number of the object, from 0, as in `masks`.
            prompts: all prompts, in the place of those there are; nothing else may be given then.

        Returns:
            A new result, `edited`; this one stays as it is. Masks are decoded from the prompts alone, so the
            same prompts always give the same masks. An image that has left the segmenter's cache since is
            encoded once more.

        Raises:
            UserError: if it is not said which object is meant, a number is not that of an object, or this
                result has no open segmenter.
        """
        if self.redo is None:
            raise UserError("This result was read from a file: there is no segmenter to refine it with.")
        if prompts is not None:
            if any(given is not None for given in (boxes, points, labels, object)):
                raise UserError("refine takes `prompts`, or boxes and points, not both.")
            return self.redo(self, prompts)
        before = self.prompts.instances if self.prompts is not None else ()
        return self.redo(self, edited_prompts(before, boxes, points, labels, object))

    def plot(self, size: int = 768) -> Image.Image:
        """Draw masks and prompts on the image: PIL RGB, `size` pixels on its longer side.

        Each object has a colour of its own. Boxes of prompts are yellow, positive points blue with a plus,
        negative points red with a minus.
        """
        from recipes.api.drawing import draw_rollout

        return draw_rollout(self.rollout, self.image, size)

    def save(self, path: Path | str) -> Path:
        """Write this result; the ending of `path` says what. What is written is whole or absent.

        `.png` and `.jpg`: what `plot` draws. `.geojson`: `to_geojson`. `.json`: `to_json`. Anything else is
        a folder: mask.png (0 and 255), overlay.jpg, objects.geojson, coco.json and result.json.

        Returns:
            The path.

        Raises:
            UserError: if there is a file or folder of a folder's name.
        """
        from recipes.api.files import new_folder, write_json, write_mask, write_picture

        target = Path(path)
        if target.suffix.lower() in PICTURES:
            write_picture(target, self.plot())
        elif target.suffix.lower() in (".geojson", ".json"):
            write_json(target, self.to_geojson() if target.suffix.lower() == ".geojson" else self.to_json())
        else:
            with new_folder(target) as folder:
                write_mask(folder / "mask.png", self.union)
                write_picture(folder / "overlay.jpg", self.plot())
                write_json(folder / "objects.geojson", self.to_geojson())
                write_json(folder / "coco.json", self.to_coco())
                write_json(folder / "result.json", self.to_json())
        return target

    def to_json(self) -> dict[str, Any]:
        """Everything but the image, JSON-ready: how it was asked and answered, one entry per object with its
        `box`, `score`, `area_px` and `segmentation` (COCO run-lengths), and `mask`, the union."""
        failure = self.failure
        return {
            "image": self.rollout.image_id,
            "image_wh": list(self.rollout.image_wh),
            "query": self.query,
            "policy": self.policy,
            "executor": self.executor,
            "edited": self.edited,
            "completion": self.completion,
            "reasoning": self.reasoning,
            "refused": self.refused,
            "failure": None if failure is None else failure.to_json(),
            "error": self.error,
            **({"confidence": self.confidence} if self.confidence else {}),
            "prompts": None if self.prompts is None else self.prompts.to_json(),
            "objects": [
                {"box": box, "score": score, "area_px": int(mask.sum()), "segmentation": rle}
                for box, score, mask, rle in zip(
                    self.boxes.tolist(),
                    [None if np.isnan(score) else float(score) for score in self.scores],
                    self.rollout.predicted_instance_masks,
                    self.rollout.predicted_instances,
                    strict=True,
                )
            ],
            "mask": self.rollout.prediction,
        }

    def to_coco(self) -> dict[str, Any]:
        """A COCO dataset of this one image; see `recipes.api.shapes.coco_dataset`."""
        return shapes.coco_dataset([self.rollout])

    def to_geojson(self) -> dict[str, Any]:
        """A FeatureCollection, one feature per object, **in pixels of the image, y down**; see
        `recipes.api.shapes.feature_collection`."""
        return shapes.feature_collection(self.rollout, {"policy": self.policy, "edited": self.edited})

    def to_geodataframe(self) -> geopandas.GeoDataFrame:
        """`to_geojson` as a GeoDataFrame without a CRS; needs geopandas.

        Raises:
            UserError: if geopandas is not installed.
        """
        return shapes.geodataframe(self.to_geojson())

    def to_detections(self) -> supervision.Detections:
        """The objects as `supervision.Detections`; needs supervision. See `recipes.api.shapes.detections`.

        Raises:
            UserError: if supervision is not installed.
        """
        return shapes.detections(self.rollout)

    def summary(self) -> str:
        """What came of it, in a few words: how many objects, or why there are none."""
        if self.failure is not None:
            return f"the answer could not be read ({self.failure.kind}: {self.failure.message})"
        if self.error is not None:
            return f"the segmenter failed ({self.error})"
        if self.refused:
            return "nothing of the kind in the image, says the policy"
        return f"{len(self.masks)} object{'' if len(self.masks) == 1 else 's'}"

    def __repr__(self) -> str:
        return f"<Result {json.dumps(self.query, ensure_ascii=False)}: {self.summary()}>"

    def _repr_html_(self) -> str:
        from recipes.api.drawing import answer_html

        return answer_html(self.rollout, self.image, self.policy, self.summary(), self.reasoning)
