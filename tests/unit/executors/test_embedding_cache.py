"""Embeddings in memory and on disk: bounded, checked, shared between processes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.executors.base import Embedding
from envs.executors.serving.embedding_cache import DiskCache, MemoryCache, StoredEmbedding, pack, unpack


def embedding(seed: int = 0, channels: int = 4, side: int = 8) -> Embedding:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "image": torch.randn(channels, side, side, generator=generator),
        "fine": torch.randn(channels // 2, side, side, generator=generator) * 5,
    }
    return Embedding(tensors, image_wh=(30, 20), input_hw=(16, 24))


def stored(seed: int = 0, channels: int = 4, side: int = 8) -> StoredEmbedding:
    return pack(embedding(seed, channels, side), "float32")


def assert_same(one: StoredEmbedding | None, other: StoredEmbedding) -> None:
    assert one is not None
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    assert (one.image_wh, one.input_hw) == (other.image_wh, other.input_hw)


@pytest.mark.parametrize(("storage", "relative"), [("float32", 0.0), ("float16", 6e-4), ("int8", 0.5 / 127)])
def test_storage_types(storage: str, relative: float) -> None:
    original = embedding()
    packed = pack(original, storage)
    back = unpack(packed)
    for name, tensor in original.tensors.items():
        assert back.tensors[name].dtype == torch.float32
        peak = tensor.abs().flatten(1).amax(1)[:, None, None]
        assert ((back.tensors[name] - tensor).abs() <= relative * peak + 1e-7).all()
    assert (back.image_wh, back.input_hw) == (original.image_wh, original.input_hw)
    sizes = {"float32": 4, "float16": 2, "int8": 1}
    values = sum(t.numel() for t in original.tensors.values())
    assert packed.nbytes <= values * sizes[storage] + 64


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_packing_again_changes_nothing(storage: str) -> None:
    once = unpack(pack(embedding(), storage))
    twice = unpack(pack(once, storage))
    assert all(torch.allclose(once.tensors[n], twice.tensors[n], rtol=1e-6, atol=0) for n in once.tensors)


def test_int8_of_a_zero_channel() -> None:
    zero = Embedding({"image": torch.zeros(2, 3, 3)}, (1, 1), (1, 1))
    assert torch.equal(unpack(pack(zero, "int8")).tensors["image"], zero.tensors["image"])


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=60))
def test_memory_keeps_the_most_recently_used(operations: list[tuple[int, bool]]) -> None:
    one = stored()
    cache = MemoryCache(budget_bytes=3 * one.nbytes)
    model: list[int] = []  # least recently used first
    for number, is_put in operations:
        if is_put:
            cache.put(str(number), one)
            model = [*(n for n in model if n != number), number][-3:]
        else:
            assert (cache.get(str(number)) is not None) == (number in model)
            if number in model:
                model = [*(n for n in model if n != number), number]
    assert len(cache) == len(model)
    assert cache.used_bytes == len(model) * one.nbytes <= cache.budget_bytes


def test_memory_does_not_keep_what_exceeds_the_budget() -> None:
    cache = MemoryCache(budget_bytes=10)
    cache.put("a", stored())
    assert cache.get("a") is None
    assert cache.used_bytes == 0


def test_disk_round_trip_in_another_object(tmp_path: Path) -> None:
    for storage in ("float32", "float16", "int8"):
        entry = pack(embedding(), storage)
        DiskCache(tmp_path, 10**6).put(f"key/{storage}", entry)
        assert_same(DiskCache(tmp_path, 10**6).get(f"key/{storage}"), entry)
    assert DiskCache(tmp_path, 10**6).get("key/other") is None


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "garbage", "other key"])
def test_damaged_entries_are_dropped(tmp_path: Path, damage: str) -> None:
    cache = DiskCache(tmp_path, 10**6)
    cache.put("a", stored())
    (path,) = entries(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[-5] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "garbage":
        path.write_bytes(os.urandom(4000))
    else:
        cache.put("b", stored(1))
        (other,) = [p for p in entries(tmp_path) if p != path]
        path.write_bytes(other.read_bytes())
    assert cache.get("a") is None
    assert cache.dropped == 1
    assert not path.exists()
    cache.put("a", stored())
    assert_same(cache.get("a"), stored())


def test_disk_stays_under_its_cap_and_keeps_what_is_used(tmp_path: Path) -> None:
    one = stored()
    cache = DiskCache(tmp_path, 20_000)
    cache.put("kept", one)
    for number in range(60):
        cache.put(str(number), one)
        assert cache.size_bytes() <= 20_000
        # Marked as used now; file times may be too coarse to tell puts apart.
        path = cache._path("kept")
        os.utime(path, (time.time() + number + 1, time.time() + number + 1))
    assert cache.get("kept") is not None
    assert cache.get("0") is None
    assert cache.get("59") is not None


def test_disk_does_not_keep_what_exceeds_the_cap(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 500)
    cache.put("a", stored())
    assert not entries(tmp_path)


def _write_many(folder: Path, start: int) -> None:
    cache = DiskCache(folder, 60_000)
    for number in range(start, start + 80):
        cache.put(str(number % 100), stored(number % 100))


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write_many, args=(tmp_path, start)) for start in (0, 50)]
    for process in processes:
        process.start()
    highest = 0
    probe = DiskCache(tmp_path, 60_000)
    while any(process.is_alive() for process in processes):
        highest = max(highest, probe.size_bytes())
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert 0 < highest <= 60_000
    found = 0
    for number in range(100):
        entry = probe.get(str(number))
        if entry is not None:
            assert_same(entry, stored(number))
            found += 1
    assert found == len(entries(tmp_path)) > 5
    assert probe.dropped == 0


def _write_forever(folder: Path, ready: multiprocessing.synchronize.Event) -> None:
    cache = DiskCache(folder, 10**9)
    number = 0
    while True:
        cache.put(str(number), stored(number, channels=64, side=32))
        number += 1
        ready.set()


def test_kill_while_writing_leaves_no_bad_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        ready = context.Event()
        process = context.Process(target=_write_forever, args=(tmp_path, ready))
        process.start()
        assert ready.wait(60)
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
    cache = DiskCache(tmp_path, 10**9)
    numbers = [n for n in range(2000) if cache._path(str(n)).exists()]
    assert numbers
    for number in numbers:
        assert_same(cache.get(str(number)), stored(number, channels=64, side=32))
    assert cache.dropped == 0
    # The killed process held the lock, perhaps, and left a temporary file, perhaps: neither is in the way.
    cache.put("after", stored())
    assert_same(cache.get("after"), stored())


def test_old_temporary_files_are_removed(tmp_path: Path) -> None:
    DiskCache(tmp_path, 10**6).put("a", stored())
    folder = entries(tmp_path)[0].parent
    old, young = folder / ".old.tmp", folder / ".young.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    DiskCache(tmp_path, 10**6)
    assert not old.exists()
    assert young.exists()


def test_an_unreadable_account_is_measured_again(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10**6)
    cache.put("a", stored())
    (tmp_path / "size.json").write_text("{not json")
    cache.put("b", stored(1))
    assert int((tmp_path / "size.json").read_text().split(":")[1].strip(" }")) == cache.size_bytes()


def test_a_full_disk_costs_the_entry_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiskCache(tmp_path, 10**6)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for number in range(3):
            cache.put(f"key/{number}", stored(number))
    assert [cache.get(f"key/{number}") for number in range(3)] == [None] * 3
    (said,) = caplog.messages
    assert said.startswith("embeddings are no longer kept on disk: the disk is full: ")
    assert [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".safetensors"))] == []
    cache.put("key/4", stored(4))
    assert_same(cache.get("key/4"), stored(4))
