"""Embeddings kept by content: least recently used in memory, over files on disk.

An entry's key is (segmenter's fingerprint, storage type, image content). Entries on disk are
safetensors files with a checksum over their tensors, written whole or not at all; a file that is
damaged all the same is dropped, counted, and computed again. Several processes may share a folder:
its size is accounted for under a file lock, so that the cap holds for all of them together. A full disk
costs the entry, not the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import OrderedDict
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from envs.executors.base import Embedding
from prompter.runs.disk import DiskFull
from prompter.runs.files import atomic_write, locked

_LOG = logging.getLogger(__name__)

StorageType = Literal["float32", "float16", "int8"]

STALE_TEMPORARY_SECONDS = 3600
"""Age at which a half-written file of a killed process is removed."""

EVICT_TO = 0.9
"""Share of the cap that is left filled when the oldest entries are removed."""

FLOAT16_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class StoredEmbedding:
    """An embedding as it is kept. int8 tensors come with one float32 scale per first axis.

    Args:
        tensors: name -> tensor; a quantised tensor "x" is stored as "x" (int8) and "x.scale".
        image_wh, input_hw: as in `Embedding`.
    """

    tensors: dict[str, torch.Tensor]
    image_wh: tuple[int, int]
    input_hw: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def pack(embedding: Embedding, storage: StorageType) -> StoredEmbedding:
    """Convert an embedding to its stored form. Tensors stay on their device."""
    tensors: dict[str, torch.Tensor] = {}
    for name, value in embedding.tensors.items():
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        if storage == "int8":
            values = tensor.float()
            peak = values.abs().flatten(1).amax(dim=1) if values.ndim > 1 else values.abs()
            scale = torch.clamp(peak / 127, min=torch.finfo(torch.float32).tiny)
            per_row = scale.view(-1, *[1] * (values.ndim - 1))
            tensors[name] = torch.clamp(torch.round(values / per_row), -127, 127).to(torch.int8).contiguous()
            tensors[f"{name}.scale"] = scale
        elif storage == "float16":
            tensors[name] = tensor.float().clamp(-FLOAT16_MAX, FLOAT16_MAX).half().contiguous()
        else:
            tensors[name] = tensor.contiguous()
    return StoredEmbedding(tensors, embedding.image_wh, embedding.input_hw)


def unpack(stored: StoredEmbedding) -> Embedding:
    """Inverse of `pack`, up to the rounding of the stored type; float32 or, unpacked, the original type."""
    tensors = {}
    for name, tensor in stored.tensors.items():
        if name.endswith(".scale"):
            continue
        scale = stored.tensors.get(f"{name}.scale")
        if scale is not None:
            tensors[name] = tensor.float() * scale.view(-1, *[1] * (tensor.ndim - 1))
        else:
            tensors[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return Embedding(tensors, stored.image_wh, stored.input_hw)


class MemoryCache:
    """The most recently used embeddings, up to a budget of bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._entries: OrderedDict[str, StoredEmbedding] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def bytes_of(self, key: str) -> int:
        """Bytes of an entry; 0 if it is not kept."""
        return self._entries[key].nbytes if key in self._entries else 0

    def get(self, key: str) -> StoredEmbedding | None:
        """Return an entry, now the most recently used, or None."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: str, entry: StoredEmbedding) -> None:
        """Keep an entry, dropping the least recently used; one above the whole budget is not kept."""
        old = self._entries.pop(key, None)
        if old is not None:
            self.used_bytes -= old.nbytes
        if entry.nbytes > self.budget_bytes:
            return
        self._entries[key] = entry
        self.used_bytes += entry.nbytes
        while self.used_bytes > self.budget_bytes:
            _, dropped = self._entries.popitem(last=False)
            self.used_bytes -= dropped.nbytes


class DiskCache:
    """Embeddings as files below one folder, never more than `cap_bytes` in all.

    Args:
        folder: created when missing; may be shared by segmenters and by processes.
        cap_bytes: bound on the sum of the file sizes.
    """

    def __init__(self, folder: Path, cap_bytes: int) -> None:
        self.folder = folder
        self.cap_bytes = cap_bytes
        self.dropped = 0
        self._told_full = False
        """How many damaged entries this object has removed."""
        self._entries = folder / "entries"
        self._entries.mkdir(parents=True, exist_ok=True)
        self._ledger = folder / "size.json"
        self._remove_stale_temporaries()
        with self._locked():
            self._write_total(self._measure())

    def _path(self, key: str) -> Path:
        digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return self._entries / digest[:2] / f"{digest}.safetensors"

    def get(self, key: str, device: torch.device | None = None) -> StoredEmbedding | None:
        """Read an entry and mark it as used; None if it is not there, or damaged (then it is removed)."""
        path = self._path(key)
        try:
            entry = _read(path, key)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError):
            # Another process may have put a sound entry here meanwhile; losing it only costs time.
            path.unlink(missing_ok=True)
            self.dropped += 1
            return None
        try:
            os.utime(path)
        except FileNotFoundError:  # evicted by another process just now; the entry read is good
            pass
        if device is not None and device.type != "cpu":
            moved = {name: tensor.to(device) for name, tensor in entry.tensors.items()}
            return StoredEmbedding(moved, entry.image_wh, entry.input_hw)
        return entry

    def put(self, key: str, entry: StoredEmbedding) -> None:
        """Write an entry; the least recently used ones make room.

        One above the whole cap is not kept, nor one for which the disk has no space: that is said once.
        """
        content = _serialise(key, entry)
        path = self._path(key)
        if len(content) > self.cap_bytes or path.exists():
            return
        try:
            self._write(path, content)
        except DiskFull as full:
            if not self._told_full:
                _LOG.warning("embeddings are no longer kept on disk: %s", full)
            self._told_full = True

    def _write(self, path: Path, content: bytes) -> None:
        with ExitStack() as stack, atomic_write(path, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())  # the slow part, before the lock
            # From making room until the file has its name no other process may add one, so that the cap
            # holds at every moment. If this process dies in between, the account is too high until the
            # next eviction measures the folder again.
            stack.enter_context(self._locked())
            total = self._read_total() + len(content)
            if total > self.cap_bytes:
                total = self._evict(int(self.cap_bytes * EVICT_TO) - len(content)) + len(content)
            self._write_total(total)

    def size_bytes(self) -> int:
        """Bytes of all entries that are on disk now."""
        with self._locked():  # else an entry removed and one added meanwhile might both be counted
            return self._measure()

    def _files(self) -> list[tuple[float, int, str]]:
        """(time of last use, bytes, path) of every entry."""
        found = []
        for bucket in os.scandir(self._entries):
            if bucket.is_dir():
                for file in os.scandir(bucket.path):
                    if file.name.endswith(".safetensors"):
                        try:
                            status = file.stat()
                        except FileNotFoundError:
                            continue
                        found.append((status.st_mtime, status.st_size, file.path))
        return found

    def _measure(self) -> int:
        return sum(size for _, size, _ in self._files())

    def _evict(self, target_bytes: int) -> int:
        """Remove the least recently used entries down to `target_bytes`; return the bytes left."""
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        for _, size, name in files:
            if total <= max(0, target_bytes):
                break
            Path(name).unlink(missing_ok=True)
            total -= size
        return total

    def _remove_stale_temporaries(self) -> None:
        before = time.time() - STALE_TEMPORARY_SECONDS
        for path in self._entries.glob("*/.*.tmp"):
            try:
                if path.stat().st_mtime < before:
                    path.unlink()
            except FileNotFoundError:  # removed by another process
                continue

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.folder / "lock")

    def _read_total(self) -> int:
        try:
            return int(json.loads(self._ledger.read_text(encoding="utf-8"))["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return self._measure()

    def _write_total(self, total: int) -> None:
        # Not written atomically: only read under the lock, and measured again when it cannot be read.
        self._ledger.write_text(json.dumps({"bytes": total}), encoding="utf-8")


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def _serialise(key: str, entry: StoredEmbedding) -> bytes:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in entry.tensors.items()}
    metadata = {
        "key": key,
        "image_size": json.dumps(entry.image_wh),
        "input_size": json.dumps(entry.input_hw),
        "checksum": _checksum(tensors),
    }
    return safetensors.torch.save(tensors, metadata)


def _read(path: Path, key: str) -> StoredEmbedding:
    """Read and check one file. ValueError if it is another key's or its checksum differs."""
    with safe_open(str(path), framework="pt") as handle:
        metadata = handle.metadata() or {}
        # Copied out of the file's mapping, so that the file may go away.
        tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}
    if metadata.get("key") != key or metadata.get("checksum") != _checksum(tensors):
        raise ValueError("the checksum or the key differs")
    image_width, image_height = json.loads(metadata["image_size"])
    input_height, input_width = json.loads(metadata["input_size"])
    return StoredEmbedding(tensors, (image_width, image_height), (input_height, input_width))
