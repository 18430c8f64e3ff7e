"""The contract that every dataset keeps, each opened from a miniature in its exact layout."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest

from envs.datasets import known_datasets, open_dataset
from envs.masks import decode_rle, union
from envs.sample import Sample, SampleSource
from tests.fixtures.layouts import FIXTURES

SYNTHETIC = {"scenes": 4, "queries_per_scene": 5}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Opens a fixture by its key; builds it once."""
    options: dict[str, dict[str, Any]] = {}
    hub_cache = tmp_path_factory.mktemp("hub")

    def open_fixture(key: str) -> SampleSource:
        import datasets

        datasets.config.HF_DATASETS_CACHE = hub_cache
        if key == "synthetic-aerial":
            return open_dataset(key, "val", **SYNTHETIC)
        fixture = FIXTURES[key]
        if key not in options:
            options[key] = fixture.build(tmp_path_factory.mktemp(key))
        return open_dataset(fixture.name, fixture.split, **options[key])

    return open_fixture


KEYS = ["synthetic-aerial", *FIXTURES]


def test_every_dataset_has_a_fixture() -> None:
    assert {fixture.name for fixture in FIXTURES.values()} | {"synthetic-aerial"} == set(known_datasets())


@pytest.mark.parametrize("key", KEYS)
def test_source_is_sized_indexable_and_iterable_alike(opened: Any, key: str) -> None:
    source = opened(key)
    assert isinstance(source, SampleSource)
    assert len(source) >= 20
    ids = [sample.sample_id for sample in source]
    assert ids == [source[index].sample_id for index in range(len(source))]
    assert len(set(ids)) == len(ids)
    assert source[-1].sample_id == ids[-1]
    with pytest.raises(IndexError):
        source[len(source)]


@pytest.mark.parametrize("key", KEYS)
def test_samples_are_complete(opened: Any, key: str) -> None:
    source = opened(key)
    for sample in source:
        assert (sample.dataset, sample.split) == (source.name, source.split)
        assert sample.image_id
        assert sample.query.strip() == sample.query != ""
        assert all(isinstance(key, str) and isinstance(tag, str) for key, tag in sample.tags.items())
        width, height = sample.image_wh
        assert sample.image_array().shape == (height, width, 3)
        if sample.target is None:
            assert sample.boxes
            continue
        target = sample.target_mask()  # raises if its size is not the image's
        for mask in sample.instance_masks():
            assert not (mask & ~target).any()
        if sample.instances:
            assert np.array_equal(union(sample.instance_masks(), (height, width)), target)
        if sample.ignore is not None:
            assert not (decode_rle(sample.ignore, (height, width)) & target).any()


@pytest.mark.parametrize("key", KEYS)
def test_opening_twice_gives_the_same_samples(opened: Any, key: str) -> None:
    for number, (first, second) in enumerate(itertools.zip_longest(opened(key), opened(key))):
        assert first == second
        if number % 7 == 0:
            assert np.array_equal(first.image_array(), second.image_array())


@pytest.mark.parametrize("key", KEYS)
def test_samples_and_their_image_loaders_survive_pickling(opened: Any, key: str) -> None:
    sample = opened(key)[0]
    copy: Sample = pickle.loads(pickle.dumps(sample))
    assert copy == sample
    assert np.array_equal(copy.image_array(), sample.image_array())
    assert len(pickle.dumps(sample)) < 100_000  # a path or a seed, not the pixels of a whole set


@pytest.mark.parametrize("key", [key for key in FIXTURES if key != "aerial-buildings"])
def test_targets_lie_on_the_objects_of_the_picture(opened: Any, key: str) -> None:
    """Fixture objects are bright on dark ground: a shift, a swap of axes or a wrong pairing shows."""
    shown = 0
    for sample in opened(key):
        bright = sample.image_array().min(axis=-1) > 100
        if sample.target is not None:
            target = sample.target_mask()
            assert bright[target].mean() > 0.97 if target.any() else True
            shown += bool(target.any())
        elif sample.tags.get("box") != "degenerate":
            x1, y1, x2, y2 = (round(side) for side in sample.boxes[0])
            assert bright[y1:y2, x1:x2].mean() > 0.85
            shown += 1
    assert shown >= 10
