"""aerial-buildings: whole tiles per split, clipped windows, and questions with one clear answer."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from envs.datasets import open_dataset
from envs.datasets.aerial_buildings import TILES
from envs.datasets.building_queries import KINDS, VisibleBuilding, building_queries
from envs.datasets.building_windows import kinds_by_place, window_starts
from envs.datasets.spacenet_chip import IMAGE
from envs.masks import decode_rle, union
from prompter.errors import UserError
from tests.fixtures.aerial import build_aerial_tiles, build_spacenet_chip

SIDE = 128


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build_aerial_tiles(tmp_path_factory.mktemp("aerial"))


def test_no_tile_is_in_two_splits():
    tiles = [tile for numbers in TILES.values() for tile in numbers]
    assert len(tiles) == len(set(tiles)) == 12


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_samples_come_from_the_tiles_of_their_split(root, split):
    source = open_dataset("aerial-buildings", split, root=root, window=SIDE, stride=90)
    tiles = {int(Path(sample.load_image.path).stem.split("_")[-1]) for sample in source}
    assert tiles == set(TILES[split])


def test_targets_are_the_union_of_their_instances_and_clear_of_ignored_pixels(root):
    source = open_dataset("aerial-buildings", "test", root=root, window=SIDE, stride=70)
    seen = set()
    for sample in source:
        target = sample.target_mask()
        assert target.shape == (SIDE, SIDE)
        assert np.array_equal(target, union(sample.instance_masks(), (SIDE, SIDE)))
        assert (sample.tags["multiplicity"] == "none") == (not target.any())
        if sample.ignore is not None:
            assert not (decode_rle(sample.ignore) & target).any()
            seen.add("ignore")
        seen.add(sample.tags["multiplicity"])
    assert seen == {"ignore", "none", "one", "several"}


@pytest.mark.parametrize("name", ["aerial-buildings", "spacenet-chip"])
def test_a_segmenter_can_be_shown_the_whole_that_a_window_was_cut_from(root, name, tmp_path):
    folder = root if name == "aerial-buildings" else build_spacenet_chip(tmp_path)
    options = {"root": folder, "window": 64, "stride": 50}
    plain = open_dataset(name, "train", **options)
    whole = open_dataset(name, "train", **options, encode="region")
    assert len(plain) == len(whole) > 20
    regions = set()
    for alone, sample in zip(plain, whole, strict=True):
        assert alone.scene is None and replace(sample, scene=None) == alone
        x, y = sample.scene.corner_xy
        region = np.asarray(sample.scene.load_image().convert("RGB"))
        assert np.array_equal(region[y : y + 64, x : x + 64], sample.image_array())
        regions.add((sample.scene.image_id, region.shape))
    assert len(regions) == (8 if name == "aerial-buildings" else 3)
    with pytest.raises(UserError, match=r"option 'encode' .* cannot be 'tile'"):
        open_dataset(name, "train", **options, encode="tile")


def test_target_lies_on_the_building_in_the_image(root):
    """The fixture paints buildings red: a shifted window or swapped axes would show."""
    source = open_dataset("aerial-buildings", "test", root=root, window=SIDE, stride=70)
    checked = 0
    for sample in source:
        mask = sample.target_mask()
        if mask.sum() > 400:
            reddish = sample.image_array()[..., 0] > 150
            assert (reddish & mask).sum() > 0.85 * mask.sum()
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("name", ["aerial-buildings", "spacenet-chip"])
def test_questions_with_too_many_targets_are_left_out(name, tmp_path):
    build = build_aerial_tiles if name == "aerial-buildings" else build_spacenet_chip
    options = {"root": build(tmp_path), "window": SIDE, "stride": 64}
    every = [len(sample.instances) for sample in open_dataset(name, "train", **options)]
    few = [len(sample.instances) for sample in open_dataset(name, "train", **options, max_targets=2)]
    assert few == [count for count in every if count <= 2] and len(few) < len(every)


def test_a_share_of_the_questions_without_a_target_is_kept(root):
    options = {"root": root, "window": SIDE, "stride": 64}

    def split(**more):
        samples = list(open_dataset("aerial-buildings", "train", **options, **more))
        with_target = [one.sample_id for one in samples if one.instances]
        return with_target, {one.sample_id for one in samples if not one.instances}

    targeted, empty = split()
    assert split(no_target=0.0) == (targeted, set())
    kept_targeted, kept = split(no_target=0.5)
    assert kept_targeted == targeted and kept < empty and 0.2 < len(kept) / len(empty) < 0.8
    with pytest.raises(UserError, match=r"'no_target' of dataset .* must be between 0 and 1, but is 2"):
        split(no_target=2)


def test_options_out_of_range_are_refused(root):
    with pytest.raises(UserError, match="'window' of dataset 'aerial-buildings' must be between"):
        open_dataset("aerial-buildings", "test", root=root, window=4)
    with pytest.raises(UserError, match="'stride'"):
        open_dataset("aerial-buildings", "test", root=root, stride=0)


def test_a_tile_with_broken_outlines_is_named(tmp_path):
    root = build_aerial_tiles(tmp_path)
    path = next((root / "polygon_lists").rglob("*_967.json"))
    path.write_text('{"objects": [{"class": 1}]}')
    with pytest.raises(UserError, match=r"967\.json: the key 'polygon' is missing"):
        open_dataset("aerial-buildings", "test", root=root, window=SIDE)


def kinds_asked(source):
    """Place -> the kinds of questions that are asked about it."""
    found = {}
    for sample in source:
        found.setdefault(sample.image_id.partition("_x")[0], set()).add(sample.tags["kind"])
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("aerial-buildings", {"window": SIDE, "stride": 60}),
        ("spacenet-chip", {"window": 64, "stride": 32}),
    ],
)
def test_held_out_questions_are_others_about_the_same_places(tmp_path, name, options):
    build = build_aerial_tiles if name == "aerial-buildings" else build_spacenet_chip
    options = {**options, "root": build(tmp_path), "queries_per_window": 30}
    asked, held, everything = (
        open_dataset(name, "train", questions=questions, **options)
        for questions in ("asked", "held-out", "all")
    )
    kinds, others = kinds_asked(asked), kinds_asked(held)
    assert kinds.keys() == others.keys()
    assert all(not kinds[place] & others[place] for place in kinds)
    # What is held out on one place is asked about another, and both are about the same images.
    assert set().union(*others.values()) & set().union(*kinds.values())
    assert {sample.image_id for sample in held} <= {sample.image_id for sample in everything}
    assert len(held) < len(asked)
    with pytest.raises(UserError, match=r"'questions' of dataset .* cannot be 'some'"):
        open_dataset(name, "train", questions="some", **options)
    with pytest.raises(UserError, match=r"'held_out_share' of dataset .* must leave some kinds"):
        open_dataset(name, "train", questions="asked", held_out_share=1.0, **options)


def test_every_kind_is_held_out_somewhere_and_asked_elsewhere():
    held = kinds_by_place("set", 4, "held-out", 0.25, seed=0)
    asked = kinds_by_place("set", 4, "asked", 0.25, seed=0)
    assert set().union(*held) == set().union(*asked) == set(KINDS)
    assert all(one | other == set(KINDS) and not one & other for one, other in zip(held, asked, strict=True))
    assert kinds_by_place("set", 3, "all", 0.25, seed=0) == [None] * 3
    assert held == kinds_by_place("set", 4, "held-out", 0.25, seed=0)
    assert held != kinds_by_place("set", 4, "held-out", 0.25, seed=1)


def test_only_some_tiles_of_a_split(root):
    chosen = open_dataset("aerial-buildings", "train", root=root, window=SIDE, tiles=[998, 966])
    assert set(kinds_asked(chosen)) == {"966", "998"}
    with pytest.raises(UserError, match=r"'tiles' .* must name tiles of split train"):
        open_dataset("aerial-buildings", "train", root=root, tiles=[967])


def test_outlines_in_map_coordinates_lie_on_the_buildings(tmp_path):
    """The fixture's buildings are bright: a wrong tie point, size or direction of rows would show."""
    root = build_spacenet_chip(tmp_path)
    places = {}
    for split in ("train", "test"):
        source = open_dataset("spacenet-chip", split, root=root, window=64, stride=32)
        for sample in source:
            bright = sample.image_array()[..., 0] > 150
            target = sample.target_mask()
            assert not target.any() or bright[target].mean() > 0.95
            places.setdefault(sample.image_id.partition("_x")[0], set()).add(sample.load_image.window)
    assert sorted(places) == ["north-east", "north-west", "south-east", "south-west"]
    corners = {name: {(x < 128, y < 128) for x, y, *_ in windows} for name, windows in places.items()}
    assert all(len(found) == 1 for found in corners.values()), "windows stay in their quarter"
    edges = [
        (x2 <= 128 or x1 >= 128) and (y2 <= 128 or y1 >= 128)
        for windows in places.values()
        for x1, y1, x2, y2 in windows
    ]
    assert all(edges)
    with pytest.raises(UserError, match="half the image"):
        open_dataset("spacenet-chip", "test", root=root)
    Image.new("L", (256, 256)).save(root / IMAGE)
    with pytest.raises(UserError, match="no pixel scale and tie point"):
        open_dataset("spacenet-chip", "test", root=root, window=64)


@given(st.integers(16, 700), st.integers(16, 700), st.integers(1, 300))
def test_windows_reach_from_edge_to_edge_without_gaps(length, side, stride):
    side = min(side, length)
    starts = window_starts(length, side, stride)
    assert starts[0] == 0
    left_out = length - side - starts[-1]
    assert left_out == 0 or (left_out < side / 64 and len(starts) == 1)
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= stride + 1).all()  # a step may be rounded up


def test_a_tile_of_one_more_pixel_is_not_seen_twice():
    assert [window_starts(length, 571, 96) for length in (571, 572)] == [[0], [0]]
    assert window_starts(572, 256, 96)[-1] == 316


@st.composite
def buildings(draw):
    count = draw(st.integers(0, 7))
    result = []
    for _ in range(count):
        x, y = draw(st.integers(0, SIDE - 20)), draw(st.integers(0, SIDE - 20))
        width, height = draw(st.integers(3, 40)), draw(st.integers(3, 40))
        box = (float(x), float(y), float(min(x + width, SIDE)), float(min(y + height, SIDE)))
        sides = (box[2] - box[0], box[3] - box[1])
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        dx = max(box[0] - SIDE / 2, SIDE / 2 - box[2], 0)
        dy = max(box[1] - SIDE / 2, SIDE / 2 - box[3], 0)
        result.append(
            VisibleBuilding(
                area=int(sides[0] * sides[1]),
                centre=centre,
                box=box,
                elongation=max(sides) / min(sides),
                centre_distance=math.hypot(dx, dy),
                askable=draw(st.booleans()),
            )
        )
    return result


@given(buildings(), st.integers(0, 1000))
def test_answers_follow_from_the_geometry(parts, seed):
    """Every answer is re-derived here from its definition, by brute force and without margins."""
    for query in building_queries(parts, SIDE, 30, random.Random(seed)):
        chosen = [parts[i] for i in query.targets]
        others = [part for i, part in enumerate(parts) if i not in query.targets]
        assert all(part.askable for part in chosen)
        if query.kind in {"largest", "two_largest"} and parts:
            assert min(part.area for part in chosen) > max(part.area for part in others)
        elif query.kind == "smallest" and parts:
            assert chosen[0].area < min(part.area for part in others)
        elif query.kind == "northernmost" and parts:
            assert chosen[0].box[1] < min(part.box[1] for part in others)
            assert chosen[0].centre[1] < min(part.centre[1] for part in others)
        elif query.kind == "easternmost" and parts:
            assert chosen[0].box[2] > max(part.box[2] for part in others)
        elif query.kind == "central" and parts:
            assert chosen[0].centre_distance < min(part.centre_distance for part in others)
        elif query.kind == "all" and parts:
            assert not any(part.askable for part in others)
        elif query.kind == "west_half":
            assert all(part.centre[0] < SIDE / 2 for part in chosen)
            assert not any(part.centre[0] < SIDE / 2 and part.askable for part in others)
        elif query.kind == "closest_pair":
            first, second = chosen
            assert math.dist(first.centre, second.centre) < min(
                math.dist(a.centre, b.centre)
                for i, a in enumerate(parts)
                for b in parts[i + 1 :]
                if (a, b) != (first, second)
            )
        elif query.kind == "bottom_right" and not query.targets:
            assert not any(part.box[2] > SIDE / 2 and part.box[3] > SIDE / 2 for part in parts)


@given(buildings(), st.integers(0, 1000), st.integers(1, 8))
def test_questions_are_few_different_and_the_same_for_the_same_seed(parts, seed, limit):
    queries = building_queries(parts, SIDE, limit, random.Random(seed))
    assert len(queries) <= limit
    assert len({query.kind for query in queries}) == len(queries)
    assert queries == building_queries(parts, SIDE, limit, random.Random(seed))
    if not parts:
        assert queries
        assert all(query.targets == () for query in queries)
