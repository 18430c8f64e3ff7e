"""Two trainer ranks on CPUs beside one: the same losses, gradients, figures and weights, copies or shards.

The ranks are started as torchrun starts them, once for all runs. `test_ranks_ray.py` has Ray Train's.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prompter.errors import UserError
from recipes.training.checkpoints import newest_checkpoint, step_of
from tests.fixtures.compared_runs import Runs, differences, moved, say
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.ranks import PROMPTER, copy_run, run_ranks, start_ranks, wait_ranks

STEPS, SAVED = 5, 3  # a run resumed at SAVED goes on within the second epoch, and into a third
SHARDED = {"use_cpu": False, "fsdp": True}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("ranks")
    made = Runs(folder, save_formatted_policy(folder / "policy"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield made
        torch.set_num_threads(threads)


ODD = {"group": 3, "trainer": {"max_steps": 3}}
MEAN_OVER_ROWS = {"group": 3, "trainer": {"max_steps": 3, "loss_type": "dr_grpo"}}
FULL = {"lora": False, "trainer": {"max_steps": 2, "learning_rate": 1e-3}}


@pytest.fixture(scope="module")
def two(runs: Runs) -> dict[str, list[str]]:
    """Name of a run of two ranks -> the error of each rank."""

    def sharded(name: str, **given: Any) -> dict[str, Any]:
        trainer = {**given.pop("trainer", {}), **SHARDED}
        return {"config": runs.config(name, 2, trainer=trainer, **given), "fsdp": True}

    wanted: dict[str, dict[str, Any]] = {
        "copies": {"config": runs.config("copies", 2)},
        "copies-resumed": {
            "config": runs.config("copies-resumed", 2),
            "resume": True,
            "copy": [str(runs.path("copies")), SAVED, str(runs.path("copies-resumed"))],
        },
        "copies-full": {"config": runs.config("copies-full", 2, **FULL)},
        "copies-odd": {"config": runs.config("copies-odd", 2, **ODD)},
        "copies-rows": {"config": runs.config("copies-rows", 2, **MEAN_OVER_ROWS)},
        # A pass holds one prompt: ranks call the model differently often, and shards have to agree.
        "copies-passes": {
            "config": runs.config("copies-passes", 2, trainer={"max_steps": 3}),
            "pass_tokens": 1,
        },
        "shards": {**sharded("shards", trainer={"max_steps": 3}), "pass_tokens": 1},
        "shards-resumed": {
            **sharded("shards-resumed", trainer={"max_steps": 3}),
            "resume": True,
            "copy": [str(runs.path("shards")), 2, str(runs.path("shards-resumed"))],
        },
        "shards-full": sharded("shards-full", **FULL),
        "failing": {
            "config": runs.config("failing", 2, rewards={"tests.fixtures.ranks:reward_that_fails": 1.0})
        },
        "silently-copies": {"config": runs.config("silently-copies", 2, trainer={"fsdp": True})},
    }
    return dict(zip(wanted, run_ranks(runs.folder, list(wanted.values())), strict=True))


@pytest.mark.parametrize(
    ("name", "given"),
    [("copies", {}), ("copies-full", FULL), ("copies-odd", ODD), ("copies-rows", MEAN_OVER_ROWS)],
)
def test_two_ranks_train_as_one(
    runs: Runs, two: dict[str, list[str]], name: str, given: dict[str, Any]
) -> None:
    assert two[name] == ["", ""]
    runs.one(f"one-{name}", **given)
    weights = say(f"{name}, one | two ranks", runs, f"one-{name}", name)
    assert weights < 2e-3 and weights < 0.1 * moved(runs, name)
    first = runs.metrics(f"one-{name}")[:1], runs.metrics(name)[:1]
    assert max(differences(*first).values()) < 1e-3, differences(*first)
    assert runs.rollouts(name)[1] == runs.rollouts(f"one-{name}")[1]
    if given.get("group") == 3:
        trained = {record["groups_trained_on"] % 2 for record in runs.metrics(name)}
        assert 1 in trained, "rows that two ranks cannot share equally were in the run"


@pytest.mark.parametrize(("sharded", "whole"), [("shards", "copies-passes"), ("shards-full", "copies-full")])
def test_shards_train_as_copies(runs: Runs, two: dict[str, list[str]], sharded: str, whole: str) -> None:
    assert two[sharded] == ["", ""]
    steps = len(runs.metrics(sharded))
    # How far the policy has come is not measured where the model is divided.
    found = differences(runs.metrics(whole)[:steps], runs.metrics(sharded), without=["drift"])
    weights = say(f"{sharded}, DDP | FSDP2", runs, whole, sharded)
    assert weights < 1e-4 and weights < 0.01 * moved(runs, whole)
    assert max(found["loss"], found["grad_norm"]) < 1e-4, found
    assert runs.rollouts(sharded)[1] == runs.rollouts(whole)[1]
    difference = max(record["sampling/sampling_logp_difference/mean"] for record in runs.metrics(sharded))
    assert difference < 1e-3, "the sampler's own copy of the model follows the shards"
    assert moved(runs, sharded) > 1e-4


@pytest.mark.parametrize(
    ("resumed", "unbroken"), [("copies-resumed", "copies"), ("shards-resumed", "shards")]
)
def test_a_resumed_run_goes_on_as_if_unbroken(
    runs: Runs, two: dict[str, list[str]], resumed: str, unbroken: str
) -> None:
    assert two[resumed] == ["", ""]
    assert runs.rollouts(resumed) == runs.rollouts(unbroken)
    assert max(differences(runs.metrics(resumed), runs.metrics(unbroken)).values()) < 1e-4
    weights = say(f"{resumed}, resumed | unbroken", runs, resumed, unbroken)
    assert weights < 1e-5


def test_one_rank_goes_on_from_a_checkpoint_of_two(runs: Runs, two: dict[str, list[str]]) -> None:
    assert two["copies"] == ["", ""]
    copy_run(runs.path("copies"), SAVED, runs.path("alone"))
    runs.one("alone", resume=True)
    weights = say("checkpoint of two ranks, on one | on two", runs, "alone", "copies")
    assert weights < 2e-3
    assert runs.rollouts("alone")[SAVED + 1] == runs.rollouts("copies")[SAVED + 1]
    copy_run(runs.path("copies"), SAVED, runs.path("larger"))
    with pytest.raises(UserError, match=r"completions in a window .* was 16 and is now 32"):
        runs.one("larger", resume=True, trainer={"per_device_train_batch_size": 32})
    copy_run(runs.path("shards"), 2, runs.path("whole"))
    with pytest.raises(UserError, match=r"written by ranks with trainer\.fsdp"):
        runs.one("whole", resume=True)


def test_what_goes_wrong_on_rank_0_ends_all_ranks_with_its_sentence(two: dict[str, list[str]]) -> None:
    for error in two["failing"]:
        assert error.startswith("UserError: the labels of ") and error.endswith("give theirs")


def test_fsdp_that_would_silently_train_copies_is_refused(two: dict[str, list[str]]) -> None:
    for error in two["silently-copies"]:
        assert error.startswith("UserError: trainer.fsdp is given together with trainer.use_cpu")


def test_a_signal_to_one_rank_saves_and_ends_all_with_0(runs: Runs, tmp_path: Path) -> None:
    """Rank 1 hears it, as from a scheduler that ends one machine; the others learn of it between windows."""
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(runs.config("stopped", 2, trainer={"max_steps": 200})))
    ranks = start_ranks(2, *PROMPTER, "train", config)
    deadline = time.monotonic() + 200
    while len(runs.metrics("stopped")) < 2:
        assert time.monotonic() < deadline and all(rank.process.poll() is None for rank in ranks)
        time.sleep(0.02)
    ranks[1].process.send_signal(signal.SIGTERM)
    ended = wait_ranks(ranks)
    assert [status for status, _, _ in ended] == [0, 0], ended
    saved = step_of(newest_checkpoint(runs.path("stopped") / "checkpoints"))
    assert 2 <= saved < 200 and saved == len(runs.metrics("stopped"))
    assert f"SIGTERM: stopped with {saved} optimiser steps saved" in ended[0][1] and ended[1][1] == ""
