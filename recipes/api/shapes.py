"""Results in the forms that other programs read: COCO and GeoJSON dicts, GeoDataFrame, Detections.

All of it is in the image frame: pixels, x to the right, y down, (0, 0) the top-left corner of the top-left
pixel. None of it knows where on Earth an image lies.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.masks import Mask, mask_to_box
from envs.polygons import Ring, mask_to_regions, regions_to_mask
from envs.rollout import Rollout
from prompter.errors import UserError
from prompter.types import Instance, PromptSet


def boxes_of(rollout: Rollout) -> NDArray[np.float64]:
    """Tight XYXY half-open box of each object's mask, float64 [n, 4], pixels; zeros where a mask is empty."""
    found = [mask_to_box(mask) or (0.0,) * 4 for mask in rollout.predicted_instance_masks]
    return np.array(found, np.float64).reshape(-1, 4)


def scores_of(rollout: Rollout) -> NDArray[np.float32]:
    """The segmenter's own estimate of each object's IoU, float32 [n]; NaN where it gave none."""
    scores = np.full(len(rollout.predicted_instances), np.nan, np.float32)
    known = min(len(scores), len(rollout.predicted_ious))
    scores[:known] = rollout.predicted_ious[:known]
    return scores


def coco_dataset(rollouts: Iterable[Rollout]) -> dict[str, Any]:
    """A COCO dataset (`images`, `annotations`, `categories`), JSON-ready.

    An image's `file_name` is its `image_id`; a category is a question; an annotation is one object, its
    `segmentation` a compressed run-length encoding (pycocotools decodes it exactly), its `bbox`
    [x, y, width, height], its `score` the segmenter's own estimate, or null. Where a question was looked at
    several times, each of its objects has the answer's confidence, as `confidence_agreement` and so on.
    """
    images: dict[str, dict[str, Any]] = {}
    categories: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for rollout in rollouts:
        width, height = rollout.image_wh
        image = images.setdefault(
            rollout.image_id,
            {"id": len(images) + 1, "file_name": rollout.image_id, "width": width, "height": height},
        )
        category = categories.setdefault(
            rollout.query, {"id": len(categories) + 1, "name": rollout.query, "supercategory": "query"}
        )
        boxes, scores = boxes_of(rollout), scores_of(rollout)
        for number, rle in enumerate(rollout.predicted_instances):
            left, top, right, bottom = boxes[number].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category["id"],
                    "segmentation": rle,
                    "area": int(rollout.predicted_instance_masks[number].sum()),
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                    "score": _number(scores[number]),
                    **_confidence(rollout),
                }
            )
    return {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": list(categories.values()),
    }


def feature_collection(rollout: Rollout, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A GeoJSON FeatureCollection, JSON-ready: one feature for each object, in the order of the masks.

    The geometry is a Polygon, a MultiPolygon where the mask has several parts, or null where it is empty;
    holes are rings of their own (see `envs.polygons.mask_to_regions`; `geometry_to_mask` gives the mask
    back). The coordinates are **pixels of the image, y down**, though a reader of RFC 7946 expects degrees:
    the member `prompter` says so, and `image_wh`, the (width, height). Where a question was looked at several
    times, each feature has the answer's confidence, as `confidence_agreement` and so on.

    Args:
        more: further properties of every feature.
    """
    boxes, scores = boxes_of(rollout), scores_of(rollout)
    prompts = rollout.reading.instances if isinstance(rollout.reading, PromptSet) else ()
    features = []
    for number, mask in enumerate(rollout.predicted_instance_masks):
        prompt = prompts[number] if len(prompts) == len(boxes) else None
        properties = {
            "label": rollout.query,
            "score": _number(scores[number]),
            "area_px": int(mask.sum()),
            "det_id": number + 1,
            "image": rollout.image_id,
            "query": rollout.query,
            "prompt_type": None if prompt is None else _prompt_type(prompt),
            "prompt": None if prompt is None else json.dumps(prompt.to_json()),
            "executor": rollout.executor,
            **_confidence(rollout),
            **(more or {}),
        }
        feature = {"type": "Feature", "geometry": mask_to_geometry(mask), "properties": properties}
        if mask.any():
            feature["bbox"] = boxes[number].tolist()
        features.append(feature)
    return {
        "type": "FeatureCollection",
        "prompter": {"frame": "pixels of the image, x right, y down", "image_wh": list(rollout.image_wh)},
        "features": features,
    }


def _confidence(rollout: Rollout) -> dict[str, float | None]:
    """The answer's confidence, a flat field for each figure: maps and tables take no nested ones."""
    return {f"confidence_{name}": value for name, value in rollout.confidence.items()}


def mask_to_geometry(mask: Mask) -> dict[str, Any] | None:
    """A mask [height, width] as a GeoJSON geometry in pixels; None if it is empty. Rings are closed."""
    polygons = [[_closed(ring) for ring in region] for region in mask_to_regions(mask)]
    if not polygons:
        return None
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def geometry_to_mask(geometry: Mapping[str, Any] | None, hw: tuple[int, int]) -> Mask:
    """Fill a Polygon or MultiPolygon in pixels into a mask of (height, width); inverse of `mask_to_geometry`.

    Raises:
        ValueError: if it is of another type.
    """
    if geometry is None:
        return np.zeros(hw, np.bool_)
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"a geometry of type {kind!r} has no inside; a Polygon or MultiPolygon has")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    return regions_to_mask([[np.asarray(ring)[:-1] for ring in rings] for rings in polygons], hw)


def _closed(ring: Ring) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in (*ring, ring[0])]


def _prompt_type(instance: Instance) -> str:
    kinds = ["box"] if instance.box is not None else []
    if instance.positive_points or instance.negative_points:
        kinds.append("points")
    return "+".join(kinds)


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def geodataframe(collection: Mapping[str, Any]) -> Any:
    """`feature_collection` as a `geopandas.GeoDataFrame`; without a CRS, for these are pixels."""
    geopandas = optional_import("geopandas", "to_geodataframe", "geo")
    from shapely.geometry import shape

    features = collection["features"]
    geometry = [None if one["geometry"] is None else shape(one["geometry"]) for one in features]
    return geopandas.GeoDataFrame([one["properties"] for one in features], geometry=geometry, crs=None)


def detections(rollout: Rollout) -> Any:
    """A rollout's objects as `supervision.Detections`; needs supervision.

    `xyxy` are the boxes of the masks, `mask` bool [n, height, width], `confidence` the scores, every
    `class_id` 0, `data["class_name"]` the question.
    """
    supervision = optional_import("supervision", "to_detections", "detections")
    count = len(rollout.predicted_instances)
    return supervision.Detections(
        xyxy=boxes_of(rollout).astype(np.float32),
        mask=stacked(rollout),
        confidence=scores_of(rollout),
        class_id=np.zeros(count, np.int64),
        data={"class_name": np.array([rollout.query] * count, dtype=np.str_)},
    )


def stacked(rollout: Rollout) -> NDArray[np.bool_]:
    """The objects' masks, bool [n, height, width]."""
    masks = rollout.predicted_instance_masks
    return np.stack(masks) if masks else np.zeros((0, *rollout.mask_hw), np.bool_)


def optional_import(module: str, what: str, extra: str) -> Any:
    """Import a library that not every installation has.

    Raises:
        UserError: saying how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what} needs {error.name}, which is not installed: pip install 'prompter-rl[{extra}]'."
        ) from None
