"""The progress bar of a run whose ranks are other processes, by what they logged."""

from __future__ import annotations

import json
from types import TracebackType

from tqdm import tqdm

from prompter.runs.run_folder import RunFolder
from recipes.config import TrainConfig
from recipes.training.log import bar_text


class Progress:
    """Follows `metrics.jsonl` of a run that other processes write.

    Args:
        config: the run.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._path = RunFolder(config.run_dir).metrics_path
        self._read = 0
        self._bar = tqdm(total=config.trainer.get("max_steps"), unit="step", dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.look()
        self._bar.close()

    def look(self) -> None:
        """Show the steps that were logged since the last look."""
        if not self._path.is_file():
            return
        if self._path.stat().st_size < self._read:
            self._read = 0  # a resumed run forgets steps after its checkpoint
        with self._path.open("rb") as handle:
            handle.seek(self._read)
            lines = handle.read().splitlines(keepends=True)
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._read += len(line)
            record = json.loads(line)
            if record.get("kind") == "train":
                self._bar.set_postfix_str(bar_text(record), refresh=False)
                self._bar.n = int(record["step"])
                self._bar.refresh()
