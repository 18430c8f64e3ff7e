"""The set from what was proposed and asked: a manifest, LaSeRS' layout, provenance and counts.

Everything is written anew from the engine's work files, so the same work gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.datasets.building_words import SEMANTIC_KINDS
from envs.datasets.lasers import AXES, SEGMENT_TOKEN
from prompter.errors import UserError
from prompter.runs.files import atomic_write
from prompter.runs.jsonl import write_lines
from recipes.engine.filters import FILTERS
from recipes.engine.masks import Candidate
from recipes.engine.questions import Question
from recipes.engine.settings import EngineSettings
from recipes.engine.store import EngineFolder, work_name

HALVES = ("train", "test")
MANIFESTS = {"train": "manifest.jsonl", "test": "manifest_test.jsonl"}
PROVENANCE, SUMMARY = "provenance.jsonl", "summary.json"


@dataclass(frozen=True)
class Item:
    """One question in one wording, ready to be written.

    Args:
        identity: IMAGE#QUESTION.WORDING, unique in the set.
        half: train or test.
        image: path below `HALF/images`.
        question: what it is one wording of.
        wording: which, from 0.
        masks: its targets.
        facts: of the image and of each mask, for the provenance.
    """

    identity: str
    half: str
    image: str
    question: Question
    wording: int
    masks: tuple[Candidate, ...]
    facts: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The question."""
        return self.question.wordings[self.wording]

    def tags(self) -> dict[str, str]:
        """Breakdown keys: LaSeRS' four axes, category, and the number of the wording."""
        categories = list(dict.fromkeys(self.question.meant.categories))
        return {
            "granularity": _granularity(self),
            "multiplicity": "one" if len(self.masks) == 1 else "several",
            "reasoning": self.question.reasoning,
            "length": self.question.length,
            "categories": "one" if len(categories) == 1 else "several",
            "category": " and ".join(categories),
            "kind": self.question.meant.kind,
            "phrasing": str(self.wording + 1),
        }


def items(folder: EngineFolder, settings: EngineSettings, names: Sequence[str]) -> Iterator[Item]:
    """All items of a set, in the order of its images."""
    for name in names:
        masks = folder.read(work_name("masks", name))
        asked = folder.read(work_name("questions", name))
        facts = {"sha256": masks["sha256"], "image_wh": masks["image_wh"]}
        drawn = [
            Candidate.from_json(
                {key: value for key, value in one.items() if key not in ("category", "shape")}
            )
            for one in asked["masks"]
        ]
        half = _half(masks["sha256"], settings)
        for number, data in enumerate(asked["questions"]):
            question = Question.from_json(data)
            picked = tuple(drawn[mask] for mask in question.meant.masks)
            own = {**facts, "masks": [asked["masks"][mask] for mask in question.meant.masks]}
            for wording in range(len(question.wordings)):
                yield Item(f"{name}#{number}.{wording}", half, name, question, wording, picked, own)


def assemble(
    folder: EngineFolder,
    images: Path | None,
    names: Sequence[str],
    verdicts: Mapping[str, Mapping[str, Any]],
    *,
    reviewed: bool = False,
) -> dict[str, Any]:
    """Write the set; return its summary.

    Args:
        folder: whose images are all worked on.
        images: where the images are; those of the set are copied into it. None where they were before.
        names: of its images.
        verdicts: identity -> what was last said of an item (`recipes.engine.review`).
        reviewed: keep only items that passed the review; else all but those that failed it.
    """
    settings = folder.settings()
    everything = list(items(folder, settings, names))
    kept = [one for one in everything if _stays(verdicts.get(one.identity), reviewed)]
    for name, half in dict.fromkeys((one.image, one.half) for one in kept):
        target = folder.path / half / "images" / name
        if not target.exists():
            if images is None:
                raise UserError(f"{target} is missing; give the folder of images again.")
            _copy(images / name, target)
    for half, manifest in MANIFESTS.items():
        own = [one for one in kept if one.half == half]
        if own or half == "train":
            write_lines(folder.path / manifest, map(_manifest_line, own))
        _write_lasers(folder.path, half, own)
    write_lines(folder.path / PROVENANCE, (_provenance(one, settings, verdicts) for one in kept))
    summary = _summary(folder, names, everything, kept, verdicts)
    folder.write(SUMMARY, summary)
    return summary


def worked_on(folder: EngineFolder) -> list[str]:
    """The images that are asked about, by the work files, sorted."""
    root = folder.path / "work/questions"
    return sorted(path.relative_to(root).as_posix().removesuffix(".json") for path in root.rglob("*.json"))


def _half(sha256: str, settings: EngineSettings) -> str:
    """Which half an image belongs to: its content decides, whatever stands beside it."""
    digest = hashlib.blake2b(f"{settings.seed}:{sha256}".encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") / 2**64 < settings.test_share else "train"


def _stays(verdict: Mapping[str, Any] | None, reviewed: bool) -> bool:
    return not reviewed if verdict is None else bool(verdict["passed"])


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target, "wb") as handle, open(source, "rb") as given:
        shutil.copyfileobj(given, handle)


def _granularity(item: Item) -> str:
    if all(mask.source == "inside" for mask in item.masks):
        return "part"
    kinds = item.question.meant.kind.split(" and ")
    return "semantic" if all(kind == "only" or kind in SEMANTIC_KINDS for kind in kinds) else "instance"


def _manifest_line(item: Item) -> dict[str, Any]:
    return {
        "id": item.identity,
        "image": f"{item.half}/images/{item.image}",
        "query": item.text,
        "instances": [mask.mask for mask in item.masks],
        "boxes": [list(mask.box) for mask in item.masks],
        "tags": item.tags(),
    }


def _lasers_record(item: Item) -> dict[str, Any]:
    return {
        "id": item.identity,
        "image_name": item.image,
        "description": item.text,
        "answer": f"{item.question.answer} {', '.join([SEGMENT_TOKEN] * len(item.masks))}",
        "mask": [mask.mask for mask in item.masks],
        "bbox": [list(mask.box) for mask in item.masks],
        "category": list(item.question.meant.categories),
    }


def _write_lasers(path: Path, half: str, own: Sequence[Item]) -> None:
    """LaSeRS' annotation files of a half; no file for an axis that nothing is on."""
    files: dict[str, list[Item]] = {}
    if half == "train":
        files["train_data"] = list(own)
    else:
        for stem, (tag, value) in AXES.values():
            files[stem] = [one for one in own if one.tags().get(tag) == value]
    for stem, records in files.items():
        target = path / half / "annotations" / f"{stem}.json"
        if records:
            with atomic_write(target) as handle:
                json.dump([_lasers_record(one) for one in records], handle, ensure_ascii=False, indent=0)
                handle.write("\n")
        else:
            target.unlink(missing_ok=True)


def _provenance(
    item: Item, settings: EngineSettings, verdicts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    masks = [{key: value for key, value in one.items() if key != "mask"} for one in item.facts["masks"]]
    return {
        "id": item.identity,
        "image": item.image,
        "image_sha256": item.facts["sha256"],
        "segmenter": settings.executor,
        "masks": masks,
        "question": {"by": item.question.by, "kind": item.question.meant.kind, "wording": item.wording},
        "review": verdicts.get(item.identity),
    }


def _summary(
    folder: EngineFolder,
    names: Sequence[str],
    everything: Sequence[Item],
    kept: Sequence[Item],
    verdicts: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    proposed: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    shapes: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    stayed = named = 0
    for name in names:
        masks = folder.read(work_name("masks", name))
        asked = folder.read(work_name("questions", name))
        proposed.update(masks["proposed"])
        removed.update(masks["removed"])
        shapes.update(asked["removed"])
        refused.update(asked["refused"])
        stayed += len(asked["masks"])
        named += sum(bool(one["category"]) for one in asked["masks"])
    removed["shape"] += sum(shapes.values())
    tags = [one.tags() for one in kept]
    axes = ("granularity", "multiplicity", "reasoning", "length", "categories")
    return {
        "images": len(names),
        "masks": {
            "proposed": {**proposed, "empty": removed["empty"]},
            "removed": {name: removed[name] for name in FILTERS},
            "shape": dict(sorted(shapes.items())),
            "kept": stayed,
            "with a category": named,
        },
        "questions": {
            "samples": len(kept),
            "images": len({one.image for one in kept}),
            "axes": {axis: dict(sorted(Counter(tag[axis] for tag in tags).items())) for axis in axes},
            "replies not used": dict(sorted(refused.items())),
        },
        "review": {
            "samples": len(everything),
            "reviewed": sum(one.identity in verdicts for one in everything),
            "passed": sum(
                bool(verdicts[one.identity]["passed"]) for one in everything if one.identity in verdicts
            ),
        },
    }
