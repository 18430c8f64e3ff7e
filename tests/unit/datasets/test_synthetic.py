"""synthetic-aerial: reproducible scenes, exact masks, and questions that have one right answer."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from envs.contact_sheet import contact_sheet
from envs.datasets import open_dataset
from envs.datasets.synthetic import Query, Scene, SyntheticAerial, draw_scene, scene_generators, scene_queries
from envs.datasets.synthetic.drawing import circle, ribbon, turn
from envs.datasets.synthetic.objects import OBJECT_CLASSES
from envs.datasets.synthetic.wording import EXTREMES, GROUPS, IMPLICIT
from envs.masks import iou, mask_to_box, union
from envs.sample import SampleSource
from prompter.errors import UserError

SIZE = 128
SCENES = 60


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene("train", index, size=SIZE) for index in range(SCENES)]


@pytest.fixture(scope="module")
def asked(scenes: list[Scene]) -> list[tuple[Scene, Query]]:
    return [
        (scene, query)
        for index, scene in enumerate(scenes)
        for query in scene_queries(scene, scene_generators("train", index, 0)[1], 8)
    ]


def members(scene: Scene, category: str) -> list[int]:
    """Instances of a class, or of a group of classes."""
    kinds = GROUPS[category][2] if category in GROUPS else (category,)
    return [number for number, one in enumerate(scene.instances) if one.category in kinds]


def test_the_same_index_gives_the_same_sample_however_it_is_reached() -> None:
    first = SyntheticAerial("val", scenes=4, size=96, seed=3)
    again = SyntheticAerial("val", scenes=40, size=96, seed=3)
    for index in (0, 5, 17, 23):
        one, other = first[index], again[index]
        assert one == other
        assert np.array_equal(one.image_array(), other.image_array())
    reference = [sample.image_array() for sample in again]
    assert np.array_equal(reference[17], first[17].image_array())  # reading others first changes nothing


def test_a_pickled_sample_loads_the_same_image() -> None:
    sample = SyntheticAerial("test", scenes=2, size=96)[7]
    loaded = pickle.loads(pickle.dumps(sample))
    assert loaded == sample
    assert np.array_equal(loaded.image_array(), sample.image_array())


def test_a_loaded_image_may_be_written_to_without_changing_the_dataset() -> None:
    sample = SyntheticAerial("test", scenes=1, size=96)[0]
    before = sample.image_array().copy()
    picture = sample.load_image()
    picture.paste((0, 0, 0), (0, 0, 96, 96))
    assert np.array_equal(sample.image_array(), before)


def test_splits_seeds_and_scenes_never_repeat_an_image() -> None:
    images = [
        draw_scene(split, index, size=64, seed=seed).image.tobytes()
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for index in range(8)
    ]
    assert len(set(images)) == len(images)


def test_questions_from_a_later_one_on_are_others_about_the_same_scenes() -> None:
    asked = SyntheticAerial("train", scenes=5, queries_per_scene=6, size=96)
    held = SyntheticAerial("train", scenes=5, queries_per_scene=3, first_query=6, size=96)
    every = SyntheticAerial("train", scenes=5, queries_per_scene=9, size=96)
    assert len(held) == 15 and [*held][3:6] == [*every][15:18]
    ids = [{(sample.image_id, sample.query) for sample in source} for source in (asked, held)]
    assert not ids[0] & ids[1]
    assert {sample.image_id for sample in asked} == {sample.image_id for sample in held}


def test_fewer_queries_per_scene_ask_the_first_of_them() -> None:
    few = SyntheticAerial("train", scenes=5, queries_per_scene=2, size=96)
    many = SyntheticAerial("train", scenes=5, queries_per_scene=9, size=96)
    for scene, number in itertools.product(range(5), range(2)):
        assert few[scene * 2 + number] == many[scene * 9 + number]


def test_it_is_a_sample_source_of_the_registry() -> None:
    source = open_dataset("synthetic-aerial", "val", scenes="3", size=64)
    assert isinstance(source, SampleSource)
    assert isinstance(source, SyntheticAerial)
    assert len(source) == 18 == len(list(source))
    assert source[-1] == source[17]
    with pytest.raises(IndexError):
        source[18]
    assert len({sample.sample_id for sample in source}) == 18
    assert [sample.image_id for sample in source][5:7] == ["val-000000", "val-000001"]


def test_samples_carry_masks_of_the_images_size_and_their_union() -> None:
    for sample in SyntheticAerial("train", scenes=12, size=96):
        assert sample.load_image().size == sample.image_wh == (96, 96)
        target, instances = sample.target_mask(), sample.instance_masks()
        assert target.shape == (96, 96)
        assert np.array_equal(target, union(instances, (96, 96)))
        assert all(mask.any() for mask in instances)
        assert (
            not target[0].any()
            and not target[-1].any()
            and not target[:, 0].any()
            and not target[:, -1].any()
        )
        count = {"none": [0], "one": [1], "several": [2, 3, 4]}[sample.tags["multiplicity"]]
        assert len(instances) in count


def test_objects_are_whole_apart_and_large_enough_to_see(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 2 <= len(scene.instances) <= 6
        covered = np.zeros((SIZE, SIZE), np.int32)
        for one in scene.instances:
            covered += one.mask
            left, top, right, bottom = mask_to_box(one.mask)  # type: ignore[misc]
            assert min(left, top) >= 1 and max(right, bottom) <= SIZE - 1
            assert max(right - left, bottom - top) >= 0.05 * SIZE
            assert one.area == np.count_nonzero(one.mask)
            rows, columns = np.nonzero(one.mask)
            expected = ((columns.mean() + 0.5) / SIZE, (rows.mean() + 0.5) / SIZE)
            assert one.centre == pytest.approx(expected)
            for part in one.parts.values():
                assert not (part & ~one.mask).any()
            for first, second in itertools.combinations(one.parts.values(), 2):
                assert not (first & second).any()
        assert covered.max() <= 1


def test_scenes_differ_in_kind(scenes: list[Scene]) -> None:
    assert {one.category for scene in scenes for one in scene.instances} == set(OBJECT_CLASSES)
    assert len({scene.theme for scene in scenes}) == 7
    for scene in scenes:
        assert sum(one.category == "running track" for one in scene.instances) <= 1


def test_masks_cover_what_was_painted() -> None:
    """The pixels under a pool's mask are pool water; a mask out of place would hold green or brown."""
    contrasts = []
    for index in range(40):
        scene = draw_scene("val", index, size=SIZE)
        for one in scene.instances:
            if one.category == "swimming pool":
                inside = scene.image[one.mask].mean(axis=0)
                contrasts.append(inside[2] - inside[0])  # far bluer than any ground
    assert contrasts and min(contrasts) > 40


def test_drawing_scales_with_the_image() -> None:
    small, large = draw_scene("train", 3, size=128), draw_scene("train", 3, size=256)
    assert [one.category for one in small.instances] == [one.category for one in large.instances]
    for one, other in zip(small.instances, large.instances, strict=True):
        assert iou(np.repeat(np.repeat(one.mask, 2, 0), 2, 1), other.mask) > 0.8


def test_the_number_of_objects_can_be_chosen() -> None:
    for index in range(20):
        assert len(draw_scene("train", index, size=64, min_objects=1, max_objects=1).instances) == 1
        assert len(draw_scene("train", index, size=64, min_objects=8, max_objects=9).instances) >= 6
        assert len(draw_scene("train", index, size=64, min_objects=30, max_objects=30).instances) > 6


def test_every_axis_of_the_queries_appears_in_300_samples() -> None:
    source = SyntheticAerial("train", scenes=50, size=64)
    tags = [sample.tags for sample in source]
    assert len(tags) == 300
    for axis, values in {
        "granularity": {"semantic", "instance", "part"},
        "multiplicity": {"one", "several", "none"},
        "reasoning": {"explicit", "implicit"},
        "length": {"short", "long"},
    }.items():
        assert {tag[axis] for tag in tags} == values
    share = {
        value: sum(tag["multiplicity"] == value for tag in tags) / 300 for value in ("one", "several", "none")
    }
    assert 0.5 < share["one"] < 0.72
    assert 0.15 < share["several"] < 0.35
    assert 0.06 < share["none"] < 0.22


def test_queries_use_a_small_plain_vocabulary(asked: list[tuple[Scene, Query]]) -> None:
    text = " ".join(query.text for _, query in asked)
    assert text == text.lower()
    assert len(set(text.replace("?", " ?").replace(",", " ,").split())) <= 180


def test_no_question_is_asked_twice_of_a_scene(scenes: list[Scene]) -> None:
    for index, scene in enumerate(scenes[:20]):
        texts = [query.text for query in scene_queries(scene, scene_generators("train", index, 0)[1], 12)]
        assert len(set(texts)) == 12


def test_names_and_implied_uses_take_all_of_their_class(asked: list[tuple[Scene, Query]]) -> None:
    checked = 0
    for scene, query in asked:
        category = query.tags["category"]
        if query.tags["family"] in ("name", "implicit"):
            assert sorted(query.targets) == members(scene, category)
            if query.tags["family"] == "name" and category != "aircraft":
                plural = GROUPS[category][1] if category in GROUPS else OBJECT_CLASSES[category].plural
                assert (len(query.targets) < 2) or plural in query.text or "every" in query.text
            checked += 1
        if query.tags["family"] == "implicit":
            assert query.tags["reasoning"] == "implicit"
            assert query.text in [text for texts in IMPLICIT[category] for text in texts]
    assert checked > 50


def test_superlatives_hold_by_a_clear_margin(asked: list[tuple[Scene, Query]]) -> None:
    families = set()
    for scene, query in asked:
        family, category = query.tags["family"], query.tags["category"]
        if family not in ("size", "extreme", "two largest"):
            continue
        families.add(family)
        others = [scene.instances[n] for n in members(scene, category) if n not in query.targets]
        targets = [scene.instances[n] for n in query.targets]
        assert others
        if family == "extreme":
            words = {word: side for side, group in EXTREMES.items() for word in group}
            found = {side for word, side in words.items() if word in query.text}
            found |= {side for side in EXTREMES if f"to the {side}" in query.text}
            (side,) = found
            axis, sign = {"west": (0, -1), "east": (0, 1), "north": (1, -1), "south": (1, 1)}[side]
            lead = sign * targets[0].centre[axis] - max(sign * one.centre[axis] for one in others)
            assert lead >= 0.08
        elif "smallest" in query.text:
            assert min(one.area for one in others) >= 1.35 * targets[0].area
        else:
            assert min(one.area for one in targets) >= 1.35 * max(one.area for one in others)
    assert families == {"size", "extreme", "two largest"}


def test_places_and_looks_single_out_their_targets(asked: list[tuple[Scene, Query]]) -> None:
    families = set()
    for scene, query in asked:
        family, own = query.tags["family"], members(scene, query.tags["category"])
        if family == "region" and "middle" not in query.text:
            families.add(family)
            wanted = ("left" in query.text, "top" in query.text)
            quarter = [
                n
                for n in own
                if (scene.instances[n].centre[0] < 0.5, scene.instances[n].centre[1] < 0.5) == wanted
            ]
            assert quarter == list(query.targets)
        elif family == "half":
            families.add(family)
            axis, low = (
                (0, "left" in query.text)
                if "left" in query.text or "right" in query.text
                else (1, "top" in query.text)
            )
            assert [n for n in own if (scene.instances[n].centre[axis] < 0.5) == low] == list(query.targets)
        elif family == "colour":
            families.add(family)
            words = query.text.replace("-roofed", "").split()
            assert [n for n in own if scene.instances[n].attributes["colour"] in words] == list(query.targets)
    assert families == {"region", "half", "colour"}


def test_parts_belong_to_the_object_that_is_named() -> None:
    names = set()
    for index in range(200):
        scene = draw_scene("train", index, size=64)
        if not {"aircraft", "ship", "running track"} & {one.category for one in scene.instances}:
            continue
        for query in scene_queries(scene, scene_generators("train", index, 0)[1], 6):
            if query.tags["granularity"] == "part":
                (owner,) = query.targets
                whole = scene.instances[owner]
                for mask in query.masks:
                    assert mask.any() and not (mask & ~whole.mask).any()
                    assert np.count_nonzero(mask) < whole.area
                names |= {part for part in whole.parts if part in query.text}
    assert {"left wing", "right wing", "tail", "superstructure", "field"} <= names


def test_left_and_right_wing_are_the_pilots() -> None:
    for index in range(60):
        for one in draw_scene("train", index, size=SIZE).instances:
            if one.category != "aircraft":
                continue
            place = {name: np.argwhere(mask).mean(axis=0)[::-1] for name, mask in one.parts.items()}
            forward = place["fuselage"] - place["tail"]
            sideways = place["right wing"] - place["left wing"]
            # With y down, turning from forward to the right-hand side has a positive cross product.
            assert forward[0] * sideways[1] - forward[1] * sideways[0] > 0
            return
    pytest.fail("no aircraft in 60 scenes")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"scenes": 0}, "scenes"),
        ({"scenes": 1, "queries_per_scene": 0}, "queries_per_scene"),
        ({"scenes": 1, "first_query": -1}, "first_query"),
        ({"scenes": 1, "size": 16}, "size"),
        ({"scenes": 1, "min_objects": 4, "max_objects": 3}, "max_objects"),
        ({"scenes": 1, "min_objects": 0}, "min_objects"),
        ({"scenes": 1, "max_objects": 31}, "max_objects"),
        ({"scenes": 1, "seed": -1}, "seed"),
    ],
)
def test_bad_options_are_named(options: dict[str, int], named: str) -> None:
    with pytest.raises(UserError, match=named):
        SyntheticAerial("train", **options)  # type: ignore[arg-type]


def test_an_unknown_split_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="'train'"):
        SyntheticAerial("trian", scenes=1)  # type: ignore[arg-type]


def test_geometry_helpers() -> None:
    assert turn([[1, 0]], np.pi / 2, (2, 3)) == pytest.approx(np.array([[2, 4]]))  # x towards y
    assert np.linalg.norm(circle(2.0, 1.0, 1.0) - 1.0, axis=1) == pytest.approx(2.0)
    band = ribbon(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), 0.5)
    assert band[:3, 1] == pytest.approx(0.25) and band[3:, 1] == pytest.approx(-0.25)


def test_a_contact_sheet_shows_each_sample_with_its_target() -> None:
    source = SyntheticAerial("val", scenes=2, size=64)
    samples = [sample for sample in source if sample.tags["multiplicity"] == "one"][:3]
    bare = np.asarray(contact_sheet(samples, columns=2, tile=64, target=False), np.int32)
    drawn = np.asarray(contact_sheet(samples, columns=2, tile=64), np.int32)
    assert bare.shape == drawn.shape and bare.shape[1] < 3 * 64  # two columns
    assert (np.abs(bare - drawn).sum(axis=2) > 0).sum() >= sum(s.target_mask().sum() for s in samples) // 2
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
