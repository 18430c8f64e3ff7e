"""What several ranks may not be asked, what a launcher says to them, and what they tell each other."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from prompter.errors import RunStopped, UserError
from recipes.config import TrainConfig
from recipes.training.checkpoints import check_same_sharding, newest_checkpoint, write_ranks
from recipes.training.ranks.checks import check_launch, check_ranks
from recipes.training.ranks.launch import _cause
from recipes.training.ranks.world import (
    Ranks,
    no_rank_variables,
    open_ranks,
    process_group_backend,
    ranks_by_environment,
)


def config(**given: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {"run_dir": "run", "policy": {"model": "p"}, "dataset": {"name": "manifest"}, **given}
    )


@pytest.mark.parametrize(
    ("trainer", "ranks", "says"),
    [
        ({"fsdp": True, "use_cpu": True}, 2, "copy on every rank"),
        ({"deepspeed": "zero3.json", "use_cpu": True}, 2, "trainer.deepspeed is given together"),
        ({"fsdp": True}, 1, "set ranks.count"),
        ({"fsdp": "full_shard"}, 2, "only FSDP2"),
        ({"fsdp": True, "fsdp_config": {"fsdp_version": 1}}, 2, "only FSDP2"),
        ({"fsdp": True, "fsdp_config": "fsdp.json"}, 2, "must be a mapping"),
        ({"fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}}, 2, "FULL_STATE_DICT"),
        ({"fsdp": True, "fsdp_config": {"activation_checkpointing": True}}, 2, "the same twice"),
        ({"loss_type": "bnpo"}, 2, "bnpo divides by the tokens of each rank"),
    ],
)
def test_what_would_go_silently_wrong_is_refused(trainer: dict[str, Any], ranks: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_ranks(config(trainer=trainer), ranks)


def test_an_engine_in_the_process_of_a_rank_is_refused_and_the_rest_is_not() -> None:
    with pytest.raises(UserError, match=r"sampler\.backend vllm"):
        check_ranks(config(sampler={"backend": "vllm"}), 2)
    check_ranks(config(sampler={"backend": "vllm"}), 1)
    check_ranks(config(trainer={"fsdp": True, "gradient_checkpointing": False}), 2)
    check_ranks(config(trainer={"loss_type": "bnpo"}), 1)


def test_ranks_that_ray_starts_need_a_gpu_each_or_none() -> None:
    check_launch(config(ranks={"count": 2, "num_gpus": 1}))
    check_launch(config(ranks={"count": 2}, trainer={"use_cpu": True}))
    with pytest.raises(UserError, match=r"ranks\.num_gpus is 0"):
        check_launch(config(ranks={"count": 2}))
    with pytest.raises(UserError, match="leave one of them out"):
        check_launch(config(ranks={"count": 2, "num_gpus": 1}, trainer={"use_cpu": True}))
    with pytest.raises(UserError, match="needs a GPU for each rank"):
        check_launch(config(ranks={"count": 2, "backend": "nccl"}, trainer={"use_cpu": True}))


def test_backends() -> None:
    assert process_group_backend(config(), gpu=True) == "cpu:gloo,cuda:nccl"
    assert process_group_backend(config(ranks={"backend": "gloo"}), gpu=True) == "gloo"
    assert process_group_backend(config(trainer={"use_cpu": True}), gpu=True) == "gloo"
    assert process_group_backend(config(), gpu=False) == "gloo"


def test_what_a_launcher_says() -> None:
    assert ranks_by_environment({}) == (0, 1)
    assert ranks_by_environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == (3, 4)
    for wrong in (
        {"RANK": "4", "WORLD_SIZE": "4", "LOCAL_RANK": "0"},
        {"RANK": "one", "WORLD_SIZE": "4", "LOCAL_RANK": "0"},
        {"RANK": "0", "WORLD_SIZE": "0"},
        {"RANK": "0", "WORLD_SIZE": "4"},
        {"WORLD_SIZE": "4"},
    ):
        with pytest.raises(UserError, match="WORLD_SIZE"):
            ranks_by_environment(wrong)


def test_another_number_of_ranks_than_were_launched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="4 ranks were launched"), open_ranks(config(ranks={"count": 2})):
        pass
    with no_rank_variables():
        assert "WORLD_SIZE" not in os.environ
    assert os.environ["WORLD_SIZE"] == "4"


def test_alone_nothing_is_sent() -> None:
    ranks = Ranks()
    assert ranks.leads and ranks.tell(lambda: 3) == 3
    assert ranks.first(lambda: "x") == "x" and ranks.first(lambda: None) is None
    assert ranks.collect(5) == [5]
    with pytest.raises(RunStopped):
        ranks.tell(lambda: (_ for _ in ()).throw(RunStopped("SIGTERM")))


def test_what_a_rank_raised_is_told_rather_than_that_one_did() -> None:
    class Failed(Exception):
        worker_failures: ClassVar[dict[int, Exception]] = {
            0: ConnectionError("closed"),
            1: UserError("the picture is broken"),
        }

    assert isinstance(_cause(Failed()), UserError)
    assert "no worker" in str(_cause(RuntimeError("no worker")))


def checkpoint(
    folder: Path, step: int, files: list[str], count: int = 0, sharding: str | None = None
) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ["trainer_state.json", "scheduler.pt", *files]:
        (path / name).write_text("{}")
    if count:
        write_ranks(path, count, sharding)
    return path


def test_a_checkpoint_of_several_ranks_is_whole_with_the_last_ranks_file(tmp_path: Path) -> None:
    old = checkpoint(tmp_path, 1, ["optimizer.pt", "rng_state.pth"])
    unfinished = checkpoint(tmp_path, 2, ["optimizer.pt", "rng_state_0.pth"], 2)
    assert newest_checkpoint(tmp_path) == old
    (unfinished / "rng_state_1.pth").write_text("")
    assert newest_checkpoint(tmp_path) == unfinished
    newer = checkpoint(tmp_path, 3, ["rng_state_0.pth", "rng_state_1.pth"], 2, "fsdp")
    assert newest_checkpoint(tmp_path) == unfinished, "no optimiser"
    (newer / "optimizer.bin").write_text("")
    assert newest_checkpoint(tmp_path) == newer
    check_same_sharding(newer, "fsdp")
    check_same_sharding(old, "fsdp")  # of before ranks: nothing is known
    check_same_sharding(None, None)
    with pytest.raises(UserError, match=r"by ranks with trainer\.fsdp, .* with a copy"):
        check_same_sharding(newer, None)
    with pytest.raises(UserError, match=r"with a copy of the model each, .* with trainer\.fsdp"):
        check_same_sharding(unfinished, "fsdp")


def test_two_ranks_hear_what_rank_0_found_and_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads stand for two processes, and a barrier for gloo."""
    import torch.distributed as dist

    heard: dict[int, list[Any]] = {0: [], 1: []}
    barrier = threading.Barrier(2)
    boxes: dict[str, Any] = {}

    def broadcast(box: list[Any], src: int, group: Any) -> None:
        if group == 0:
            boxes["sent"] = box[0]
        barrier.wait(30)
        box[0] = boxes["sent"]
        barrier.wait(30)

    def gather(values: list[Any], value: Any, group: Any) -> None:
        boxes[f"value {group}"] = value
        barrier.wait(30)
        values[:] = [boxes["value 0"], boxes["value 1"]]
        barrier.wait(30)

    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    monkeypatch.setattr(dist, "all_gather_object", gather)

    class Unpicklable(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__("only text")

    def rank(number: int) -> None:
        ranks = Ranks(number, 2, number)
        heard[number].append(ranks.tell(lambda: {"from": number}))
        heard[number].append(ranks.first(lambda: f"kept on {number}"))
        heard[number].append(ranks.collect(number * 10))
        for error in (UserError("a sentence"), RunStopped("SIGTERM"), Unpicklable(1, 2)):
            try:
                ranks.tell(lambda error=error: (_ for _ in ()).throw(error))
            except BaseException as found:
                heard[number].append(f"{type(found).__name__}: {found}")

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    common = [{"from": 0}, [0, 10], "UserError: a sentence", "RunStopped: SIGTERM"]
    for number, kept in ((0, "kept on 0"), (1, None)):
        found = list(heard[number])
        assert found.pop(1) == kept
        assert found[:4] == common
    assert heard[0][-1] == "Unpicklable: only text"
    assert heard[1][-1] == "RuntimeError: Unpicklable: only text"
