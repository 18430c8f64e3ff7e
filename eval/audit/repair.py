"""A repaired split: the audited one with a person's decisions carried out, as a manifest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.datasets.reading.pixels.images import ImageFile
from envs.masks import RLE, decode_rle
from envs.rollouts import image_key
from envs.sample import Sample
from eval.audit.decisions import Decision
from eval.audit.queue import Entry
from eval.query_table import sample_digest
from eval.runner import Samples
from prompter.errors import UserError
from prompter.runs.files import atomic_write
from prompter.runs.jsonl import write_lines

MANIFEST = "manifest.jsonl"
PROVENANCE = "provenance.jsonl"
NOT_REVIEWED = "not-reviewed"
TAG = "audit"
"""Tag of every query of a repaired split: its verdict, or `NOT_REVIEWED`."""

_SAYS_NONE = ("target", "multiplicity")  # tags in which a set says that there is no target


@dataclass(frozen=True)
class Repair:
    """What decisions do to labels.

    Args:
        labels: sample_id -> the label that takes the old one's place.
        dropped: samples that are left out.
    """

    labels: Mapping[str, RLE]
    dropped: frozenset[str]


def repair_of(entries: Mapping[str, Entry], decisions: Mapping[str, Decision]) -> Repair:
    """Carry decisions out.

    Args:
        entries: the audit's queue, by sample id.
        decisions: by sample id.

    Raises:
        UserError: if a decision is about a sample that was not audited, or takes a mask that it has not.
    """
    labels: dict[str, RLE] = {}
    for name, decision in decisions.items():
        if name not in entries:
            raise UserError(f"Sample {name!r} was decided on, but this audit holds no such sample.")
        if decision.verdict not in ("consensus", "redrawn"):
            continue
        mask = getattr(entries[name], decision.verdict)
        if mask is None:
            raise UserError(
                f"The decision on sample {name!r} takes the mask {decision.verdict!r}, but there is none; "
                f"decide otherwise."
            )
        labels[name] = mask
    dropped = {name for name, decision in decisions.items() if decision.verdict == "drop"}
    return Repair(labels, frozenset(dropped))


def write_repaired(
    samples: Samples,
    entries: Mapping[str, Entry],
    decisions: Mapping[str, Decision],
    out: Path,
    *,
    audit: str,
    benchmark: str,
    predictors: tuple[str, ...],
) -> dict[str, int]:
    """Write `manifest.jsonl` and `provenance.jsonl`, and the images that lie in no file of their own.

    The manifest holds every query of the split but the dropped ones, under its own sample id, so that stored
    rollouts can be scored on it; open it with `open_dataset("manifest", SPLIT, path=…)`. An image that a
    dataset reads plainly from a file is named by its path relative to `out`; others are written as PNG.

    Args:
        samples: the split, as audited.
        entries, decisions: by sample id.
        out: folder to write into.
        audit, benchmark, predictors: of the audit, for the provenance.

    Returns:
        verdict, or `NOT_REVIEWED` -> number of queries.

    Raises:
        UserError: as `repair_of`, or if a decided sample is not in the split.
    """
    repair = repair_of(entries, decisions)
    counts: Counter[str] = Counter()
    images = _Images(out)

    def lines() -> Iterator[dict[str, Any]]:
        for number in range(len(samples)):
            sample = samples[number]
            decision = decisions.get(sample.sample_id)
            verdict = NOT_REVIEWED if decision is None else decision.verdict
            counts[verdict] += 1
            if verdict != "drop":
                yield _record(sample, repair.labels.get(sample.sample_id), verdict, images.name(sample))

    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / MANIFEST, lines())
    missing = sum(counts[name] for name in counts if name != NOT_REVIEWED)
    if missing != len(decisions):
        raise UserError(
            f"{len(decisions) - missing} of the {len(decisions)} decided samples are not in {benchmark}; "
            f"was the benchmark changed since the audit?"
        )
    write_lines(
        out / PROVENANCE,
        (
            _provenance(entries[name], decision, audit, benchmark, predictors)
            for name, decision in decisions.items()
        ),
    )
    return dict(counts)


def _record(sample: Sample, label: RLE | None, verdict: str, image: str) -> dict[str, Any]:
    """A line of the manifest; `label` is the new one, or None for the sample's own."""
    tags = {**sample.tags, TAG: verdict}
    record: dict[str, Any] = {"id": sample.sample_id, "image": image, "query": sample.query}
    if label is None:
        record["mask"] = sample.target
        if sample.instances:
            record["instances"] = list(sample.instances)
    else:
        is_empty = not decode_rle(label, sample.mask_hw).any()
        record["mask"] = None if is_empty else label
        for name in _SAYS_NONE:
            if is_empty != (tags.get(name) == "none"):
                tags.pop(name, None)  # the set's own word on it, which the new label contradicts
    if sample.ignore is not None:
        record["ignore"] = sample.ignore
    return {**record, "tags": tags}


def _provenance(
    entry: Entry, decision: Decision, audit: str, benchmark: str, predictors: tuple[str, ...]
) -> dict[str, Any]:
    voters = [name for name, is_member in zip(predictors, entry.members, strict=True) if is_member]
    return {
        **decision.to_json(),
        "benchmark": benchmark,
        "audit": audit,
        "rank": entry.rank,
        "kind": entry.kind,
        "original": entry.label,
        "voters": voters if decision.verdict == "consensus" else [],
    }


class _Images:
    """Names images in a manifest's folder, and writes those that lie in no file."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._names: dict[str, str] = {}

    def name(self, sample: Sample) -> str:
        """Path of a sample's image, relative to the folder."""
        key = image_key(sample)
        if key not in self._names:
            self._names[key] = self._linked(sample) or self._written(sample, key)
        return self._names[key]

    def _linked(self, sample: Sample) -> str | None:
        """The file that a manifest would read in the same way, or None."""
        load = sample.load_image
        if not isinstance(load, ImageFile) or load != ImageFile(load.path):
            return None
        return os.path.relpath(load.path, self._out)

    def _written(self, sample: Sample, key: str) -> str:
        safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in sample.image_id).strip(".-")[-60:]
        name = f"images/{safe}-{sample_digest(key) & 0xFFFFFFFF:08x}.png"
        with atomic_write(self._out / name, "wb") as handle:
            sample.load_image().convert("RGB").save(handle, format="PNG")
        return name
