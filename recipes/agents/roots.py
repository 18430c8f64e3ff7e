"""The folders that an agent may read: every path it names is looked up here, and refused if it leads out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from envs.datasets.reading.pixels.images import IMAGE_SUFFIXES
from prompter.errors import UserError


class Roots:
    """Folders on an allow-list.

    A path counts where it really is: `..` and symbolic links are followed before it is looked at. Whoever can
    write into a folder while it is served can still change a file between the look and the reading.

    Args:
        folders: at least one, each there.

    Raises:
        UserError: if there is none, or one is no folder.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        if not folders:
            raise UserError("Name at least one folder that may be read.")
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"There is no folder {folder}; name folders that may be read.")
        self.folders = tuple(dict.fromkeys(Path(os.path.realpath(folder)) for folder in folders))

    def __str__(self) -> str:
        return ", ".join(map(str, self.folders))

    def file(self, given: str) -> Path:
        """The real path of a file inside the folders.

        Args:
            given: an absolute path, or one below any of the folders.

        Raises:
            UserError: if it is outside, missing, or no file. Of what is outside nothing is told, not even
                whether it is there.
        """
        path = self._inside(given)
        if not path.is_file():
            raise UserError(
                f"{given!r} is {'a folder' if path.is_dir() else 'no plain file'}; name an image."
            )
        return path

    def folder(self, given: str) -> Path:
        """The real path of a folder inside the folders; errors as those of `file`."""
        path = self._inside(given)
        if not path.is_dir():
            raise UserError(f"{given!r} is a file; name a folder.")
        return path

    def _inside(self, given: str) -> Path:
        try:
            found = [Path(os.path.realpath(root / given)) for root in self.folders]
        except (ValueError, OSError):  # a NUL or a lone surrogate; nothing on a disk is called that
            raise UserError(f"{given!r} is not a path.") from None
        allowed = [path for path in found if self._holds(path)]
        for path in allowed:
            if os.path.exists(path):
                return path
        if not allowed:
            raise UserError(f"{given!r} is outside the folders that may be read: {self}.")
        raise UserError(f"There is no {given!r} in the folders that may be read: {self}; list them first.")

    def _holds(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self.folders)

    def entries(self, folder: Path) -> Iterator[Path]:
        """What a folder holds, by name: folders, and files that end as images do.

        Hidden ones are left out, and links that lead outside.

        Raises:
            UserError: if the folder cannot be read.
        """
        try:
            inside = sorted(folder.iterdir())
        except OSError as error:
            raise UserError(f"{folder} cannot be read: {error.strerror}.") from None
        for path in inside:
            shown = path.is_dir() or (path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
            if shown and not path.name.startswith(".") and self._holds(Path(os.path.realpath(path))):
                yield path
