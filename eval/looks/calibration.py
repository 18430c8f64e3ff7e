"""From a raw figure to an expected IoU: fitted on one split, kept as JSON, applied to another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.rollout import EXPECTED_HIT, EXPECTED_IOU
from eval.looks.isotonic import Isotonic, fit_isotonic
from eval.looks.risk import risk_coverage
from prompter.errors import UserError
from prompter.runs.files import atomic_write

FORMAT = 1

HIT = 0.5
"""IoU from which on an answer is a hit."""

TARGETS = (EXPECTED_IOU, EXPECTED_HIT)


@dataclass(frozen=True)
class Calibration:
    """How a raw figure becomes an expected IoU and a probability of a hit, for one segmenter.

    Args:
        queries: how many it was fitted on.
        curves: by the names in `TARGETS`; None where no query had the raw figure.
        missing: by the names in `TARGETS`: what is expected where the raw figure has no value; None if no
            query lacked it.
        risk: (confidence, coverage, risk) per level of the raw figure, as `risk_coverage` found them on the
            fitted queries with the risk 1 - IoU; where to abstain is read from it.
    """

    queries: int
    curves: Mapping[str, Isotonic | None]
    missing: Mapping[str, float | None]
    risk: Sequence[tuple[float, float, float]]

    def apply(self, raw: float | None) -> dict[str, float | None]:
        """Expected IoU and probability of a hit of one answer, by the names in `TARGETS`."""
        if raw is None:
            return dict(self.missing)
        return {
            name: float(curve(raw)) if (curve := self.curves[name]) is not None else self.missing[name]
            for name in TARGETS
        }

    def threshold_for(self, risk: float) -> float | None:
        """The raw figure from which on answers had at most this risk (1 - IoU); None if no level had.

        -inf where even those without a figure may be answered.
        """
        held = [threshold for threshold, _, level in self.risk if level <= risk]
        return min(held) if held else None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; -inf is written as null."""
        return {
            "queries": self.queries,
            "curves": {
                name: None if curve is None else {"x": curve.x.tolist(), "y": curve.y.tolist()}
                for name, curve in self.curves.items()
            },
            "missing": dict(self.missing),
            "risk": [[None if np.isinf(level) else level, *rest] for level, *rest in self.risk],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """Inverse of `to_json`."""
        curves = {
            name: None
            if (curve := data["curves"][name]) is None
            else Isotonic(_numbers(curve["x"]), _numbers(curve["y"]))
            for name in TARGETS
        }
        missing = {
            name: None if (value := data["missing"][name]) is None else float(value) for name in TARGETS
        }
        risk = [
            (-np.inf if level is None else float(level), float(coverage), float(value))
            for level, coverage, value in data["risk"]
        ]
        return cls(int(data["queries"]), curves, missing, risk)


def _numbers(values: Any) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if (
        numbers.ndim != 1
        or not numbers.size
        or not np.isfinite(numbers).all()
        or (np.diff(numbers) < 0).any()
    ):
        raise ValueError("a curve needs finite numbers that do not decrease")
    return numbers


def fit_calibration(raw: Sequence[float | None], scores: Sequence[float]) -> Calibration:
    """Fit by isotonic regression of the IoU, and of whether it reaches `HIT`, on a raw figure.

    Args:
        raw: the figure of each answer, or None.
        scores: the reward `mask_iou` of each answer.

    Raises:
        UserError: if there is no answer.
    """
    if not len(scores):
        raise UserError("A calibration needs answers with a score; this run holds none.")
    outcomes = np.asarray(scores, dtype=np.float64)
    known = np.array([value is not None for value in raw])
    figures = np.array([-np.inf if value is None else value for value in raw])
    targets = {EXPECTED_IOU: outcomes, EXPECTED_HIT: (outcomes >= HIT).astype(np.float64)}
    curve = risk_coverage(figures, 1 - outcomes)
    return Calibration(
        queries=len(outcomes),
        curves={
            name: fit_isotonic(figures[known], wanted[known]) if known.any() else None
            for name, wanted in targets.items()
        },
        missing={
            name: float(wanted[~known].mean()) if not known.all() else None
            for name, wanted in targets.items()
        },
        risk=list(zip(curve.threshold.tolist(), curve.coverage.tolist(), curve.risk.tolist(), strict=True)),
    )


@dataclass(frozen=True)
class CalibrationFile:
    """What a calibration file holds.

    Args:
        made: what it was fitted on and for: `rule`, `samples`, `source`, and of the run's config
            `policy`, `policy_options`, `benchmark`, `looks`.
        executors: a calibration per segmenter, by name.
    """

    made: Mapping[str, Any]
    executors: Mapping[str, Calibration]

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        data = {
            "format": FORMAT,
            **self.made,
            "executors": {name: one.to_json() for name, one in self.executors.items()},
        }
        with atomic_write(path) as handle:
            json.dump(data, handle, indent=1, ensure_ascii=False, allow_nan=False)
            handle.write("\n")

    @classmethod
    def read(cls, path: Path) -> CalibrationFile:
        """Read what `write` wrote.

        Raises:
            UserError: if it is missing, or is something else.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, where {FORMAT} is known")
            executors = {name: Calibration.from_json(one) for name, one in data["executors"].items()}
            made = {key: value for key, value in data.items() if key not in ("format", "executors")}
            for key in ("rule", "samples", "source"):
                made[key]
        except OSError as error:
            raise UserError(f"The calibration {path} cannot be read: {error.strerror}.") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is no calibration of `--fit-calibration` ({error!r}).") from None
        return cls(made, executors)
