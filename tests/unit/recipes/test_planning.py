"""Parts of a plan that need no model: layout, phases, micro-batches, rates and time."""

from __future__ import annotations

from pathlib import Path

import pytest

from prompter.errors import UserError
from recipes.config import load_config
from recipes.planning.advice import with_changes
from recipes.planning.layers import Curve
from recipes.planning.parts import Item, Part, Request, lay_out
from recipes.planning.rates import Rates, plan_time, rates_of_run, read_rates
from recipes.planning.services import segmenter_items, segmenter_size
from recipes.planning.shapes import SHAPES, known_config, shape_name
from recipes.planning.trainer import micro_batch
from tests.fixtures.planning import on_gpu
from tests.fixtures.training import write_config


def test_names_of_known_shapes_are_found_whoever_owns_the_copy() -> None:
    assert shape_name("qwen2.5-vl-3b") == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert shape_name("someone/Qwen3-VL-4B-Thinking") == "Qwen/Qwen3-VL-4B-Instruct"
    assert shape_name("Qwen/Qwen2.5-VL-72B-Instruct") is None
    assert {known_config(name).model_type for name in SHAPES} == {
        "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5",
    }  # fmt: skip


def test_a_curve_goes_through_its_points() -> None:
    curve = Curve.through(tuple(7 + 3 * x + 2 * x**2 for x in (192, 384, 768)))  # type: ignore[arg-type]
    assert curve(1000) == pytest.approx(7 + 3000 + 2e6)
    assert curve(1000, rows=2) == pytest.approx(7 + 2 * (3000 + 2e6))


def test_a_group_shares_its_prompt_in_a_micro_batch() -> None:
    config = on_gpu("Qwen/Qwen2.5-VL-3B-Instruct")
    packed = micro_batch(config, 1000, 100, packed=True)
    assert (packed.rows, packed.packs, packed.length) == (16, 1, 999 + 16 * 101)
    plain = micro_batch(config, 1000, 100, packed=False)
    assert (plain.packs, plain.length, plain.labelled) == (16, 1100, 1600)
    mixed = with_changes(config, {"trainer.gradient_accumulation_steps": 8})
    assert micro_batch(mixed, 1000, 100, packed=True).packs == 8


def test_ray_puts_processes_where_they_just_fit() -> None:
    part = {name: Part(name, (Item("x", 1),)) for name in ("trainer", "engine", "segmenter")}
    wanted = [Request(part["engine"], 0.8), Request(part["segmenter"], 0.2)]
    names = [[p.name for p in card] for card in lay_out(wanted, part["trainer"], None)]
    assert names == [["trainer"], ["engine", "segmenter"]]
    assert [len(card) for card in lay_out(wanted, part["trainer"], 1)] == [3]
    assert len(lay_out([Request(part["engine"], 0.6)] * 3, None, 2)) == 3


def test_a_part_takes_what_its_worst_phase_takes() -> None:
    part = Part("trainer", (Item("a", 5), Item("b", 7, phase="train"), Item("c", 4, phase="sample")))
    assert (part.peak, part.peak_phase) == (12, "train")
    assert part.phases == {"train": 12, "sample": 9}
    steady = Part("engine", (Item("a", 5), Item("b", 7)))
    assert (steady.peak, steady.peak_phase) == (12, "")


def test_segmenters_are_known_by_family_and_model() -> None:
    executor = on_gpu("Qwen/Qwen2.5-VL-3B-Instruct").executor
    assert not isinstance(executor, list)
    assert segmenter_size(executor)[1] == "hiera-small"
    bounded = {item.name: item.size for item in segmenter_items(executor, 10)}
    free = {item.name: item.size for item in segmenter_items(executor, None)}
    assert bounded["embeddings cache"] == 10 * 4 * (256 * 64**2 + 64 * 128**2 + 32 * 256**2)
    assert free["embeddings cache"] == executor.cache_memory_mb * 1e6


def test_time_follows_rates_and_workers() -> None:
    sampler = {"backend": "ray", "actors": 2, "num_gpus": 1}
    config = on_gpu("Qwen/Qwen2.5-VL-3B-Instruct", sampler=sampler)
    rates = Rates(
        completion_tokens=100,
        sample_tokens_per_second=1000,
        train_tokens_per_second=500,
        segment_seconds=0.01,
        sync_seconds=0.5,
    )
    time = plan_time(config, 1600, rates, gpus=3)
    assert time.seconds == {
        "sample": 1000 * 100 / 1000 / 2,
        "train": 1000 * (100 + 1600 / 16) / 500,
        "segment": 10.0,
        "sync": 1000 / 16 * 0.5,
    }
    assert time.gpu_hours == pytest.approx(time.total * 3 / 3600)
    assert time.completions == 160
    assert plan_time(config, 1600, Rates(), gpus=0).missing == [
        "sample_tokens_per_second", "train_tokens_per_second", "segment_seconds", "sync_seconds",
    ]  # fmt: skip


def test_rates_of_a_run_give_back_its_own_seconds(tmp_path: Path) -> None:
    from prompter.runs.run_folder import RunFolder

    small = load_config(write_config(tmp_path / "config.yaml", tmp_path))
    folder = RunFolder.create(tmp_path / "measured")
    folder.write_config(small.model_dump(mode="json"))
    for number, seconds in enumerate((99.0, 2.0, 4.0)):
        phases = {"sample": seconds, "segment": 1.0, "old_logprobs": 0.5, "optimise": 1.0, "sync": 0.25}
        folder.log_metrics(2 * number + 1, {"seconds": phases, "completions": 16, "completion_tokens": 20.0})
        folder.log_metrics(2 * number + 2, {"seconds": {"optimise": 0.5}})
    rates = rates_of_run(folder.path, prompt_tokens=80)
    time = plan_time(small, 80, rates, gpus=0)
    per_window = {phase: value * 16 / 1000 for phase, value in time.seconds.items()}
    assert per_window == pytest.approx({"sample": 3.0, "train": 2.0, "segment": 1.0, "sync": 0.25})
    assert time.gpu_hours is None


def test_rates_are_read_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text("segment_seconds: 0.02\n")
    assert read_rates(path) == Rates(segment_seconds=0.02)
    path.write_text("segment_second: 0.02\n")
    with pytest.raises(UserError, match="segment_second"):
        read_rates(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_rates(tmp_path / "none.yaml")
