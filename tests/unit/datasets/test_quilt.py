"""Quilts: crowded scenes of four, asked about as real housing is asked about."""

from __future__ import annotations

import numpy as np
import pytest

from envs.datasets.synthetic import SyntheticAerial, draw_scene, scene_generators
from envs.datasets.synthetic.quilt import draw_quilt, is_quilt, quilt_queries
from prompter.errors import UserError

SIZE = 128


def test_a_quilts_objects_lie_where_they_are_drawn_and_apart() -> None:
    for index in range(6):
        quilt = draw_quilt("train", index, size=SIZE, seed=0)
        assert quilt.image.shape == (SIZE, SIZE, 3) and quilt.size == SIZE
        assert 4 <= len(quilt.instances) <= 28
        covered = np.zeros((SIZE, SIZE), np.int32)
        for one in quilt.instances:
            covered += one.mask
            assert one.area == np.count_nonzero(one.mask)
            rows, columns = np.nonzero(one.mask)
            expected = ((columns.mean() + 0.5) / SIZE, (rows.mean() + 0.5) / SIZE)
            assert one.centre == pytest.approx(expected)
            assert all(not (part & ~one.mask).any() for part in one.parts.values())
        assert covered.max() <= 1
        quarters = {(int(2 * one.centre[0]), int(2 * one.centre[1])) for one in quilt.instances}
        assert len(quarters) == 4


def test_a_quilt_repeats_no_scene_and_is_drawn_the_same_again() -> None:
    quilt = draw_quilt("val", 3, size=SIZE, seed=0)
    assert np.array_equal(quilt.image, draw_quilt("val", 3, size=SIZE, seed=0).image)
    scene = draw_scene("val", 3, size=SIZE // 2, seed=0).image
    quarters = [quilt.image[y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64)]
    assert len({one.tobytes() for one in [*quarters, scene]}) == 5


def test_half_of_a_quilts_questions_are_those_about_real_buildings() -> None:
    asked, about_buildings = 0, set()
    for index in range(8):
        quilt = draw_quilt("train", index, size=SIZE, seed=0)
        queries = quilt_queries(quilt, scene_generators("train", index, 0)[1], 8)
        assert len(queries) == 8
        assert len({query.text for query in queries[4:]}) == 4
        for query in queries:
            asked += 1
            for target, mask in zip(query.targets, query.masks, strict=True):
                owner = quilt.instances[target]
                assert mask.any() and not (mask & ~owner.mask).any()
            if "kind" in query.tags:
                about_buildings.add(query.tags["family"])
                assert all(quilt.instances[target].category == "building" for target in query.targets)
        largest = [query for query in queries if query.tags["family"] == "largest" and "kind" in query.tags]
        for query in largest:
            areas = [one.area for one in quilt.instances if one.category == "building"]
            assert quilt.instances[query.targets[0]].area == max(areas)
    assert len(about_buildings) >= 6


def test_a_share_of_a_data_sets_scenes_are_quilts_and_the_others_stay_what_they_are() -> None:
    plain = SyntheticAerial("train", scenes=30, queries_per_scene=2, size=SIZE)
    mixed = SyntheticAerial("train", scenes=30, queries_per_scene=2, size=SIZE, quilts=0.4)
    quilts = [index for index in range(30) if is_quilt("train", index, 0, 0.4)]
    assert 5 <= len(quilts) <= 20
    assert set(quilts) < {index for index in range(30) if is_quilt("train", index, 0, 0.8)}
    for index in range(6):
        same = np.array_equal(plain[2 * index].image_array(), mixed[2 * index].image_array())
        assert same == (index not in quilts)
        if same:
            assert plain[2 * index].query == mixed[2 * index].query
    assert not any(is_quilt("train", index, 0, 0.0) for index in range(30))


@pytest.mark.parametrize(("options", "said"), [({"quilts": 1.5}, "1.5"), ({"quilts": 0.1, "size": 65}, "65")])
def test_a_share_that_is_none_or_a_size_without_halves_is_refused(
    options: dict[str, float], said: str
) -> None:
    with pytest.raises(UserError, match=f"quilts, a share.*{said}"):
        SyntheticAerial("train", scenes=1, **options)  # type: ignore[arg-type]
