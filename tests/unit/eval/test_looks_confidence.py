"""Isotonic regression, calibration error, risk against coverage: against cases worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.looks.calibration import CalibrationFile, fit_calibration
from eval.looks.isotonic import fit_isotonic
from eval.looks.risk import best_area, calibration_bins, calibration_error, covered, risk_coverage
from prompter.errors import UserError


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_what_does_not_decrease_is_kept() -> None:
    found = fit_isotonic([1, 2, 3], [0.1, 0.5, 0.9])
    assert found([0, 1, 1.5, 3, 9]).tolist() == pytest.approx([0.1, 0.1, 0.3, 0.9, 0.9])


def test_violators_are_pooled_to_their_mean() -> None:
    found = fit_isotonic([1, 2, 3, 4, 5], [1, 3, 2, 6, 5])
    assert found([1, 2, 3, 4, 5]).tolist() == pytest.approx([1, 2.5, 2.5, 5.5, 5.5])
    assert fit_isotonic([1, 2, 3], [3, 2, 1])([1, 2, 3]).tolist() == pytest.approx([2, 2, 2])


def test_equal_inputs_count_as_one_point_with_their_weight() -> None:
    found = fit_isotonic([1, 1, 1, 2], [0, 1, 1, 0])
    assert found([1, 2]).tolist() == pytest.approx([0.5, 0.5])


def test_no_other_monotone_function_is_nearer() -> None:
    """Against all monotone functions with values on a grid, in the order of x."""
    random = np.random.default_rng(0)
    grid = np.linspace(0, 1, 5)
    steps = np.array([list(p) for p in _monotone(grid, 4)])
    for _ in range(20):
        y = random.random(4)
        fitted = fit_isotonic(np.arange(4), y)(np.arange(4))
        assert (np.diff(fitted) >= 0).all() and fitted.sum() == pytest.approx(y.sum())
        assert ((fitted - y) ** 2).sum() <= ((steps - y) ** 2).sum(axis=1).min() + 1e-12


def _monotone(grid: np.ndarray, length: int) -> list[tuple[float, ...]]:
    rows: list[tuple[float, ...]] = [()]
    for _ in range(length):
        rows = [(*row, value) for row in rows for value in grid if not row or value >= row[-1]]
    return rows


@pytest.mark.parametrize("x, y", [([], []), ([1.0], [1.0, 2.0]), ([np.nan], [0.0])])
def test_what_cannot_be_fitted_is_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="isotonic regression needs"):
        fit_isotonic(x, y)


def test_calibration_error_by_hand() -> None:
    confidence, outcome = array(0.05, 0.15, 0.95, 1.0), array(0.05, 0.35, 1.0, 0.5)
    assert calibration_error(confidence, confidence) == pytest.approx(0.0, abs=1e-12)
    # Bins [0, 0.1): 0; [0.1, 0.2): 0.2; [0.9, 1]: |0.975 - 0.75|, two answers.
    assert calibration_error(confidence, outcome) == pytest.approx((0 + 0.2 + 2 * 0.225) / 4)
    assert [one["queries"] for one in calibration_bins(confidence, outcome)] == [1, 1, 2]


def test_risk_and_coverage_by_hand() -> None:
    curve = risk_coverage(array(0.9, 0.8, 0.1, 0.5), array(0.0, 0.2, 1.0, 0.4))
    assert curve.threshold.tolist() == [0.9, 0.8, 0.5, 0.1]
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.4])
    assert curve.area == pytest.approx((0 + 0.1 + 0.2 + 0.4) / 4)


def test_equal_confidences_count_alike_in_any_order() -> None:
    risk = array(0.0, 1.0, 0.5, 0.1)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        curve = risk_coverage(np.ones(4), risk[order])
        assert curve.area == pytest.approx(0.4) and curve.risk.tolist() == pytest.approx([0.4])
    held = covered(array(0.9, 0.5, 0.5, 0.1), 0.5)
    assert held.tolist() == pytest.approx([1.0, 0.5, 0.5, 0.0])
    assert covered(array(0.9, 0.5, 0.5, 0.1), 1.0).tolist() == [1.0] * 4


def test_no_order_is_better_than_the_best() -> None:
    random = np.random.default_rng(1)
    risk = random.random(30)
    assert best_area(risk) <= min(risk_coverage(random.random(30), risk).area for _ in range(50))


def test_calibration_makes_the_error_vanish_where_it_was_fitted(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    raw = random.random(400)
    scores = np.clip(raw**3 + random.normal(0, 0.05, 400), 0, 1)
    fitted = fit_calibration([*raw.tolist(), None], [*scores.tolist(), 0.25])
    estimates = np.array([fitted.apply(value)["iou"] for value in raw])
    assert calibration_error(raw, scores) > 0.2 > 0.01 > calibration_error(estimates, scores)
    assert fitted.apply(None) == {"iou": 0.25, "hit": 0.0}

    held = CalibrationFile({"rule": "medoid", "samples": 4, "source": "share"}, {"box": fitted})
    held.write(tmp_path / "calibration.json")
    again = CalibrationFile.read(tmp_path / "calibration.json")
    assert [again.executors["box"].apply(value) for value in (0.2, 0.7, None)] == [
        fitted.apply(value) for value in (0.2, 0.7, None)
    ]
    assert again.made == held.made


def test_where_to_abstain_is_read_from_the_fitted_answers() -> None:
    fitted = fit_calibration([0.9, 0.8, 0.5, 0.1], [1.0, 0.8, 0.6, 0.0])
    assert fitted.threshold_for(0.1) == 0.8 and fitted.threshold_for(0.2) == 0.5
    assert fitted.threshold_for(0.99) == 0.1
    assert fit_calibration([0.9], [0.2]).threshold_for(0.1) is None
    assert fit_calibration([None, 0.9], [1.0, 1.0]).threshold_for(0.1) == -np.inf


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2}', json.dumps({"format": 1, "executors": {"box": {"queries": 1}}})]
)
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is no calibration of"):
        CalibrationFile.read(path)
    with pytest.raises(UserError, match="cannot be read"):
        CalibrationFile.read(tmp_path / "missing.json")
