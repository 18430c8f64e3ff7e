"""`prompter bench executor` and `prompter ceiling` on the weight-free segmenter."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from envs.bench import bench_executor
from envs.executors.base import ExecutorFailure
from envs.executors.config import ExecutorConfig
from envs.executors.families.box import BoxSegmenter
from envs.executors.families.reference import reference_predictor
from envs.executors.serving.local import LocalExecutor
from envs.masks import encode_rle
from envs.sample import Sample
from envs.workload import Workload, make_workload
from eval.ceiling import ORACLES, measure_ceilings, oracle_prompt_set, units_of
from prompter.errors import UserError
from prompter.types import Instance
from recipes.commands import bench
from recipes.commands import ceiling as validation
from recipes.commands.bench import bench_text
from tests.fixtures.segmenters import save_sam, save_sam2

SIDE = 64


def blank() -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), (90, 100, 80))


def rectangle(x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[y : y + height, x : x + width] = True
    return mask


def sample(number: int, image: str, *masks: np.ndarray) -> Sample:
    whole = np.any(masks, axis=0) if masks else np.zeros((SIDE, SIDE), np.bool_)
    return Sample(
        sample_id=f"s{number}",
        dataset="toy",
        split="test",
        image_id=image,
        image_wh=(SIDE, SIDE),
        load_image=blank,
        query="?",
        target=encode_rle(whole),
        instances=tuple(encode_rle(mask) for mask in masks),
    )


def samples() -> Iterator[Sample]:
    first, second = rectangle(4, 4, 20, 10), rectangle(30, 30, 8, 20)
    corner = rectangle(10, 40, 16, 16) & ~rectangle(18, 48, 16, 16)  # an L: its box is half as large again
    yield sample(0, "a", first)
    yield sample(1, "a", first, second)
    yield sample(2, "a")
    yield sample(3, "b", corner)


def boxes() -> LocalExecutor:
    return LocalExecutor(BoxSegmenter(), name="box")


def test_objects_are_taken_once_and_empty_targets_never() -> None:
    assert [unit.name for unit in units_of(samples(), "object")] == ["s0#0", "s1#1", "s3#0"]
    assert [unit.name for unit in units_of(samples(), "query")] == ["s0", "s1", "s3"]


def test_ceilings_of_the_box_filler() -> None:
    result = measure_ceilings(samples(), {"box": boxes()}, oracles=["box", "1-point"])
    assert (result["units"], result["images"]) == (3, 2)
    found = result["results"]["box"]
    assert found["box"]["mean_iou"] == pytest.approx((1 + 1 + 0.75) / 3)
    assert found["box"]["precision_50"] == 1.0
    low, high = found["box"]["interval"]
    assert 0.75 - 1e-9 <= low <= found["box"]["mean_iou"] <= high <= 1.0
    assert 0 < found["1-point"]["mean_iou"] < found["box"]["mean_iou"]
    by_query = measure_ceilings(samples(), {"box": boxes()}, oracles=["box"], unit="query")
    assert by_query["units"] == 3
    assert measure_ceilings(samples(), {"box": boxes()}, oracles=["box"], limit=1)["units"] == 1


def test_components_are_prompted_one_by_one() -> None:
    two = rectangle(0, 0, 10, 10) | rectangle(40, 40, 10, 10)
    whole = oracle_prompt_set([two], ORACLES["box"])
    apart = oracle_prompt_set([two], ORACLES["box-per-component"])
    assert [instance.box for instance in whole.instances] == [(0, 0, 50, 50)]
    assert sorted(instance.box for instance in apart.instances) == [(0, 0, 10, 10), (40, 40, 50, 50)]
    assert len(oracle_prompt_set([two], ORACLES["3-points"]).instances[0].positive_points) == 3


def test_failures_are_counted_and_left_out() -> None:
    class Failing:
        def segment(self, requests: list, **_: object) -> list:
            return [ExecutorFailure("no")] * len(requests)

    result = measure_ceilings(samples(), {"bad": Failing()}, oracles=["box"])
    assert result["results"]["bad"]["box"] == {
        "mean_iou": None,
        "interval": None,
        "precision_50": None,
        "n": 0,
        "failures": 3,
    }


def parse(module: ModuleType, words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


def test_validate_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["--benchmark", "synthetic-aerial:test", "--executor", "box", "--limit", "8", "--worst", "3"]
    assert validation.run(parse(validation, [*words, "--dataset-option", "scenes=2", "--out", str(out)])) == 0
    printed = capsys.readouterr().out
    assert "| box-per-component |" in printed
    saved = json.loads((out / "validate.json").read_text())
    assert saved["units"] == 8
    assert saved["results"]["box"]["box"]["n"] == 8
    assert saved["executors"]["box"]["multimask"] == "single"
    assert (out / "validate.md").read_text() in printed
    with Image.open(out / "worst-box.png") as picture:
        assert picture.width > 600


def test_the_old_flags_measure_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["--limit", "4", "--worst", "0", "--oracle", "box", "--executor"]
    old = ["--dataset", "synthetic-aerial:test", "--option", "scenes=2", "--multimask", "best"]
    new = ["--benchmark", "synthetic-aerial:test", "--dataset-option", "scenes=2"]
    for name, words in (("old", [*old, *shared, "box"]), ("new", [*new, *shared, "box,multimask=best"])):
        assert validation.run(parse(validation, [*words, "--out", str(tmp_path / name)])) == 0
    printed = capsys.readouterr()
    assert printed.out.count("| box,multimask=best |") == 2
    assert printed.err.splitlines() == [
        "--dataset is written --benchmark now.",
        "--option is written --dataset-option now.",
        "--multimask is written --executor FAMILY,multimask=best now.",
    ]
    results = [(tmp_path / name / "validate.json").read_text() for name in ("old", "new")]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Give --benchmark"),
        (
            ["--benchmark", "synthetic-aerial:test", "--executor", "own-masks"],
            "no executor family 'own-masks'",
        ),
        (["--benchmark", "synthetic-aerial"], "names no split"),
        (["--benchmark", "synthetic-aerial:test", "--oracle", "bx"], "Did you mean 'box'"),
        (["--benchmark", "synthetic-aerial:test", "--dataset-option", "scenes"], "KEY=VALUE"),
        (["--benchmark", "synthetic-aerial:test", "--executor", "box", "--executor", "box"], "twice"),
    ],
)
def test_validate_mistakes(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        validation.run(parse(validation, words))


def test_workload_is_reproducible_and_in_frame() -> None:
    options = {"images": 3, "side": 96, "group": 4, "most_instances": 3}
    one, other, different = (
        make_workload("synthetic-aerial", "val", **options, seed=seed) for seed in (0, 0, 1)
    )
    assert one.prompts == other.prompts != different.prompts
    assert (len(one.images), one.completions) == (3, 12)
    assert one.images[0].shape == (96, 96, 3)
    sets = [prompt_set for group in one.prompts for prompt_set in group]
    assert {len(prompt_set) for prompt_set in sets} <= {1, 2, 3}
    for prompt_set in sets:
        for instance in prompt_set.instances:
            assert instance.box is not None
            assert min(instance.box) >= 0
            assert max(instance.box) <= 96


def test_bench_counts_what_it_says() -> None:
    workload: Workload = make_workload(
        "synthetic-aerial", "val", images=3, side=96, group=4, most_instances=3, seed=0
    )
    result = bench_executor(ExecutorConfig(family="box"), workload, peer_images=1, repeats=1)
    assert result["workload"]["instances"] == workload.instances
    assert result["phases"]["cold"]["instances"] == workload.instances
    assert result["phases"]["peers"]["completions"] == 4
    assert result["agreement"]["different_pixels"] == 0
    assert result["counters"]["encodes"] == 3
    ratios = result["ratios"]
    phases = result["phases"]
    expected = phases["peers"]["seconds_per_image"] / phases["warm"]["seconds_per_image"]
    assert ratios["warm_over_peers"] == pytest.approx(expected)
    json.dumps(result)
    assert "decode-only limit" in bench_text(result)


@pytest.mark.parametrize("save", [save_sam, save_sam2])
def test_peers_are_timed_in_both_types(save: Callable[[Path], ExecutorConfig], tmp_path: Path) -> None:
    config = save(tmp_path).model_copy(update={"dtype": "bfloat16"})
    workload = make_workload("synthetic-aerial", "val", images=2, side=64, group=2, most_instances=1, seed=0)
    result = bench_executor(config, workload, peer_images=1, repeats=1)
    phases, ratios = result["phases"], result["ratios"]
    for peers in ("peers", "peers_in_our_dtype"):
        expected = phases[peers]["seconds_per_image"] / phases["cold"]["seconds_per_image"]
        assert ratios[f"cold_over_{peers}"] == pytest.approx(expected)
    text = bench_text(result)
    assert "x the peers' way, float32" in text
    assert "x the peers' way, our type" in text
    in_float32 = bench_executor(save(tmp_path), workload, peer_images=1, repeats=1)
    assert "peers_in_our_dtype" not in in_float32["phases"]
    assert "our type" not in bench_text(in_float32)


@pytest.mark.parametrize("save", [save_sam, save_sam2])
def test_the_peers_models_compute_in_the_type_asked_for(
    save: Callable[[Path], ExecutorConfig], tmp_path: Path
) -> None:
    config = save(tmp_path)
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    answers = {}
    for dtype in ("float32", "bfloat16"):
        predictor = reference_predictor(config, dtype)
        kinds = {p.dtype for p in predictor.predictor.model.image_encoder.parameters()}
        assert kinds == {getattr(torch, dtype)}
        if config.family == "sam2":  # else rounding decides which of its masks is read
            predictor.predictor.model.sam_mask_decoder.dynamic_multimask_via_stability = False
        predictor.set_image(image)
        answers[dtype] = predictor.predict(Instance(box=(8, 8, 40, 50)))[2]
        assert answers[dtype].dtype == np.float32
    exact, rough = answers["float32"], answers["bfloat16"]
    assert 0 < np.abs(rough - exact).mean() < 0.25 * exact.std()


def test_bench_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["executor", "--executor", "box", "--benchmark", "synthetic-aerial:val", "--images", "2"]
    words += ["--side", "64", "--group", "2", "--peer-images", "1", "--json", str(tmp_path / "bench.json")]
    assert bench.run(parse(bench, words)) == 0
    assert "peers' way" in capsys.readouterr().out
    assert json.loads((tmp_path / "bench.json").read_text())["executor"]["family"] == "box"
    words[2:5] = [
        "box,cache_dtype=int8",
        "--benchmark",
        "synthetic-aerial:val",
        "--dataset-option",
        "scenes=2",
    ]
    with pytest.raises(UserError, match="has 2 distinct images, but --images asks for 3"):
        bench.run(parse(bench, [*words, "--images", "3"]))
    with pytest.raises(UserError, match="--group must be at least 1"):
        bench.run(parse(bench, ["executor", "--group", "0"]))
