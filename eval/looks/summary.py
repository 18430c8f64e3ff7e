"""What is reported about several looks: the curve over their number, and what the confidence is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.rollout import EXPECTED_HIT, EXPECTED_IOU, Rollout
from eval.bootstrap import Bootstrap, Ratio
from eval.looks.calibration import HIT, CalibrationFile, fit_calibration
from eval.looks.combining import read_combined
from eval.looks.confidence import SOURCES
from eval.looks.curve import SHOWN_RULES, curve_of, score_looks
from eval.looks.records import looks_files
from eval.looks.risk import best_area, calibration_bins, calibration_error, covered, risk_coverage
from eval.looks.rules import USES_TRUTH
from eval.looks.seconds import seconds_per_query
from eval.metrics import with_intervals
from eval.query_table import sample_digest
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from rewards.mask import mask_iou
from rewards.replay import read_rollouts

COVERAGES = (0.5, 0.8, 1.0)
"""Shares of the questions at which the risk is told."""

_CURVE_POINTS = 100
"""Points of a risk-coverage curve that are kept for the page, at most."""


@dataclass(frozen=True)
class Answers:
    """Combined answers with a score, as columns.

    Args:
        images: number of each question's image, int64 [queries].
        scores: the reward `mask_iou`, float64 [queries].
        figures: by the names in `Rollout.confidence`, float64 [queries]; NaN where one has no value.
    """

    images: NDArray[np.int64]
    scores: NDArray[np.float64]
    figures: Mapping[str, NDArray[np.float64]]


def read_answers(path: Path) -> Answers | None:
    """The answers of a file of rollouts that have a score and a confidence; None if there are none.

    Answers whose segmenter failed, and questions with boxes and no mask, have no score.
    """
    held = [one for rollout in read_rollouts(path) if (one := _scored(rollout)) is not None]
    if not held:
        return None
    images, scores, figures = zip(*held, strict=True)
    names = dict.fromkeys(name for one in figures for name in one)
    return Answers(
        np.unique(np.array(images, dtype=np.int64), return_inverse=True)[1],
        np.array(scores),
        {
            name: np.array([np.nan if (value := one.get(name)) is None else value for one in figures])
            for name in names
        },
    )


def _scored(rollout: Rollout) -> tuple[int, float, Mapping[str, float | None]] | None:
    if rollout.target is None or not rollout.confidence:
        return None
    score = mask_iou(rollout)
    if score is None:
        return None
    image = "\0".join((rollout.dataset, rollout.split, rollout.image_id))
    return sample_digest(image), score, rollout.confidence


def summarise_looks(folder: RunFolder, name: str, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """Everything that is reported about one segmenter's looks, JSON-ready.

    Keys: `rule`, `samples`, `source`, `calibration` and `max_risk` as in `eval.looks.combining.Combination`,
    `uses_truth`, `drawn` (how the looks were sampled), `curve` (`eval.looks.curve.curve_of`, over all samples
    that the run holds; None for a set of boxes), `seconds` (`eval.looks.seconds.seconds_per_query`, or
    None), and `confidence` (see `_confidence`; None where no answer has a score).

    Args:
        folder: a run whose looks were combined.
        name: of the segmenter's files, without their ending.
        bootstrap: settings of the intervals.
    """
    how = read_combined(folder)
    drawn = folder.read_config()["looks"]
    path = next(file for file in looks_files(folder) if file.stem == name)
    own = [] if how["rule"] in (*SHOWN_RULES, "greedy") else [how["rule"]]
    scores = score_looks(path, [*SHOWN_RULES, *own])
    curve = None if scores is None else curve_of(scores, bootstrap)
    answers = read_answers(folder.rollouts_dir / path.name)
    return {
        **{key: how[key] for key in ("rule", "samples", "source", "calibration", "max_risk")},
        "uses_truth": how["rule"] in USES_TRUTH,
        "drawn": drawn,
        "curve": curve,
        "seconds": None
        if curve is None
        else seconds_per_query(folder, name, curve["samples"], drawn["samples"]),
        "confidence": None
        if answers is None
        else _confidence(answers, how["source"], how["thresholds"].get(name), how["max_risk"], bootstrap),
    }


def _confidence(
    answers: Answers,
    source: str,
    threshold: Mapping[str, Any] | None,
    max_risk: float | None,
    bootstrap: Bootstrap | None,
) -> dict[str, Any]:
    """What the confidence is worth. Two outcomes: `iou`, and `hit`, whether it reaches 0.5.

    Keys: `queries`; `error` -> `raw`, `calibrated` -> outcome -> expected calibration error, or None;
    `bins`, likewise -> the bins behind it; `risk` -> outcome -> `area` (AURC), `area_best` (in the best
    order), `at` -> coverage -> metric, `points` ([coverage, risk] …); `sources` -> raw figure -> outcome ->
    `area`; `abstention` -> `max_risk`, `from`, `coverage`, `risk` (a metric), or None.
    """
    outcomes = {EXPECTED_IOU: answers.scores, EXPECTED_HIT: (answers.scores >= HIT).astype(np.float64)}
    raw = answers.figures[source]
    estimates = {
        "raw": dict.fromkeys(outcomes, raw),
        "calibrated": {name: answers.figures.get(name, np.full(len(raw), np.nan)) for name in outcomes},
    }
    order = _ordered(raw)
    return {
        "queries": len(answers.scores),
        "error": _per_outcome(estimates, outcomes, calibration_error),
        "bins": _per_outcome(estimates, outcomes, calibration_bins),
        "risk": {
            name: _risk(order, 1 - wanted, answers.images, bootstrap) for name, wanted in outcomes.items()
        },
        "sources": {
            one: {
                name: risk_coverage(_ordered(answers.figures[one]), 1 - wanted).area
                for name, wanted in outcomes.items()
            }
            for one in SOURCES
            if one in answers.figures
        },
        "abstention": None
        if threshold is None
        else _abstention(order, answers, threshold, max_risk, bootstrap),
    }


def _ordered(figure: NDArray[np.float64]) -> NDArray[np.float64]:
    """A figure with -inf where it has no value: such answers are the last to be trusted."""
    return np.where(np.isnan(figure), -np.inf, figure)


def _per_outcome(estimates: Any, outcomes: Mapping[str, NDArray[np.float64]], measure: Any) -> dict[str, Any]:
    """Kind of estimate -> outcome -> `measure` over the answers that have one; None if none has."""
    result: dict[str, Any] = {}
    for kind, by_outcome in estimates.items():
        result[kind] = {}
        for name, wanted in outcomes.items():
            known = ~np.isnan(by_outcome[name])
            result[kind][name] = measure(by_outcome[name][known], wanted[known]) if known.any() else None
    return result


def _risk(
    order: NDArray[np.float64],
    risk: NDArray[np.float64],
    images: NDArray[np.int64],
    bootstrap: Bootstrap | None,
) -> dict[str, Any]:
    curve = risk_coverage(order, risk)
    held = {f"{coverage:g}": covered(order, coverage) for coverage in COVERAGES}
    step = -(-len(curve.coverage) // _CURVE_POINTS)
    kept = sorted({*range(0, len(curve.coverage), step), len(curve.coverage) - 1})
    return {
        "area": curve.area,
        "area_best": best_area(risk),
        # Who is covered stays as it is while questions are drawn anew: these are intervals of the risk alone.
        "at": with_intervals(
            {name: Ratio.of(risk * one, one) for name, one in held.items()}, images, bootstrap
        ),
        "points": [[float(curve.coverage[place]), float(curve.risk[place])] for place in kept],
    }


def _abstention(
    order: NDArray[np.float64],
    answers: Answers,
    threshold: Mapping[str, Any],
    max_risk: float | None,
    bootstrap: Bootstrap | None,
) -> dict[str, Any]:
    """What became of the wanted risk here: who is answered, and at what risk."""
    lowest = -np.inf if threshold["from"] is None else threshold["from"]
    given = (order >= lowest).astype(np.float64) * bool(threshold["found"])
    ratios = {"risk": Ratio.of((1 - answers.scores) * given, given), "coverage": Ratio.of(given, 1.0)}
    return {"max_risk": max_risk, **threshold, **with_intervals(ratios, answers.images, bootstrap)}


def fit_run(folder: RunFolder, out: Path) -> CalibrationFile:
    """Fit a calibration on a run whose looks were combined, per segmenter, and write it as JSON.

    Raises:
        UserError: if the run has no looks, its rule looks at the target, or no answer has a score.
    """
    files = looks_files(folder)
    if not files:
        raise UserError(f"{folder.path} holds one answer per question; a calibration needs --samples.")
    how, config = read_combined(folder), folder.read_config()
    if how["rule"] in USES_TRUTH:
        raise UserError(f"The rule {how['rule']} looks at the target; there is nothing to calibrate.")
    fitted = {}
    for path in files:
        answers = read_answers(folder.rollouts_dir / path.name)
        if answers is None:
            raise UserError(f"No answer of {path.stem} in {folder.path} has a score to calibrate with.")
        raw = [None if np.isnan(value) else float(value) for value in answers.figures[how["source"]]]
        fitted[path.stem] = fit_calibration(raw, answers.scores.tolist())
    made = {
        **{key: how[key] for key in ("rule", "samples", "source")},
        **{key: config.get(key) for key in ("policy", "policy_options", "benchmark", "looks")},
    }
    found = CalibrationFile(made, fitted)
    found.write(out)
    return found
