"""Parts of `prompter bench step` that need no training: the field's reward, the ways, the floor."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from envs.executors.base import Segmentation, SegmentRequest
from envs.executors.families.box import BoxSegmenter
from envs.executors.families.reference import NaivePredictor
from envs.executors.serving.local import LocalExecutor
from envs.sample import RGB
from prompter.types import Instance, PromptSet
from recipes import cli
from recipes.benchmarks.limits import flops_of, measure_machine
from recipes.benchmarks.stock import PeersExecutor
from recipes.benchmarks.ways import STOCK, ways
from recipes.config import TrainConfig


class CountingPredictor(NaivePredictor):
    """Counts what a package's predictor would be asked."""

    def __init__(self) -> None:
        super().__init__(BoxSegmenter())
        self.images: list[int] = []
        self.instances = 0

    def set_image(self, image: RGB) -> None:
        self.images.append(int(image[0, 0, 0]))
        super().set_image(image)

    def predict(self, instance: Instance):  # type: ignore[no-untyped-def]
        self.instances += 1
        return super().predict(instance)


def requests() -> list[SegmentRequest]:
    """Two images in turn: two instances, none, one on the first; one and one on the second."""
    images = [np.full((32, 32, 3), value, np.uint8) for value in (10, 20)]
    boxes = [Instance(box=(x, 2.0, x + 8, 20.0)) for x in (1.0, 6.0, 20.0)]
    sets = [boxes[:2], boxes[:1], [], boxes[1:2], boxes[2:]]
    return [
        SegmentRequest(images[number % 2], PromptSet(tuple(instances)), str(number % 2))
        for number, instances in enumerate(sets)
    ]


@pytest.mark.parametrize(("encode_once", "set_images"), [(False, [10, 10, 20, 20]), (True, [10, 20])])
def test_the_fields_way_sets_images_per_completion_and_gives_our_masks(
    encode_once: bool, set_images: list[int]
) -> None:
    predictor = CountingPredictor()
    peers = PeersExecutor(predictor, encode_once=encode_once)
    theirs = peers.segment(requests())
    ours = LocalExecutor(BoxSegmenter()).segment(requests())
    for one, other in zip(theirs, ours, strict=True):
        assert isinstance(one, Segmentation) and isinstance(other, Segmentation)
        assert np.array_equal(one.mask, other.mask)
    assert not theirs[2].mask.any() and theirs[0].mask.any()  # type: ignore[union-attr]
    assert predictor.images == set_images
    assert predictor.instances == peers.counters.instances == 5
    assert (peers.counters.encodes, peers.counters.decodes) == (len(set_images), 5)


def config_of(**sections: object) -> TrainConfig:
    base = {"run_dir": "x", "policy": {"model": "x"}, "dataset": {"name": "manifest"}}
    return TrainConfig.model_validate({**base, **sections})


def test_each_way_adds_one_part_to_the_one_before() -> None:
    found = ways(config_of(sampler={"backend": "ray"}, overlap={"staleness": 1}))
    assert found[0].title == STOCK and not found[0].ours
    for before, after in pairwise(found):
        changed = [
            name
            for name in ("ours", "executor", "backend", "prefetch", "staleness")
            if getattr(before, name) != getattr(after, name)
        ]
        assert len(changed) == 1 or changed == ["executor", "prefetch"], f"{after.title} changes {changed}"
    last = found[-1]
    assert (last.ours, last.executor, last.backend, last.prefetch, last.staleness) == (
        *(True, "actors", "ray", True, 1),
    )


def test_ways_end_where_a_config_does() -> None:
    assert [way.backend for way in ways(config_of(sampler={"backend": "hf"}))] == ["hf"] * 4
    in_process = ways(config_of(sampler={"backend": "vllm"}))
    assert in_process[-1].backend == "vllm" and not in_process[-1].prefetch


def test_operations_are_those_of_the_products_threads_or_not() -> None:
    left, right = torch.ones(30, 40), torch.ones(40, 50)
    threads = torch.get_num_threads()
    assert flops_of(lambda: torch.relu(left @ right)) == 2 * 30 * 40 * 50
    assert torch.get_num_threads() == threads
    with pytest.raises(ZeroDivisionError):
        flops_of(lambda: 1 / 0)
    assert torch.get_num_threads() == threads


def test_a_machine_computes_and_reads_something() -> None:
    machine = measure_machine("cpu", rounds=1)
    assert 1e8 < machine.flops < 1e15
    assert 1e7 < machine.bandwidth < 1e14


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench", "executor", "--sampler.backend", "hf"], "takes no --sampler.backend"),
        (
            ["bench", "step", "--steps", "2", "--sampler.backend", "ray", "--overlap.staleness", "1"],
            "too few with overlap.staleness",
        ),
        (["bench", "decoder", "some.yaml"], "takes no some.yaml"),
        (["bench", "step", "--steps", "0"], "--steps must be at least 1"),
        (["bench", "step", "--skip", "9", "--sampler.backend", "hf"], "leaves none of the 4 rows"),
        (["bench", "rollout", "--sampler.bakend", "hf"], "bakend"),
        (["bench", "step", "--executor", "box,nonsense=1"], "nonsense"),
        (["bench", "step", "--adapter", "shipped:nothing"], "no adapter 'nothing'"),
    ],
)
def test_what_a_benchmark_does_not_take_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err
