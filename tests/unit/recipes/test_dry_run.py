"""`prompter train CONFIG --dry-run`: what it checks, and which of three states each thing is in."""

from __future__ import annotations

import re
import socket
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from envs.assets import NotFetched, fetch_package_file, nothing_fetched
from envs.datasets import open_dataset
from prompter.checkpoint import Checkpoint, load_policy
from prompter.coords import Frame
from prompter.errors import UserError
from prompter.types import Reading
from recipes.cli import main
from recipes.dry_run.data import round_trip
from recipes.dry_run.findings import Finding, NotHere, checked, table
from tests.fixtures.layouts import build_dior_rsvg
from tests.fixtures.training import write_config

SAMPLES = open_dataset("synthetic-aerial", "val", scenes=3)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a network, where nothing was fetched before."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a dry run opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("PROMPTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PROMPTER_DATA", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "train.yaml", Path("shipped:small-policy"))


def states(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and what -> (state, what is said) of the printed table."""
    capsys.readouterr()
    code = main(["train", *map(str, words), "--dry-run"])
    found: dict[str, tuple[str, str]] = {}
    what = ""
    for line in capsys.readouterr().out.splitlines():
        row = re.fullmatch(r"(\S.*?)  +(ok|not here|wrong) +(.*)", line)
        if row:
            what = row[1]
            found[what] = (row[2], row[3])
        elif line.startswith(" ") and what:
            found[what] = (found[what][0], f"{found[what][1]} {line.strip()}")
    return code, found


def test_a_run_that_can_start_is_ok_and_nothing_is_written(
    config: Path, offline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = states(capsys, config)
    assert code == 0
    assert {what for what, (state, _) in found.items() if state != "ok"} <= {"memory"}
    assert "2 prompts of 8 completions" in found["sizes"][1] and "64 completions" in found["sizes"][1]
    assert "12 samples" in found["training set"][1]
    assert "units of frame thousandths" in found["frame, training"][1]
    assert re.search(r"rank 4 on \d\d linear layers", found["adapters"][1])
    assert "has no weights" in found["segmenter"][1]
    assert [path.name for path in config.parent.iterdir()] == ["train.yaml"]


@pytest.mark.parametrize(
    ("override", "what", "says"),
    [
        ("policy.model=./nothing", "policy", "is no folder, and has not the form of a hub id"),
        ("policy.settings.image.side=130", "policy", "must be a multiple of 16"),
        ("policy.lora.target_modules=[q_porj]", "adapters", "Did you mean 'q_proj'?"),
        ("dataset.split=trai", "training set", "has no split 'trai'"),
        ("eval.split=valid", "held-out set", "has no split 'valid'"),
        ("executor={family: sam2, model: ./sam.pt}", "segmenter", "is no path that is here"),
        ("executor={family: sam2}", "segmenter", "needs `model`"),
        ("trainer.learning_rat=1", "trainer keys", "Did you mean 'learning_rate'?"),
        ("trainer.per_device_train_batch_size=256", "sizes", "gives 12 samples, but a step asks 32"),
        ("trainer.save_steps=3", "sizes", "must be a multiple of 2"),
        ("eval.references=[baseline:centre]", "references", "Did you mean 'baseline:centre-point'?"),
        ("rewards.mask=1", "rewards", "there is no reward 'mask'"),
        ("sampler={backend: ray, num_cpus: 4000}", "devices", "but this machine has 0 GPUs"),
    ],
)
def test_what_would_end_the_run_is_wrong(
    config: Path,
    offline: None,
    override: str,
    what: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key, _, value = override.partition("=")
    words = [f"--{key}={value}", *(["--trainer.num_iterations=2"] if "save_steps" in key else [])]
    code, found = states(capsys, config, *words)
    assert code == 2 and found[what][0] == "wrong"
    assert says in found[what][1].replace("\n", " ")
    assert [one for one, (state, _) in found.items() if state == "wrong"] == [what]


def test_what_this_machine_lacks_is_not_here_and_no_fault(
    config: Path, offline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = states(
        capsys,
        config,
        "--policy.model=owner/model",
        "--dataset={name: earthreason}",
        "--executor=[{family: mobile-sam}, {family: sam2, model: facebook/sam2.1-hiera-small}]",
        "--eval={dataset: aerial-buildings, split: test}",
        "--trainer.use_cpu=false",
        "--trainer.bf16=true",
    )
    assert code == 0
    lacking = {what: says for what, (state, says) in found.items() if state == "not here"}
    assert "owner/model is not in the hub's cache and would be fetched" in lacking["policy"]
    assert "put it into $PROMPTER_DATA/earthreason" in lacking["training set"]
    assert "would be fetched from its registry" in lacking["held-out set"]
    assert "would be fetched" in lacking["segmenter"]
    assert "this machine has no GPU" in lacking["devices"]
    assert "cannot be checked without" in lacking["adapters"]
    assert found["trainer keys"][0] == found["sizes"][0] == "ok", "sizes are the same without a GPU"
    assert "bfloat16" in found["trainer keys"][1]


def test_a_run_that_is_there_is_only_resumed(
    config: Path, offline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "run").mkdir()
    (config.parent / "run" / "metrics.jsonl").touch()
    code, found = states(capsys, config)
    assert code == 2 and "is not empty" in found["run folder"][1]
    assert states(capsys, config, "--resume")[0] == 0


def test_a_set_of_boxes_needs_a_reward_of_boxes(
    config: Path, offline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = build_dior_rsvg(tmp_path / "dior")["root"]
    words = [
        f"--dataset={{name: dior-rsvg, split: test, options: {{root: {root}}}}}",
        "--eval={dataset: synthetic-aerial, split: val, options: {scenes: 2}}",
    ]
    code, found = states(capsys, config, *words)
    assert code == 2 and "dior-rsvg has boxes and no masks, which mask_iou needs" in found["training set"][1]
    code, found = states(capsys, config, *words, "--rewards={box_iou: 1}")
    assert code == 0 and "30 samples (7,500 samples are published)" in found["training set"][1]
    assert "8 samples, 8 objects" in found["frame, training"][1]


class OtherFrame(Checkpoint):
    """Says one frame and is read in another, as a wrong table of families would have it."""

    def parse(self, text: str, image_wh: tuple[int, int], finish_reason: Any = "stop") -> Reading:
        """See `Policy.parse`."""
        return replace(self._plain(), frame_kind="absolute").parse(text, image_wh, finish_reason)

    def _plain(self) -> Checkpoint:
        return Checkpoint(**{name: getattr(self, name) for name in Checkpoint.__dataclass_fields__})


def test_a_policy_whose_coordinates_do_not_come_back_is_caught() -> None:
    policy = load_policy("shipped:small-policy")
    assert "samples" in round_trip(SAMPLES, policy)
    wrong = OtherFrame(**{name: getattr(policy, name) for name in Checkpoint.__dataclass_fields__})
    with pytest.raises(UserError, match=r"comes back|are read as"):
        round_trip(SAMPLES, wrong)


def test_half_a_unit_is_the_most_that_rounding_moves_a_coordinate(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy("shipped:small-policy")
    there = Frame._to_model
    monkeypatch.setattr(Frame, "_to_model", lambda self, value, axis: there(self, value, axis) + 1)
    with pytest.raises(UserError, match="units of the model's frame from where it was"):
        round_trip(SAMPLES, policy)


def test_a_processor_that_resizes_again_is_caught() -> None:
    policy = load_policy("shipped:small-policy")
    policy.processor.image_processor.size = {"shortest_edge": 64 * 64, "longest_edge": 64 * 64}
    with pytest.raises(UserError, match="but the processor makes it"):
        round_trip(SAMPLES, policy)


def test_only_what_is_missing_is_not_here() -> None:
    def because() -> str:
        try:
            raise NotFetched("would be fetched")
        except UserError as error:
            raise UserError("the set cannot be opened.\nLayout: …") from error

    def missing() -> str:
        raise NotHere("no GPU")

    def bad() -> str:
        raise UserError("a bad key")

    found = [checked("a", because), checked("b", missing), checked("c", bad), checked("d", lambda: "fine")]
    assert [one.state for one in found] == ["not here", "not here", "wrong", "ok"]
    assert found[0].says == "the set cannot be opened"
    printed = table([*found, Finding("long", "ok", "word " * 60)])
    assert printed.endswith("2 ok, 2 not here, 1 wrong")
    assert max(map(len, printed.splitlines())) <= 110
    with pytest.raises(ZeroDivisionError):
        checked("e", lambda: str(1 / 0))


def test_nothing_is_fetched_within_the_block(offline: None) -> None:
    with nothing_fetched(), pytest.raises(NotFetched, match=r"thing 1\.0 would be fetched"):
        fetch_package_file("thing", "1.0", "a/b", "0" * 64, "wheel")


@pytest.mark.parametrize("installed", [True, False])
def test_weights_of_four_bits_need_an_extra(
    config: Path,
    offline: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    installed: bool,
) -> None:
    def finding(name: str) -> Any:
        return installed or None if name == "bitsandbytes" else find_spec(name)

    for module in ("recipes.dry_run.policy", "prompter.quantised"):
        monkeypatch.setattr(f"{module}.find_spec", finding)
    code, found = states(capsys, config, "--policy.quantise=nf4")
    assert code == 0
    state, says = found["adapters"]
    if installed:
        assert state == "ok" and "whose frozen weights are nf4" in says
    else:
        assert state == "not here" and "prompter-rl[qlora]" in says
