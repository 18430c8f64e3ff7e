"""The states that a Hugging Face Trainer leaves under a run's folder, for `--resume`."""

from __future__ import annotations

from pathlib import Path

from prompter.errors import UserError

WHOLE = "trainer_state.json"
"""Written after the weights, so a state that holds it is whole."""


def last_state(output: Path, *, whole: str = WHOLE) -> Path:
    """The newest whole state under `output/trainer`, a folder `checkpoint-STEP`.

    Args:
        output: the run's folder.
        whole: file by which a state is known to be whole: the last that is written.

    Raises:
        UserError: if there is none.
    """
    pattern = f"trainer/checkpoint-*/{whole}"
    states = sorted(output.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not states:
        raise UserError(f"there is nothing to resume in {output}: it has no {pattern}")
    return states[-1].parent
