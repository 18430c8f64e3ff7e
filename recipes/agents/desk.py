"""Where an agent's calls are answered: it looks up paths, asks the policy, and keeps the last results."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock
from typing import Any, Self

from prompter import __version__
from prompter.errors import UserError
from recipes.agents.replies import Answer, Entry, Kept, Listing, Status
from recipes.agents.roots import Roots
from recipes.api.load import Prompter
from recipes.api.result import Result

FORMS = {
    "overlay.jpg": "image/jpeg",
    "mask.png": "image/png",
    "objects.geojson": "application/geo+json",
    "coco.json": "application/json",
    "result.json": "application/json",
}
"""Files that `Result.save` writes into a folder, each with its media type."""

SCHEME = "prompter://results"
"""Beginning of the URIs of results: `prompter://results/NAME/FORM`."""

KEEPS = 32
"""Results that are kept, by default. Each holds its image and its masks."""


class Desk:
    """A policy behind a counter: one call at a time, in whatever thread.

    Args:
        roots: folders that may be read.
        open_prompter: opens the policy; called at the first question, and again if that failed.
        policy, executor: their names, for `status`.
        out: folder that each result is saved below, as `Result.save` does; None writes nothing.
        keeps: results that are kept; the oldest is forgotten first.
    """

    def __init__(
        self,
        roots: Roots,
        open_prompter: Callable[[], Prompter],
        *,
        policy: str,
        executor: str,
        out: Path | None = None,
        keeps: int = KEEPS,
    ) -> None:
        self.roots, self.out, self.keeps = roots, out, keeps
        self._open_prompter, self._policy, self._executor = open_prompter, policy, executor
        self._prompter: Prompter | None = None
        self._results: OrderedDict[str, Result] = OrderedDict()
        self._count = 0
        self._lock = RLock()
        self._stack = ExitStack()
        self._files = out or Path(self._stack.enter_context(TemporaryDirectory(prefix="prompter-")))

    def status(self) -> Status:
        """What is served, and which results are kept. Loads nothing, and does not wait for another call."""
        prompter = self._prompter
        return Status(
            version=__version__,
            policy=self._policy,
            executor=self._executor,
            loaded=prompter is not None,
            folders=[str(folder) for folder in self.roots.folders],
            saves_to=None if self.out is None else str(self.out),
            keeps=self.keeps,
            results=[
                Kept(result=name, image=one.rollout.image_id, question=one.query, summary=one.summary())
                for name, one in list(self._results.items())
            ],
            counters={} if prompter is None else prompter.counters,
        )

    def list(self, folder: str | None, offset: int, limit: int) -> Listing:
        """A part of a folder's images and folders, by name; of None, the folders that may be read.

        Raises:
            UserError: if the folder is outside those, or is none.
        """
        paths = [*self.roots.folders] if folder is None else [*self.roots.entries(self.roots.folder(folder))]
        shown = paths[offset : offset + limit]
        last = offset + len(shown)
        return Listing(
            entries=[_entry(path) for path in shown],
            total=len(paths),
            next_offset=last if last < len(paths) else None,
        )

    def segment(self, image: str, question: str) -> Answer:
        """Ask the policy about an image; the first call loads it.

        Raises:
            UserError: if the path is refused, the image cannot be read, or the models cannot be loaded.
        """
        path = self.roots.file(image)
        with self._lock:
            if self._prompter is None:
                self._prompter = self._stack.enter_context(self._open_prompter())
            return self._keep(self._prompter.segment(path, question))

    def refine(self, result: str, **changes: Any) -> Answer:
        """Decode a kept result again with changed prompts, as a new result; see `Result.refine`.

        Raises:
            UserError: if the result is not kept, or the change cannot be made.
        """
        with self._lock:
            return self._keep(self._kept(result).refine(**changes))

    def file(self, result: str, form: str) -> bytes:
        """Content of a file of a kept result; `form` is one of `FORMS`.

        Raises:
            UserError: if the result is not kept.
        """
        with self._lock:
            kept, folder = self._kept(result), self._files / result
            if not folder.exists():
                kept.save(folder)
            return (folder / form).read_bytes()

    def close(self) -> None:
        """Close the policy and forget the results; what was saved to `out` stays."""
        with self._lock:
            self._results.clear()
            self._prompter = None
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, result: Result) -> Answer:
        self._count += 1
        while self.out is not None and (self.out / f"r{self._count}").exists():  # of an earlier server
            self._count += 1
        name = f"r{self._count}"
        saved = None if self.out is None else str(result.save(self.out / name))
        self._results[name] = result
        if len(self._results) > self.keeps:
            oldest, _ = self._results.popitem(last=False)
            if self.out is None:
                shutil.rmtree(self._files / oldest, ignore_errors=True)  # most were never written
        return Answer.of(result, name, [f"{SCHEME}/{name}/{form}" for form in FORMS], saved)

    def _kept(self, name: str) -> Result:
        if name not in self._results:
            known = ", ".join(self._results) or "none yet"
            raise UserError(
                f"There is no result {name!r}; the last {self.keeps} are kept: {known}. Ask by segment first."
            )
        return self._results[name]


def _entry(path: Path) -> Entry:
    if path.is_dir():
        return Entry(path=str(path), kind="folder", bytes=None)
    return Entry(path=str(path), kind="image", bytes=path.stat().st_size)
