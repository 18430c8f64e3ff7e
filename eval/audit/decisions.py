"""What a person decided about labels: the file that the page exports, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prompter.errors import UserError, did_you_mean

VERDICTS: Mapping[str, str] = {
    "keep": "the label is right",
    "consensus": "the predictions are right: their mask becomes the label",
    "redrawn": "what the segmenter draws from the label's boxes becomes the label",
    "drop": "the question or its image is at fault: the query is left out",
    "unsure": "undecided: the label is kept, and the query is marked",
}
"""Verdict -> what it means and does."""


@dataclass(frozen=True)
class Decision:
    """A verdict on one label.

    Args:
        sample_id: of the query.
        verdict: of `VERDICTS`.
        note: the person's own words, or empty.
        at: when, as the page wrote it (ISO 8601), or empty.
    """

    sample_id: str
    verdict: str
    note: str = ""
    at: str = ""

    def to_json(self) -> dict[str, str]:
        """Return a JSON-ready dict."""
        return asdict(self)


def read_decisions(path: Path, audit: str) -> dict[str, Decision]:
    """Read an exported file: `{"audit": …, "decisions": [{"sample_id", "verdict", "note", "at"}, …]}`.

    Args:
        path: the file.
        audit: key of the audit that it must be about (`eval.audit.queue.Queue.key`).

    Returns:
        sample_id -> its decision, in the order of the file.

    Raises:
        UserError: if the file cannot be read, is about another audit, holds an unknown verdict or key, or
            decides on a sample twice.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); export the decisions from the page again.") from None
    if not isinstance(data, dict) or not isinstance(data.get("decisions"), list):
        raise UserError(f"{path} should be an object with a list `decisions`, as the page exports it.")
    if data.get("audit") != audit:
        raise UserError(
            f"{path} decides on the audit {data.get('audit')!r}, but this one is {audit!r}; "
            f"name the folder of the audit whose page exported it."
        )
    found: dict[str, Decision] = {}
    for number, item in enumerate(data["decisions"], start=1):
        decision = _decision(item, f"{path}, decision {number}")
        if decision.sample_id in found:
            raise UserError(f"{path}, decision {number}: sample {decision.sample_id!r} is decided on twice.")
        found[decision.sample_id] = decision
    return found


def _decision(item: Any, where: str) -> Decision:
    keys = Decision.__dataclass_fields__
    if not isinstance(item, dict):
        raise UserError(f"{where} should be an object, but is a {type(item).__name__}.")
    for key, value in item.items():
        if key not in keys:
            raise UserError(f"{where}: there is no key {key!r}.{did_you_mean(key, keys)}")
        if not isinstance(value, str):
            raise UserError(f"{where}, key {key!r} should be text, but is a {type(value).__name__}.")
    for key in ("sample_id", "verdict"):
        if key not in item:
            raise UserError(f"{where}: the key {key!r} is missing.")
    if item["verdict"] not in VERDICTS:
        hint = did_you_mean(item["verdict"], VERDICTS)
        raise UserError(f"{where}: there is no verdict {item['verdict']!r}.{hint}")
    return Decision(**item)
