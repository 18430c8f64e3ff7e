"""A full disk is one sentence, and what has its final name is whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from prompter.runs.disk import DiskFull, flush_tree, free_bytes, full_disk_told, is_disk_full
from prompter.runs.files import atomic_folder, atomic_write
from prompter.runs.jsonl import append_lines, read_lines


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_file_that_does_not_fit_is_named_with_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull) as caught, atomic_write(tmp_path / "config.yaml") as handle:
        handle.write("new")
    sentence = str(caught.value)
    assert sentence.startswith(f"the disk is full: config.yaml cannot be written in {tmp_path}, where ")
    assert "bytes are free" in sentence and "\n" not in sentence
    assert names(tmp_path) == ["config.yaml"] and (tmp_path / "config.yaml").read_text() == "old"


def test_a_folder_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="final cannot be written"), atomic_folder(tmp_path / "final") as new:
        (new / "half").write_text("half")
        full()
    assert names(tmp_path) == []


def test_lines_that_do_not_fit_are_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    append_lines(path, [{"step": 1}])
    write = os.write

    def half(descriptor: int, data: memoryview) -> int:
        if len(data) < 8:
            full()
        return write(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patched, pytest.raises(DiskFull, match=r"metrics\.jsonl"):
        patched.setattr(os, "write", half)
        append_lines(path, [{"step": 2}, {"step": 3}])
    assert path.read_bytes() == b'{"step":1}\n'
    append_lines(path, [{"step": 2}])
    assert [record["step"] for record in read_lines(path)] == [1, 2]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "quota"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_writers_that_say_it_otherwise_are_understood(error: Exception, tmp_path: Path) -> None:
    assert is_disk_full(error)
    with pytest.raises(DiskFull) as caught, full_disk_told(tmp_path / "checkpoint-2"):
        raise error
    assert caught.value.__cause__ is error


def test_an_error_that_came_from_a_full_disk_is_one() -> None:
    try:
        try:
            full()
        except OSError as cause:
            raise RuntimeError("cannot save") from cause
    except RuntimeError as error:
        assert is_disk_full(error)
    assert not is_disk_full(RuntimeError("cannot save")) and not is_disk_full(None)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), full_disk_told(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")


def test_free_space_is_that_of_the_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    flush_tree(tmp_path)
    assert free_bytes(tmp_path / "not" / "yet") > 0
