"""The disk cache at the size it is used at: ten thousand embeddings under a cap they exceed twofold."""

from __future__ import annotations

from pathlib import Path

import torch

from envs.executors.base import Embedding
from envs.executors.serving.embedding_cache import DiskCache, pack

COUNT, CAP = 10_000, 200_000_000


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_ten_thousand_embeddings_stay_under_the_cap(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, CAP)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(10, 10, 100, generator=generator)  # 40 kB
    highest = 0
    for number in range(COUNT):
        embedding = Embedding({"image": values + number}, (64, 64), (64, 64))
        cache.put(f"key-{number}", pack(embedding, "float32"))
        if number % 500 == 499:
            highest = max(highest, stored_bytes(tmp_path))
    assert 0.8 * CAP < highest <= CAP
    latest = cache.get(f"key-{COUNT - 1}")
    assert latest is not None
    assert cache.get("key-0") is None
    # Another process finds the same and keeps to the same cap.
    again = DiskCache(tmp_path, CAP)
    assert again.size_bytes() == cache.size_bytes() <= CAP
    assert again.get(f"key-{COUNT - 1}") is not None
