"""Typed configuration of proposals: which segmenter, which grid, which filters, and where they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.assets import cache_folder
from envs.executors.config import RESULT_FIELDS, ExecutorConfig
from envs.proposals.rules import GridRules
from prompter.runs.config import StrictModel
from prompter.runs.files import sha256_of

if TYPE_CHECKING:
    from envs.proposals.store import GridProposer


class ProposerConfig(StrictModel):
    """A frozen segmenter and how it proposes masks."""

    executor: ExecutorConfig = ExecutorConfig()
    """The segmenter."""

    grid: GridRules = GridRules()
    """Its grid of points, and which masks stay."""

    folder: Path | None = None
    """Where proposals are kept for all runs, by image content; null takes `proposals` in the cache folder."""

    def identity(self) -> dict[str, Any]:
        """What of the segmenter decides its masks, JSON-ready; a weights file by its content."""
        known = self.executor.model_dump(mode="json", include=set(RESULT_FIELDS))
        model = self.executor.model
        if model is not None and Path(model).expanduser().is_file():
            known["model"] = sha256_of(Path(model).expanduser())
        return known

    def open(self) -> GridProposer:
        """A proposer that opens the segmenter when it first needs it."""
        from envs.executors import open_executor
        from envs.proposals.store import GridProposer

        folder = self.folder or cache_folder() / "proposals"
        return GridProposer(lambda: open_executor(self.executor), self.identity(), self.grid, folder)
