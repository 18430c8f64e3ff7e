"""The run folder keeps one truth, whatever moment the process is killed at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompter.errors import UserError
from prompter.runs.jsonl import append_lines, drop_unfinished_line, keep_first_lines, read_lines
from prompter.runs.run_folder import RunFolder


def test_a_fresh_folder_has_its_parts_and_a_config_that_reads_back(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs" / "one")
    config = {"model": "small", "trainer": {"learning_rate": 1e-4}, "note": "größer"}
    run.write_config(config)
    assert RunFolder.open(run.path).read_config() == config
    assert run.rollouts_dir.is_dir() and not run.checkpoints_dir.exists()  # made by who fills it


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        RunFolder.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file"):
        RunFolder.create(tmp_path / "run")


@pytest.mark.parametrize("content", ["- a list", "a: [unclosed"])
def test_a_bad_config_names_the_file(tmp_path: Path, content: str) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.config_path.write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        run.read_config()


def test_opening_what_is_not_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        RunFolder.open(tmp_path / "absent")
    with pytest.raises(UserError, match="not a run folder"):
        RunFolder.open(tmp_path)


def test_no_step_is_logged_twice_even_after_resume(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.log_metrics(1, {"reward": 0.5})
    run.log_metrics(1, {"gIoU": 0.4}, kind="eval")
    with pytest.raises(ValueError, match="before"):
        run.log_metrics(1, {"reward": 0.6})
    resumed = RunFolder.create(run.path, resume=True)
    with pytest.raises(ValueError, match="before"):
        resumed.log_metrics(1, {"reward": 0.6})
    assert [record["kind"] for record in resumed.read_metrics()] == ["train", "eval"]
    assert [record["gIoU"] for record in resumed.read_metrics("eval")] == [0.4]


def test_non_finite_metrics_are_valid_json(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.log_metrics(0, {"loss": float("nan"), "nested": {"values": [1.0, float("inf")]}})
    assert run.read_metrics() == [
        {"step": 0, "kind": "train", "loss": None, "nested": {"values": [1.0, None]}}
    ]


def test_resume_forgets_steps_after_the_checkpoint(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    for step in range(1, 8):
        run.log_metrics(step, {"reward": step / 10})
        run.write_step_rollouts(step, [{"sample_id": f"{step}-{number}"} for number in range(3)])
    with open(run.metrics_path, "ab") as handle:
        handle.write(b'{"step":8,"kind":"tr')  # killed in the middle of a line

    resumed = RunFolder.create(run.path, resume=True)
    resumed.truncate_to_step(5)
    assert [record["step"] for record in resumed.read_metrics()] == [1, 2, 3, 4, 5]
    assert [step for step, _ in resumed.step_rollouts()] == [1, 2, 3, 4, 5]
    for step in range(6, 11):
        resumed.log_metrics(step, {"reward": 0.0})
    assert [record["step"] for record in resumed.read_metrics()] == list(range(1, 11))


def test_a_metrics_line_without_a_step_names_its_line(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.log_metrics(1, {})
    append_lines(run.metrics_path, [{"kind": "train"}])
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        run.read_metrics()


@given(
    records=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=8), max_size=3), max_size=6),
    cut=st.integers(0, 400),
)
@settings(max_examples=60, deadline=None)
def test_a_cut_at_any_byte_loses_at_most_the_line_it_is_in(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, str]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "lines.jsonl"
    append_lines(path, records)
    if not path.exists():
        return
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    whole = data[:cut].count(b"\n")
    assert list(read_lines(path)) == records[:whole]
    drop_unfinished_line(path)
    append_lines(path, [{"after": "crash"}])
    assert list(read_lines(path)) == [*records[:whole], {"after": "crash"}]
    keep_first_lines(path, 1)
    assert list(read_lines(path)) == [*records[:whole], {"after": "crash"}][:1]


def test_a_line_that_is_not_json_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    path.write_text('{"a": 1}\n{"a": \n[1]\n')
    with pytest.raises(UserError, match=r"rollouts\.jsonl, line 2 is not JSON"):
        list(read_lines(path))
    path.write_text("[1]\n")
    with pytest.raises(UserError, match="should be a JSON object"):
        list(read_lines(path))


def test_rollout_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.rollouts_path("facebook/sam2.1-hiera-tiny").name == "facebook-sam2.1-hiera-tiny.jsonl"
    assert run.rollouts_path("../../etc/passwd").parent == run.rollouts_dir
    with pytest.raises(ValueError, match="needs a name"):
        run.rollouts_path("..")


def test_kill_minus_nine_in_the_middle_of_logging_leaves_whole_steps(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    script = textwrap.dedent(
        """
        import sys
        from prompter.runs.run_folder import RunFolder
        run = RunFolder.create(sys.argv[1])
        for step in range(1_000_000):
            run.log_metrics(step, {"reward": 0.5, "text": "x" * 2000})
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=Path(__file__).parents[3])
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size > 20_000):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    resumed = RunFolder.create(folder, resume=True)
    steps = [record["step"] for record in resumed.read_metrics()]
    assert len(steps) > 3 and steps == list(range(len(steps)))


def test_the_timeline_reads_back_and_ends_where_a_resumed_run_begins(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    assert run.read_timeline() == []
    events = [
        {"phase": "sample", "who": "trainer", "start_s": 10.5 + step, "end_s": 11.0 + step, "step": step}
        for step in (1, 2, 3)
    ]
    run.log_timeline(events[:2])
    run.log_timeline(events[2:])
    with open(run.timeline_path, "a") as handle:
        handle.write('{"phase": "optim')
    assert run.read_timeline() == events
    RunFolder.create(run.path, resume=True).truncate_to_step(2)
    run.log_timeline(events[2:])
    assert run.read_timeline() == events


@pytest.mark.parametrize("key", ["phase", "who", "start_s", "end_s", "step"])
def test_an_event_that_lacks_something_is_named(tmp_path: Path, key: str) -> None:
    run = RunFolder.create(tmp_path / "run")
    event = {"phase": "sample", "who": "trainer", "start_s": 1.0, "end_s": 2.0, "step": 1}
    run.log_timeline([event, {**event, key: None}])
    with pytest.raises(UserError, match=r"timeline\.jsonl, line 2 is no event"):
        run.read_timeline()
