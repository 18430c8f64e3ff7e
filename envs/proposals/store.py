"""Proposals kept on disk by image content: a grid over an image is computed once for all runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from envs.executors.base import Executor, ExecutorFailure
from envs.masks import decode_rle
from envs.proposals.propose import Proposal, Proposals, propose_grid
from envs.proposals.rules import GridRules
from envs.sample import RGB, content_hash
from prompter.runs.files import atomic_write


class ProposalStore:
    """One JSON file per image below a folder, which several stores and processes may share.

    Args:
        folder: created when something is kept.
        identity: what decides which masks are proposed: segmenter and rules, JSON-ready; files
            of another identity are never read as this one's.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True)
        self.folder, self._identity = folder, hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def path(self, image: RGB) -> Path:
        """Where the proposals for an image are kept."""
        return self.folder / self._identity[:16] / f"{content_hash(image)}.json"

    def get(self, image: RGB) -> Proposals | None:
        """What was kept for an image; None if there is nothing, or it cannot be read (then it is removed)."""
        path = self.path(image)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["identity"] != self._identity:
                raise ValueError("made by another segmenter or under other rules")
            return proposals_from_json(data, (image.shape[1], image.shape[0]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            path.unlink(missing_ok=True)
            return None

    def put(self, image: RGB, proposals: Proposals) -> None:
        """Keep the proposals for an image.

        Raises:
            DiskFull: if there is no space.
        """
        with atomic_write(self.path(image)) as handle:
            json.dump({"identity": self._identity, **proposals_to_json(proposals)}, handle)


class GridProposer:
    """A segmenter with the rules by which it proposes, and what it proposed before.

    Args:
        open_segmenter: opens the segmenter, when an image comes up that was not proposed for before;
            closed with this object.
        identity: what decides the segmenter's masks.
        rules: grid and filters.
        folder: of the `ProposalStore`; None keeps nothing.
    """

    def __init__(
        self,
        open_segmenter: Callable[[], Executor],
        identity: Mapping[str, Any],
        rules: GridRules,
        folder: Path | None,
    ) -> None:
        self.rules = rules
        self._open = open_segmenter
        self._executor: Executor | None = None
        known = {"segmenter": dict(identity), "rules": rules.model_dump(mode="json")}
        self._store = None if folder is None else ProposalStore(folder, known)
        self.computed = 0
        """Images proposed for by this object and not found on disk."""

    @property
    def executor(self) -> Executor:
        """The segmenter, opened if it was not yet."""
        if self._executor is None:
            self._executor = self._open()
        return self._executor

    def propose(self, image: RGB, image_key: str = "") -> Proposals | ExecutorFailure:
        """Proposals for one image ([height, width, 3] uint8 RGB), looked up or computed."""
        stored = None if self._store is None else self._store.get(image)
        if stored is not None:
            return stored
        found = propose_grid(self.executor, image, self.rules, image_key)
        if isinstance(found, Proposals):
            self.computed += 1
            if self._store is not None:
                self._store.put(image, found)
        return found

    def close(self) -> None:
        """Close the segmenter. Safe to call twice."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None


def proposals_to_json(proposals: Proposals) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "image_wh": list(proposals.image_wh),
        "removed": proposals.removed,
        "kept": [
            {
                "mask": one.mask,
                "box": list(one.box),
                "area": one.area,
                "predicted_iou": one.predicted_iou,
                "stability": one.stability,
                "prompt": one.prompt,
            }
            for one in proposals.kept
        ],
    }


def proposals_from_json(data: Mapping[str, Any], image_wh: tuple[int, int]) -> Proposals:
    """Inverse of `proposals_to_json`, for an image of (width, height).

    Raises:
        ValueError, KeyError, TypeError: if it is none, or another image's.
    """
    kept = []
    for one in data["kept"]:
        decode_rle(one["mask"], (image_wh[1], image_wh[0]))  # refuses what is damaged, or another size's
        x1, y1, x2, y2 = (float(value) for value in one["box"])
        scores = float(one["predicted_iou"]), float(one["stability"])
        kept.append(Proposal(one["mask"], (x1, y1, x2, y2), int(one["area"]), *scores, int(one["prompt"])))
    if tuple(data["image_wh"]) != tuple(image_wh):
        raise ValueError(f"proposals for an image of {data['image_wh']} pixels, not {image_wh}")
    return Proposals(image_wh, tuple(kept), {str(k): int(v) for k, v in data["removed"].items()})
