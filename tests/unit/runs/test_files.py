"""Files and folders are whole or absent, and take each other's place."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from prompter.runs.files import atomic_folder, atomic_write


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
