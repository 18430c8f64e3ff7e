"""Several looks on the page of a run: gIoU against their number and their cost, and the confidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envs.rollout import EXPECTED_HIT, EXPECTED_IOU
from eval.looks.text import (
    abstention_sentence,
    combined_sentence,
    confidence_rows,
    curve_rows,
)
from eval.report.charts import Series, line_chart

_WIDTH, _HEIGHT = 480, 260
_PALE = "#94a3b8"


def looks_sections(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the template shows of each segmenter whose results hold `looks` (`eval.looks.summary`).

    Args:
        results: executor -> summary, as `eval.results.rescore` returns it.
    """
    return [_section(name, one["looks"]) for name, one in results.items() if one.get("looks")]


def _section(executor: str, looks: Mapping[str, Any]) -> dict[str, Any]:
    curve, confidence = looks["curve"], looks["confidence"]
    charts: list[Any] = []
    halves: list[Any] = []
    if curve is not None:
        charts.append(_against_number(curve))
        if looks["seconds"] is not None:
            charts.append(_against_seconds(curve, looks["seconds"]))
    if confidence is not None:
        halves += [_risk_chart(confidence), _reliability(confidence)]
    abstention = None if confidence is None else confidence["abstention"]
    return {
        "executor": executor,
        "sentence": combined_sentence(looks),
        "charts": [chart for chart in charts if chart],
        "halves": [chart for chart in halves if chart],
        "curve": [] if curve is None else curve_rows(looks),
        "confidence": [] if confidence is None else confidence_rows(looks),
        "abstention": "" if abstention is None else abstention_sentence(abstention),
    }


def _name(rule: str, one: Mapping[str, Any]) -> str:
    return f"{rule} (bound)" if one["uses_truth"] else rule


def _against_number(curve: Mapping[str, Any]) -> Any:
    numbers = curve["samples"]
    series = [
        Series(_name(rule, one), _points(numbers, one), "marks") for rule, one in curve["rules"].items()
    ]
    level = curve["greedy"]["value"]
    series.append(Series("greedy", [(numbers[0], level), (numbers[-1], level)], "line", _PALE))
    return line_chart(
        series, title="gIoU against looks", x_label="samples per question", width=2 * _WIDTH, height=_HEIGHT
    )


def _against_seconds(curve: Mapping[str, Any], seconds: Mapping[str, Any]) -> Any:
    series = [
        Series(rule, _points(seconds["looks"], one), "marks")
        for rule, one in curve["rules"].items()
        if not one["uses_truth"]
    ]
    series.append(Series("greedy", [(seconds["greedy"], curve["greedy"]["value"])], "marks", _PALE))
    return line_chart(
        series, title="gIoU against time", x_label="seconds per question", width=2 * _WIDTH, height=_HEIGHT
    )


def _points(xs: Any, one: Mapping[str, Any]) -> list[tuple[float, float | None]]:
    return [(float(x), metric["value"]) for x, metric in zip(xs, one["gIoU"], strict=True)]


def _risk_chart(confidence: Mapping[str, Any]) -> Any:
    named = {EXPECTED_IOU: "1 - IoU", EXPECTED_HIT: "IoU under 0.5"}
    series = [Series(named[name], _pairs(one["points"])) for name, one in confidence["risk"].items()]
    return line_chart(
        series, title="Risk against coverage", x_label="share answered, surest first", width=_WIDTH
    )


def _reliability(confidence: Mapping[str, Any]) -> Any:
    series = [
        Series(
            kind, _pairs([(one["confidence"], one["outcome"]) for one in by_outcome[EXPECTED_IOU]]), "marks"
        )
        for kind, by_outcome in confidence["bins"].items()
        if by_outcome[EXPECTED_IOU]
    ]
    if not series:
        return ""
    series.append(Series("exact", [(0.0, 0.0), (1.0, 1.0)], "faint", _PALE))
    return line_chart(series, title="Mean IoU at a confidence", x_label="confidence", width=_WIDTH)


def _pairs(points: Any) -> list[tuple[float, float | None]]:
    return [(float(x), float(y)) for x, y in points]
