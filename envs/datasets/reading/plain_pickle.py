"""Pickles of foreign origin, read without the power to run anything.

The REFER family of datasets is published as pickles. A pickle can name any function and have it
called; here every such name is refused, so that only dicts, lists, tuples, sets, text, bytes and
numbers can come out.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from envs.datasets.reading.records import blaming

# Containers that some protocols write by name. Building them from plain data runs nothing else.
_CONTAINERS: dict[tuple[str, str], type] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
}


# The unpickler written in Python, because the one in C allocates memory as the file dictates: one
# wrong byte in a memo index would ask for many gigabytes.
class _PlainUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Python 2 wrote "__builtin__".
        key = (module.replace("__builtin__", "builtins"), name)
        if key not in _CONTAINERS:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, but only plain containers, text and numbers are read"
            )
        return _CONTAINERS[key]


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle that holds nothing but plain containers, text, bytes and numbers.

    Python 2 text is read as UTF-8.

    Raises:
        UserError: naming the file, if it holds anything else (nothing is run) or is no whole pickle.
    """
    with blaming(f"pickle {path}"):
        data = io.BytesIO(path.read_bytes())
        try:
            return _PlainUnpickler(data, encoding="utf-8").load()
        except pickle.UnpicklingError as error:
            raise ValueError(str(error)) from None
        except AssertionError:
            raise ValueError("it is not a pickle") from None
