"""Every dataset layout through `prompter eval`: finished, re-scored, killed and resumed.

Once with an oracle and filled boxes under every protocol, and once with the shipped policy and
MobileSAM, each in a process of its own that is killed with `kill -9`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from envs.datasets import open_dataset
from envs.rollout import Rollout
from eval.protocols import PROTOCOLS
from prompter.errors import UserError
from prompter.runs.jsonl import drop_unfinished_line, read_lines
from recipes.commands import eval as eval_command
from rewards.replay import read_rollouts
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.layouts import FIXTURES, Fixture
from tests.fixtures.runs import command, contents

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("small_heap")]

ALL_PROTOCOLS = ",".join(PROTOCOLS)
WITH_MODELS = [
    pytest.param(name, marks=() if name == "earthreason-nested" else pytest.mark.soak)
    for name in sorted(FIXTURES)
    if os.environ.get("PROMPTER_ALL_LAYOUTS") or name in ("earthreason-nested", "refcoco", "vrsbench")
]
"""Layouts that a policy and MobileSAM answer too: half a minute each, so all only when asked to."""
PRELOADED = [
    "datasets",
    "envs.executors.families.mobile_sam",
    "recipes.commands.eval",
    "prompter.sampling.huggingface",
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
    "transformers.models.qwen3_vl.processing_qwen3_vl",
]


@pytest.fixture()
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the tables that `datasets` makes of parquet files."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    return tmp_path / "hub"


def opened(fixture: Fixture, root: Path) -> tuple[list[object], list[str]]:
    """Write a fixture; return the words that name it to `prompter eval`, and its sample ids."""
    options = fixture.build(root)
    expected = [sample.sample_id for sample in open_dataset(fixture.name, fixture.split, **options)]
    assert len(expected) >= 20
    words: list[object] = ["--benchmark", f"{fixture.name}:{fixture.split}", "--chunk", 8]
    words += ["--protocol", ALL_PROTOCOLS]
    for name, value in options.items():
        words += ["--dataset-option", f"{name}={value}"]
    return words, expected


def are_degenerate(rollouts: list[Rollout]) -> int:
    """How many targets are boxes without an area, which nothing can match."""
    return sum(rollout.tags.get("box") == "degenerate" for rollout in rollouts)


@pytest.mark.parametrize("key", sorted(FIXTURES))
def test_oracle_and_filled_boxes(key: str, tmp_path: Path, hub_cache: Path) -> None:
    words, expected = opened(FIXTURES[key], tmp_path / "data")
    out = tmp_path / "run"
    words += ["--policy", "baseline:oracle-box-point", "--executor", "box", "--out", out]
    assert command(eval_command, *words) == 0
    rollouts = list(read_rollouts(out / "rollouts" / "box.jsonl"))
    assert [rollout.sample_id for rollout in rollouts] == expected

    results = json.loads((out / "results.json").read_text())["box"]
    assert results["queries"] == len(expected) and results["executor_failures"] == 0
    strict = {name: metric["value"] for name, metric in results["protocols"]["strict"]["metrics"].items()}
    assert strict["parse-failures"] == 0.0
    assert strict["T-acc"] == 1.0 and strict["N-acc"] in (None, 1.0)
    if any(rollout.target is not None for rollout in rollouts):
        assert strict["gIoU"] > 0.3  # boxes filled: far from perfect, far from nothing
    else:
        found = 1 - are_degenerate(rollouts) / len(rollouts)
        assert strict["gIoU"] is None and strict["box-acc@0.5"] == pytest.approx(found)

    assert command(eval_command, "--rescore", "--protocol", ALL_PROTOCOLS, "--out", out) == 0
    assert json.loads((out / "results.json").read_text())["box"] == results
    before = contents(out)
    for path in (out / "completions.jsonl", out / "rollouts" / "box.jsonl"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert command(eval_command, *words) == 0
    assert contents(out) == before


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MobileSAM's real weights, and one folder of embeddings for all layouts: many share pictures."""
    from envs.executors.families.mobile_sam import fetch_weights

    try:
        fetch_weights()
    except UserError as error:
        pytest.skip(f"the real weights cannot be fetched here: {error}")
    return f"mobile-sam,cache_disk_mb=4000,cache_dir={tmp_path_factory.mktemp('embeddings')}"


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts processes that have the heavy imports behind them, but no model and no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def evaluate_alone(words: list[str], hub_cache: Path) -> None:
    """What such a process does."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = hub_cache
    raise SystemExit(command(eval_command, *words))


@contextmanager
def started(
    processes: ForkServerContext, words: list[object], hub_cache: Path
) -> Iterator[ForkServerProcess]:
    """A process that evaluates; killed at the end if it still runs."""
    process = processes.Process(target=evaluate_alone, args=([str(word) for word in words], hub_cache))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that answers with boxes whatever it sees; the shipped one declines most of these pictures."""
    folder = tmp_path_factory.mktemp("boxes")
    save_formatted_policy(folder)
    return folder


@pytest.mark.parametrize("key", WITH_MODELS)
def test_a_policy_and_mobile_sam(
    key: str, tmp_path: Path, hub_cache: Path, segmenter: str, boxes: Path, processes: ForkServerContext
) -> None:
    words, expected = opened(FIXTURES[key], tmp_path / "data")
    words += ["--policy", str(boxes), "--policy-option", "sampler.backend=hf"]
    words += ["--executor", segmenter, "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    with started(processes, [*words, whole], hub_cache) as process:
        process.join()
        assert process.exitcode == 0
    rollouts = list(read_rollouts(whole / "rollouts" / "mobile-sam.jsonl"))
    assert [rollout.sample_id for rollout in rollouts] == expected
    assert len({str(rollout.prediction) for rollout in rollouts}) > 1
    assert any(rollout.predicted_ious for rollout in rollouts), "the segmenter was never asked"
    results = json.loads((whole / "results.json").read_text())["mobile-sam"]
    assert results["queries"] == len(expected) and results["executor_failures"] == 0
    assert results["mean_tokens"] > 1 and results["mean_executor_score"] is not None
    before = contents(whole)
    assert command(eval_command, "--rescore", "--protocol", ALL_PROTOCOLS, "--out", whole) == 0
    assert contents(whole) == before

    stored = killed / "rollouts" / "mobile-sam.jsonl"
    with started(processes, [*words, killed], hub_cache) as process:
        while process.is_alive() and not (stored.exists() and stored.stat().st_size):
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run was over before it could be killed"
    drop_unfinished_line(stored)
    assert 0 < len(list(read_lines(stored))) < len(expected), "killed too late to show anything"
    with started(processes, [*words, killed], hub_cache) as process:
        process.join()
        assert process.exitcode == 0
    assert contents(killed) == before
