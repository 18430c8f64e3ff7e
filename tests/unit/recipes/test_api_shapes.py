"""Masks leave as COCO, GeoJSON, GeoDataFrame and Detections, and come back pixel for pixel."""

from __future__ import annotations

import json
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from envs.masks import encode_rle, union
from envs.rollout import Rollout
from prompter import Result
from prompter.errors import UserError
from prompter.types import Instance, PromptSet
from recipes.api import shapes
from recipes.api.shapes import coco_dataset, feature_collection, geometry_to_mask, mask_to_geometry

HW = (9, 11)
masks = arrays(np.bool_, HW)


def rollout_of(*masks: np.ndarray, query: str = "the roofs", image: str = "a.png") -> Rollout:
    return Rollout(
        sample_id="a",
        dataset="images",
        split="",
        image_id=image,
        image_wh=(HW[1], HW[0]),
        query=query,
        target=None,
        completion="",
        reading=PromptSet(tuple(Instance((0, 0, 5, 5), positive_points=((1, 1),)) for _ in masks)),
        prediction=encode_rle(union(masks, HW)),
        predicted_ious=tuple(0.5 for _ in masks),
        predicted_instances=tuple(encode_rle(mask) for mask in masks),
        executor="box",
    )


def result_of(*masks: np.ndarray) -> Result:
    return Result(rollout_of(*masks), lambda: Image.new("RGB", (HW[1], HW[0])), "some")


@given(found=st.lists(masks, max_size=3))
def test_coco_gives_every_mask_back_by_pycocotools(found: list[np.ndarray]) -> None:
    data = json.loads(json.dumps(coco_dataset([rollout_of(*found)])))
    annotations = data["annotations"]
    assert len(annotations) == len(found)
    for mask, one in zip(found, annotations, strict=True):
        assert (coco_mask.decode(one["segmentation"]) == mask).all()
        assert one["area"] == mask.sum() and (one["image_id"], one["category_id"]) == (1, 1)
        assert one["bbox"] == coco_mask.toBbox(one["segmentation"]).tolist()


@given(mask=masks)
@settings(max_examples=200)
def test_geojson_gives_every_mask_back(mask: np.ndarray) -> None:
    geometry = json.loads(json.dumps(mask_to_geometry(mask)))
    assert (geometry_to_mask(geometry, HW) == mask).all()


def test_geojson_has_holes_and_parts_of_their_own() -> None:
    mask = np.zeros(HW, np.bool_)
    mask[0:5, 0:5] = True
    mask[1:3, 1:3] = False
    mask[5, 5] = True  # touches at a corner: a part of its own
    mask[8, 8:11] = True
    [feature] = feature_collection(rollout_of(mask))["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert [len(rings) for rings in feature["geometry"]["coordinates"]] == [2, 1, 1]
    assert all(ring[0] == ring[-1] for rings in feature["geometry"]["coordinates"] for ring in rings)
    assert feature["bbox"] == [0, 0, 11, 9]


def test_features_say_what_they_are_and_in_which_frame() -> None:
    collection = result_of(np.ones(HW, np.bool_)).to_geojson()
    assert collection["prompter"] == {"frame": "pixels of the image, x right, y down", "image_wh": [11, 9]}
    [feature] = collection["features"]
    assert feature["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[0, 0], [11, 0], [11, 9], [0, 9], [0, 0]]],
    } or sorted(feature["geometry"]["coordinates"][0][:-1]) == [[0, 0], [0, 9], [11, 0], [11, 9]]
    assert feature["properties"] == {
        "label": "the roofs",
        "score": 0.5,
        "area_px": 99,
        "det_id": 1,
        "image": "a.png",
        "query": "the roofs",
        "prompt_type": "box+points",
        "prompt": '{"box": [0.0, 0.0, 5.0, 5.0], "positive_points": [[1.0, 1.0]], "negative_points": []}',
        "executor": "box",
        "policy": "some",
        "edited": False,
    }


def test_a_line_has_no_inside() -> None:
    with pytest.raises(ValueError, match="'LineString' has no inside"):
        geometry_to_mask({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}, HW)


def test_several_answers_are_one_coco_dataset_that_pycocotools_indexes() -> None:
    one, other = np.eye(9, 11, dtype=np.bool_), np.ones(HW, np.bool_)
    data = coco_dataset(
        [rollout_of(one), rollout_of(one, other, query="the cars"), rollout_of(other, image="b.png")]
    )
    index = COCO()
    index.dataset = data
    index.createIndex()
    assert [(image["id"], image["file_name"]) for image in data["images"]] == [(1, "a.png"), (2, "b.png")]
    assert {one["id"]: one["name"] for one in data["categories"]} == {1: "the roofs", 2: "the cars"}
    assert len(index.getAnnIds(imgIds=[1])) == 3 and len(index.getAnnIds(catIds=[2])) == 2
    assert (index.annToMask(index.anns[3]) == other).all()


def test_a_geodataframe_has_every_object_and_no_crs() -> None:
    pytest.importorskip("geopandas")
    mask = np.zeros(HW, np.bool_)
    mask[0:5, 0:5], mask[2, 2], mask[7, 7] = True, False, True
    frame = result_of(mask, np.zeros(HW, np.bool_)).to_geodataframe()
    assert frame.crs is None and len(frame) == 2
    assert frame.geometry.iloc[0].is_valid and frame.geometry.iloc[1] is None
    assert frame.geometry.iloc[0].area == mask.sum() == frame.area_px.iloc[0]
    assert (geometry_to_mask(frame.geometry.iloc[0].__geo_interface__, HW) == mask).all()
    empty = result_of().to_geodataframe()
    assert len(empty) == 0 and empty.crs is None


def test_detections_hold_the_same_masks() -> None:
    pytest.importorskip("supervision")
    mask = np.zeros(HW, np.bool_)
    mask[2:4, 3:7] = True
    found = result_of(mask).to_detections()
    assert (found.mask == mask[None]).all() and found.xyxy.tolist() == [[3, 2, 7, 4]]
    assert found.confidence.tolist() == [0.5] and list(found.data["class_name"]) == ["the roofs"]
    assert len(result_of().to_detections()) == 0


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [("geopandas", "to_geodataframe", "geo"), ("supervision", "to_detections", "detections")],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    module: str, call: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> object:
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return import_module(name)

    monkeypatch.setattr(shapes.importlib, "import_module", missing)
    with pytest.raises(UserError, match=rf"{call} needs {module}.*prompter-rl\[{extra}\]"):
        getattr(result_of(), call)()
