"""Whole runs whose windows are sampled ahead: versions, prompts, order, evaluation in between, and resuming.

The engines are stood in for by a copy of the policy in this process, which gets its adapters as they do.
`tests/smoke/test_overlap.py` runs the same with Ray.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from prompter.chat import SamplingRequest
from prompter.checkpoint import Checkpoint
from prompter.errors import RunStopped
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from prompter.sampling.base import SamplingSettings
from prompter.sampling.huggingface import HuggingFaceSampler
from prompter.types import Completion
from recipes.config import TrainConfig
from recipes.grpo import train
from recipes.training.ahead import FILE, THREAD
from recipes.training.log import TrainingLog
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.toy_task import save_manifest

STEPS = 5


class Elsewhere(HuggingFaceSampler):
    """A copy of the policy, as engines have one; notes on which thread and from which version it samples."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.busy = threading.Lock()
        self.seen: list[tuple[str, int]] = []

    def sample(
        self, requests: Sequence[SamplingRequest], settings: SamplingSettings, *, logprobs: bool = False
    ) -> list[list[Completion]]:
        """See `Sampler.sample`; for one caller at a time, as a pool of engines is."""
        assert self.busy.acquire(blocking=False), "two callers at once"
        try:
            self.seen.append((threading.current_thread().name, self.version))
            return super().sample(requests, settings, logprobs=logprobs)
        finally:
            self.busy.release()

    def sync_adapter(self, adapter: Path, version: int) -> None:
        """See `Sampler.sync_adapter`; the weights never change while a window is sampled."""
        assert not self.busy.locked(), "weights were changed under a window"
        super().sync_adapter(adapter, version)


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch, policy: Checkpoint) -> Iterator[list[Elsewhere]]:
    """The samplers that were opened in a test."""
    opened: list[Elsewhere] = []

    def open_sampler(*args: Any, **options: Any) -> Elsewhere:
        opened.append(Elsewhere.from_policy(policy))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr("prompter.sampling.open_sampler", open_sampler)
    monkeypatch.setattr("prompter.runs.ray_runtime.ensure_ray", lambda *args, **options: None)
    yield opened


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_formatted_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_manifest(tmp_path_factory.mktemp("squares"), 16)


def config_of(
    policy: Checkpoint, manifest: Path, folder: Path, staleness: int, **trainer: Any
) -> TrainConfig:
    """Windows of one optimiser step and four prompts; four windows are an epoch."""
    return TrainConfig.model_validate(
        {
            "run_dir": str(folder),
            "policy": {"model": policy.source, "dtype": "float32", "lora": {"r": 4, "alpha": 8}},
            "dataset": {"name": "manifest", "options": {"path": str(manifest)}},
            "eval": {"samples": 4, "every_steps": 2},
            "executor": {"family": "box"},
            "sampler": {"backend": "ray"},
            "overlap": {"staleness": staleness},
            "group": {"zero_spread": "resample", "memory": "image"},
            "trainer": {
                "use_cpu": True,
                "bf16": False,
                "gradient_checkpointing": False,
                "per_device_train_batch_size": 16,
                "num_generations": 4,
                "max_steps": STEPS,
                "learning_rate": 5e-3,
                "save_steps": 1,
                **trainer,
            },
        }
    )


def told(folder: RunFolder, *left_out: str) -> list[dict[str, Any]]:
    """Logged lines without what a clock said, and without where embeddings came from."""
    clocks = ("seconds", "step_time", "executor")
    return [
        {
            key: value
            for key, value in record.items()
            if key not in (*clocks, *left_out) and not key.startswith("train_")
        }
        for record in folder.read_metrics()
    ]


def up_to_rounding(value: Any) -> Any:
    """What equals a logged value of a run that summed the same numbers, floats aside in their last digits.

    MKL's sums depend on where in memory their operands begin, and what a sampler is given comes from NumPy,
    which aligns to 16 bytes: its log-probabilities of the same answers may differ by some 1e-6.
    """
    if isinstance(value, dict):
        return {key: up_to_rounding(one) for key, one in value.items()}
    if isinstance(value, list):
        return [up_to_rounding(one) for one in value]
    return pytest.approx(value, rel=1e-5, abs=5e-6) if isinstance(value, float) else value


def rollouts(folder: RunFolder) -> list[list[dict[str, Any]]]:
    return [list(read_lines(path)) for _, path in folder.step_rollouts()]


def test_without_learning_a_window_sampled_ahead_is_the_strict_one(
    policy: Checkpoint, manifest: Path, tmp_path: Path
) -> None:
    strict, ahead = (
        train(config_of(policy, manifest, tmp_path / name, staleness, learning_rate=0.0))
        for staleness, name in enumerate(("strict", "ahead"))
    )
    assert rollouts(strict) == rollouts(ahead) and len(rollouts(strict)) == STEPS
    different = ("sampler_version", "staleness")
    assert told(strict, *different) == up_to_rounding(told(ahead, *different))
    assert [one["staleness"] for one in strict.read_metrics("train")] == [0] * STEPS
    assert sum(one["recalled"] for one in ahead.read_metrics("train")) > 0, "and remembers the same answers"
    assert [one["staleness"] for one in ahead.read_metrics("train")] == [0, *[1] * (STEPS - 1)]


@pytest.fixture
def unbroken(
    policy: Checkpoint, manifest: Path, tmp_path: Path, engines: list[Elsewhere]
) -> tuple[RunFolder, list[Elsewhere]]:
    return train(config_of(policy, manifest, tmp_path / "unbroken", 1)), engines


def test_windows_ahead_and_a_run_that_is_broken_off_and_resumed(
    unbroken: tuple[RunFolder, list[Elsewhere]],
    policy: Checkpoint,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, (sampler,) = unbroken
    records = folder.read_metrics("train")
    # One version behind from the second window on, and the loss is told of it.
    assert [one["sampler_version"] for one in records] == [0, 0, 1, 2, 3]
    assert [one["trainer_version"] for one in records] == [0, 1, 2, 3, 4]
    assert records[0]["importance_ratio_mean"] == pytest.approx(1, abs=1e-3)
    assert max(abs(one["importance_ratio_max"] - 1) for one in records[1:]) > 0.01
    assert any(one["grad_norm"] > 0 for one in records[:2])
    # The first window on the trainer's thread, all others beside it, evaluations with new weights between.
    windows = [version for thread, version in sampler.seen if thread == THREAD]
    assert sorted(set(windows)) == [0, 1, 2, 3] and windows == sorted(windows)
    assert [one["step"] for one in folder.read_metrics("eval")] == [0, 2, 4, STEPS]
    assert sampler.version == STEPS
    # A window's questions follow from the seed and its number, ahead or not.
    strict = train(config_of(policy, manifest, tmp_path / "strict", 0, learning_rate=0.0))
    firsts = [[one["sample_id"] for one in window[:16]] for window in rollouts(folder)]
    assert firsts == [[one["sample_id"] for one in window[:16]] for window in rollouts(strict)]
    # The next window is sampled while the present one is trained on, as the timeline says.
    events = folder.read_timeline()
    sampled = {one["step"]: one for one in events if (one["phase"], one["who"]) == ("sample", THREAD)}
    trained = {one["step"]: one for one in events if (one["phase"], one["who"]) == ("optimise", "trainer")}
    assert sorted(sampled) == [2, 3, 4, 5] and set(trained) >= {1, 2, 3, 4, 5}
    assert any(sampled[step + 1]["start_s"] < trained[step]["end_s"] for step in (1, 2, 3, 4))
    assert all(sampled[step]["start_s"] < trained[step]["start_s"] for step in (2, 3, 4, 5))

    # Broken off while step 4 is logged: the checkpoint of step 3 holds the window of step 4.
    config = config_of(policy, manifest, tmp_path / "broken", 1)
    plain = TrainingLog.step

    def break_off(self: TrainingLog, step: int, *args: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt
        plain(self, step, *args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(TrainingLog, "step", break_off)
        train(config)
    broken = RunFolder(config.run_dir)
    saved = broken.checkpoints_dir / "checkpoint-3" / FILE
    assert next(read_lines(saved))["step"] == 4 and next(read_lines(saved))["sampler_version"] == 2
    resumed = train(config, resume=True)
    assert told(resumed) == up_to_rounding(told(folder))
    assert rollouts(resumed) == rollouts(folder)
    assert not (resumed.checkpoints_dir / f"checkpoint-{STEPS}" / FILE).exists(), "none after the last"
    assert yaml.safe_load(resumed.config_path.read_text())["overlap"]["staleness"] == 1


def test_a_run_stopped_while_weights_are_sent_keeps_the_window_that_was_sampled_ahead(
    unbroken: tuple[RunFolder, list[Elsewhere]],
    policy: Checkpoint,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(policy, manifest, tmp_path / "stopped", 1, save_steps=1000)
    plain = Elsewhere.sync_adapter

    def stopped(self: Elsewhere, adapter: Path, version: int) -> None:
        signal.raise_signal(signal.SIGTERM)
        plain(self, adapter, version)

    with monkeypatch.context() as patched, pytest.raises(RunStopped):
        patched.setattr(Elsewhere, "sync_adapter", stopped)
        train(config)
    saved = RunFolder(config.run_dir).checkpoints_dir / "checkpoint-1" / FILE
    assert next(read_lines(saved))["step"] == 2 and next(read_lines(saved))["sampler_version"] == 0
    resumed, (whole, _) = train(config, resume=True), unbroken
    assert told(resumed) == up_to_rounding(told(whole))
    assert rollouts(resumed) == rollouts(whole)
