"""Files and folders are whole or absent, and take each other's place."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from prompter.runs.files import atomic_folder, atomic_write, locked


@pytest.mark.parametrize("there_before", [False, True])
def test_a_folder_appears_whole_and_alone(tmp_path: Path, there_before: bool) -> None:
    target = tmp_path / "models" / "final"
    if there_before:
        target.mkdir(parents=True)
        (target / "old.txt").write_text("old")
    with atomic_folder(target) as unfinished:
        (unfinished / "new.txt").write_text("new")
        assert (
            [path.name for path in target.iterdir()] == ["old.txt"] if there_before else not target.exists()
        )
    assert [path.name for path in target.iterdir()] == ["new.txt"]
    assert [path.name for path in target.parent.iterdir()] == ["final"]
    beside = tmp_path / "beside"
    beside.mkdir()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(beside.stat().st_mode)


@pytest.mark.parametrize("there_before", [False, True])
def test_a_folder_that_fails_changes_nothing(tmp_path: Path, there_before: bool) -> None:
    target = tmp_path / "final"
    if there_before:
        target.mkdir()
        (target / "old.txt").write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_folder(target) as unfinished:
        (unfinished / "new.txt").write_text("half")
        raise OSError("disk full")
    left = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))]
    assert left == (["final", "final/old.txt"] if there_before else [])


def test_a_file_that_fails_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "results.json"
    target.write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_write(target) as handle:
        handle.write("half")
        raise OSError("disk full")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"] and target.read_text() == "old"


HOLD_A_LOCK = """
import sys, time
from prompter.runs.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_keeps_others_out_and_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "lock"
    entered = threading.Event()

    def enter() -> None:
        with locked(path):
            entered.set()

    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", HOLD_A_LOCK, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        threading.Thread(target=enter, daemon=True).start()
        kept_out = not entered.wait(0.3)
        holder.kill()
    assert kept_out and entered.wait(30)
    with locked(path):  # and it can be taken again
        pass


def test_half_a_character_does_not_end_a_run(tmp_path: Path) -> None:
    said = {"text": "half \ud800 of one, and a whole \U0001f600"}
    with atomic_write(tmp_path / "said.json") as handle:
        json.dump(said, handle, ensure_ascii=False)
    assert json.loads((tmp_path / "said.json").read_text(encoding="utf-8")) == said
