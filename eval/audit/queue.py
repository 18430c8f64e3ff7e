"""The queue of an audit: every query with its evidence, the most suspicious label first, as two files.

queue.jsonl     one query a line, in the order of the queue
audit.json      what was compared, how good each predictor is, and what the queue's figures mean
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from envs.masks import RLE
from prompter.errors import UserError
from prompter.runs.files import atomic_write
from prompter.runs.jsonl import read_lines, write_lines

QUEUE = "queue.jsonl"
AUDIT = "audit.json"


@dataclass(frozen=True)
class Entry:
    """One query of the queue. Masks are RLE in the image frame; None stands for what does not exist.

    Args:
        rank: place in the queue, from 1.
        sample_id, image_id, image_wh, query: as in `envs.sample.Sample`; image_wh is (width, height).
        suspicion: what the queue is ordered by: a probability, if a rough one (`eval.audit.suspicion`).
        kind: of `eval.audit.kinds.KINDS`: what seems to be wrong, where something is.
        because: "predictions" or "segmenter": which evidence put it here.
        agreement: mean IoU of all pairs of predictions.
        across, within: agreement between policies, and between segmenters of one policy.
        consensus_iou: IoU of the consensus with the label.
        expected_iou: what it is, on this split, where predictions agree as they do here.
        redrawn_iou: IoU of the segmenter's mask from the label's boxes with the label.
        expected_redrawn_iou: what it is, on this split, for labels of this size.
        policies: how many policies are of the consensus.
        members: whether each predictor is of the consensus.
        ious: IoU of each prediction with the label.
        label, consensus, redrawn, ignore: the masks.
    """

    rank: int
    sample_id: str
    image_id: str
    image_wh: tuple[int, int]
    query: str
    suspicion: float
    kind: str
    because: str
    agreement: float | None
    across: float | None
    within: float | None
    consensus_iou: float | None
    expected_iou: float | None
    redrawn_iou: float | None
    expected_redrawn_iou: float | None
    policies: int
    members: tuple[bool, ...]
    ious: tuple[float | None, ...]
    label: RLE = field(repr=False)
    consensus: RLE | None = field(repr=False)
    redrawn: RLE | None = field(repr=False)
    ignore: RLE | None = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """Inverse of `to_json`."""
        fields = dict(data)
        for name in ("image_wh", "members", "ious"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


@dataclass(frozen=True)
class Queue:
    """An audit as it is on the disk.

    Args:
        facts: `audit.json`: `key`, `benchmark`, `dataset_options`, `skip_bad`, `runs` (folders), `policies`,
            `predictors` (name, policy, gIoU on the audited labels), `executor`, `order`, `queries` and
            `unanswered` (queries without a consensus).
        entries: in the order of the queue.
    """

    facts: Mapping[str, Any]
    entries: Sequence[Entry]

    @property
    def key(self) -> str:
        """What tells this audit from others: a digest of its queue. Decisions carry it."""
        return str(self.facts["key"])


def queue_key(entries: Sequence[Entry]) -> str:
    """Digest of a queue: 16 hexadecimal digits, the same for the same queries, labels and masks offered."""
    digest = hashlib.blake2b(digest_size=8)
    for entry in entries:
        shown = [entry.sample_id, entry.label, entry.consensus, entry.redrawn]
        digest.update(json.dumps(shown, sort_keys=True).encode())
    return digest.hexdigest()


def write_queue(out: Path, queue: Queue) -> None:
    """Write both files, `audit.json` last."""
    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / QUEUE, (entry.to_json() for entry in queue.entries))
    with atomic_write(out / AUDIT) as handle:
        json.dump(queue.facts, handle, indent=1, ensure_ascii=False)
        handle.write("\n")


def read_queue(out: Path) -> Queue:
    """Read an audit's folder.

    Raises:
        UserError: if it holds no audit, or a file of it cannot be read.
    """
    path = out / AUDIT
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(
            f"{out} holds no {AUDIT}; name the folder that `prompter audit RUN…` wrote."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); run the audit again.") from None
    entries = []
    for number, record in enumerate(read_lines(out / QUEUE), start=1):
        try:
            entries.append(Entry.from_json(record))
        except (KeyError, TypeError) as error:
            raise UserError(f"{out / QUEUE}, line {number} is not an entry of a queue ({error}).") from None
    return Queue(facts, entries)


def number_or_none(value: float) -> float | None:
    """A figure for JSON: four decimals, None for NaN."""
    return None if math.isnan(value) else round(float(value), 4)
