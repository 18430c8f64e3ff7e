"""A checkpoint has its name when it is whole; the last ones stay; the newest whole one is never removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.training.checkpoints import CHECKPOINT_FILES, newest_checkpoint, whole_checkpoint


def write(folder: Path, step: int, files: tuple[str, ...] = CHECKPOINT_FILES) -> None:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in files:
        (path / name).write_text("{}")


def save(folder: Path, step: int, keep: int | None) -> None:
    with whole_checkpoint(folder, step, keep=keep) as unfinished:
        write(unfinished, step)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [12]), (2, [9, 12]), (3, [6, 9, 12]), (0, [3, 6, 9, 12]), (None, [3, 6, 9, 12])]
)
def test_the_last_ones_stay(tmp_path: Path, keep: int | None, left: list[int]) -> None:
    for step in (3, 6, 9, 12):
        save(tmp_path, step, keep)
        assert newest_checkpoint(tmp_path) == tmp_path / f"checkpoint-{step}"
    (tmp_path / "final").mkdir()
    assert names(tmp_path) == sorted([*(f"checkpoint-{step}" for step in left), "final"])


def test_until_it_is_whole_it_has_no_name_and_nothing_is_removed(tmp_path: Path) -> None:
    save(tmp_path, 3, keep=1)
    with pytest.raises(OSError, match="no space"), whole_checkpoint(tmp_path, 6, keep=1) as unfinished:
        write(unfinished, 6, CHECKPOINT_FILES[:2])
        assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
        assert not (tmp_path / "checkpoint-6").exists()
        raise OSError("no space")
    assert names(tmp_path) == ["checkpoint-3"]
    save(tmp_path, 6, keep=1)
    assert names(tmp_path) == ["checkpoint-6"]


def test_halves_of_killed_processes_go_and_do_not_count(tmp_path: Path) -> None:
    """`checkpoint-4` and `-8` are from a version that wrote under the final name, the others from any."""
    save(tmp_path, 3, keep=2)
    write(tmp_path, 4, CHECKPOINT_FILES[1:])
    write(tmp_path / ".unfinished", 5)
    write(tmp_path / ".removed", 2)
    write(tmp_path, 8, CHECKPOINT_FILES[1:])
    save(tmp_path, 6, keep=2)
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-6", "checkpoint-8"], "8 is not this run's past"
    save(tmp_path, 8, keep=2)
    assert names(tmp_path) == ["checkpoint-6", "checkpoint-8"]
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-8"


def test_one_that_is_saved_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    save(tmp_path, 3, keep=None)
    (tmp_path / "checkpoint-3" / "more").write_text("")
    save(tmp_path, 3, keep=None)
    assert not (tmp_path / "checkpoint-3" / "more").exists() and names(tmp_path) == ["checkpoint-3"]
