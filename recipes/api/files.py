"""Files of results, each whole or absent under its name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from envs.masks import Mask
from prompter.errors import UserError
from prompter.runs.files import atomic_folder, atomic_write


def write_mask(path: Path, mask: Mask) -> None:
    """Write a mask as PNG: 0 and 255, one channel of 8 bits."""
    with atomic_write(path, "wb") as handle:
        Image.fromarray(mask.astype(np.uint8) * 255).save(handle, format="PNG")


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture as PNG or JPEG, as the path ends."""
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    with atomic_write(path, "wb") as handle:
        picture.save(handle, format=kind, **({} if kind == "PNG" else {"quality": 90}))


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON, indented by one."""
    with atomic_write(path) as handle:
        json.dump(data, handle, indent=1, ensure_ascii=False, allow_nan=False)
        handle.write("\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to be filled in the block, there under its name only if that succeeds.

    Raises:
        UserError: if there is something of that name.
    """
    if path.exists():
        raise UserError(f"{path} exists already; name a new folder, or a file that ends in .png, .json, ….")
    with atomic_folder(path) as folder:
        yield folder
