"""Trackers against their real libraries, offline: what a run logs is there when it is read back.

trackio is held against a stand-in with the calls of trackio 0.43: it needs another pillow than is pinned.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from envs.datasets import open_dataset
from envs.executors import ExecutorConfig, open_executor
from envs.masks import encode_rle
from envs.rollout import Rollout
from envs.rollouts import make_rollouts
from prompter.errors import UserError
from prompter.runs.jsonl import write_lines
from prompter.runs.run_folder import RunFolder
from prompter.types import Answer, Instance, PromptSet
from recipes.training.trackers import SIDE, TRACKERS, Mirror, check_trackers, parted
from tests.fixtures.trackers import mirrored, read_events

LINES: list[dict[str, Any]] = [
    {"kind": "eval", "step": 0, "gIoU": 0.25, "gIoU_interval": [0.125, 0.5], "against_best": None},
    {"kind": "train", "step": 1, "loss": -0.5, "grad_norm": None, "seconds": {"sample": 1.5, "wait": 0}},
    {"kind": "alarm/spread", "step": 1, "says": "nothing is left to learn from"},
    {"kind": "train", "step": 2, "loss": float("inf"), "parse_failure_kinds": {"not_json": 3}},
]


def log(folder: RunFolder, line: dict[str, Any]) -> None:
    rest = {key: value for key, value in line.items() if key not in ("step", "kind")}
    folder.log_metrics(line["step"], rest, kind=line["kind"])


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


def shown(mirror: Mirror, folder: RunFolder, step: int) -> None:
    """Have pictures of drawn scenes shown, the first eight of which were asked."""
    samples = open_dataset("synthetic-aerial", "val", scenes=20, queries_per_scene=1)  # 8 are asked
    rollouts = []
    for number in range(8):
        sample = samples[number]
        mask = np.zeros((sample.image_wh[1], sample.image_wh[0]), np.bool_)
        mask[10:50, 20:60] = True
        rollouts.append(rollout_of(sample, mask).to_json())
    write_lines(folder.path / "box.jsonl", rollouts)
    mirror.show(step, {"box": folder.path / "box.jsonl"}, samples)


def rollout_of(sample: Any, mask: np.ndarray) -> Rollout:
    executor = open_executor(ExecutorConfig(family="box"))
    answer = Answer("[]", PromptSet((Instance((20, 10, 60, 50)),)))
    [rollout] = make_rollouts([sample], [answer], executor, name="box")
    executor.close()
    assert rollout.prediction == encode_rle(mask)
    return rollout


def test_tensorboard_holds_every_figure_and_the_pictures(folder: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    log(folder, LINES[0])  # before the tracker is opened: it is mirrored as well
    mirror = Mirror(folder, ["tensorboard"])
    for line in LINES[1:]:
        log(folder, line)
    shown(mirror, folder, 2)
    mirror.close()
    log(folder, {"kind": "train", "step": 3, "loss": 1.0})  # closed: nobody follows
    events = read_events(folder.path / "trackers" / "tensorboard")
    assert events.scalars == mirrored(LINES)
    assert ("train/seconds/sample", 1) in events.scalars and ("eval/gIoU_interval/1", 0) in events.scalars
    assert events.pictures == {(f"eval/pictures/{number}", 2) for number in (0, 2, 4, 6)}
    assert set(events.sizes.values()) == {(SIDE, SIDE)}


def test_a_resumed_run_hides_what_was_written_after_its_checkpoint(folder: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    mirror = Mirror(folder, ["tensorboard"])
    for step, loss in ((1, 1.0), (2, 2.0), (3, 3.0)):
        log(folder, {"kind": "train", "step": step, "loss": loss})
    mirror.close()
    folder.truncate_to_step(1)
    again = RunFolder(folder.path)
    mirror = Mirror(again, ["tensorboard"], done=1)
    log(again, {"kind": "train", "step": 2, "loss": 20.0})
    mirror.close()
    events = read_events(folder.path / "trackers" / "tensorboard")
    assert events.scalars == {("train/loss", 1): 1.0, ("train/loss", 2): 20.0}


def log_records(content: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format: blocks of 32 KiB, each part with checksum, length and kind."""
    place, parts = 7, b""  # wandb's own header is part of the first block
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def wandb_history(file: Path) -> list[dict[str, Any]]:
    """The logged lines in an offline run's file: records of wandb, in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    lines = []
    for data in log_records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            lines.append({one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items})
    return lines


def test_wandb_offline_holds_every_figure(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    mirror = Mirror(folder, ["wandb"])
    for line in LINES:
        log(folder, line)
    shown(mirror, folder, 2)
    mirror.close()
    wandb.teardown()  # the service ends, and with it the writing; as at the end of a process
    [file] = (folder.path / "trackers" / "wandb").rglob("*.wandb")
    lines = wandb_history(file)
    found = {
        (name, line["step"]): np.float32(value)
        for line in lines
        for name, value in line.items()
        if isinstance(value, int | float) and not name.startswith(("_", "eval/pictures/")) and name != "step"
    }
    assert found == mirrored(LINES)
    pictures = [name for line in lines for name in line if name.startswith("eval/pictures/")]
    assert len({name.split("/")[2] for name in pictures}) == len(list(file.parent.rglob("*.png"))) == 4


class FakeTrackio(SimpleNamespace):
    """The calls of trackio that are made."""

    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.began: dict[str, Any] = {}
        self.ended = False

    def init(self, **options: Any) -> None:
        self.began = options

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((values, step))

    def Image(self, image: Image.Image, caption: str) -> str:
        return f"{image.size} {caption}"

    def finish(self) -> None:
        self.ended = True


def test_trackio_is_given_every_figure_and_the_pictures(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake)  # type: ignore[arg-type]
    mirror = Mirror(folder, ["trackio"])
    for line in LINES:
        log(folder, line)
    shown(mirror, folder, 2)
    mirror.close()
    assert fake.began == {"project": "prompter", "name": "run", "resume": "allow"} and fake.ended
    numbers = {
        (name, step): np.float32(value)
        for values, step in fake.logged
        for name, value in values.items()
        if not isinstance(value, str)
    }
    assert numbers == mirrored(LINES)
    assert sum(isinstance(value, str) for values, _ in fake.logged for value in values.values()) == 4


def test_a_tracker_that_fails_is_told_once_and_the_others_go_on(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(TRACKERS["trackio"]):  # type: ignore[misc,name-defined]
        def figures(self, step: int, values: Any) -> None:
            raise OSError("no network")

    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake)  # type: ignore[arg-type]
    monkeypatch.setitem(TRACKERS, "broken", Broken)
    mirror = Mirror(folder, ["broken", "trackio"])
    for line in LINES:
        log(folder, line)
    mirror.close()
    told = capsys.readouterr().err
    assert told.count("trainer.report_to broken failed (OSError: no network)") == 1
    assert len(fake.logged) == 3 and len(folder.read_metrics()) == 4


@pytest.mark.parametrize(
    ("given", "ours", "theirs"),
    [
        ("none", [], ["none"]),
        (None, [], "none"),
        ("tensorboard", ["tensorboard"], "none"),
        (["wandb", "mlflow"], ["wandb"], ["mlflow"]),
    ],
)
def test_trl_gets_what_is_not_ours(given: Any, ours: list[str], theirs: Any) -> None:
    assert parted(given) == (ours, theirs)


def without(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]


def test_what_cannot_be_opened_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    pytest.importorskip("wandb")
    with pytest.raises(UserError, match="set WANDB_API_KEY, or WANDB_MODE=offline"):
        check_trackers("wandb")
    without("tensorboard")(monkeypatch)
    with pytest.raises(UserError, match=r"prompter-rl\[trackers\]"):
        check_trackers(["tensorboard"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install trackio"):
        check_trackers("trackio")
    check_trackers("none")
