"""Two files of rollouts that are compared, and how they are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Pair:
    """Two files of rollouts, and how they are called."""

    title: str
    before: Path
    after: Path

    def to_json(self) -> dict[str, Any]:
        """Return the two paths, JSON-ready."""
        return {"before": str(self.before), "after": str(self.after)}
