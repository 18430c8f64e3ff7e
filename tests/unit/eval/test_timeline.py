"""The timeline says who worked and who waited for whom, from events and from the sums of older runs."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from eval.report.timeline import MOST_WINDOWS, draw_timeline, events_of_sums, sampling_spans, waiting_shares


def event(phase: str, start: float, end: float, step: int = 1, who: str = "trainer") -> dict[str, Any]:
    return {"phase": phase, "who": who, "start_s": start, "end_s": end, "step": step}


def window(start: float, step: int, last: int | None = None) -> list[dict[str, Any]]:
    """Ten seconds: four of sampling, the encoder beside for two, two of segmenting, four of training."""
    return [
        event("sample", start, start + 4, step),
        event("encode", start, start + 2, step, "segmenter mobile-sam"),
        event("segment", start + 4, start + 6, step),
        event("optimise", start + 6, start + 10, step if last is None else last),
    ]


def test_shares_are_of_work_and_of_whom_a_row_waits_for() -> None:
    shares = waiting_shares([*window(100.0, 1), *window(110.0, 2)])
    assert shares["trainer"] == pytest.approx(
        {"work": 0.4, "trainer": 0.0, "sampler": 0.3, "segmenter": 0.3, "nobody": 0.0}
    )
    assert shares["sampler"] == pytest.approx(
        {"work": 0.4, "trainer": 0.4, "sampler": 0.0, "segmenter": 0.2, "nobody": 0.0}
    )
    assert shares["segmenter"] == pytest.approx(
        {"work": 0.4, "trainer": 0.4, "sampler": 0.2, "segmenter": 0.0, "nobody": 0.0}
    )


def test_what_stands_still_counts_for_nobody_and_time_without_a_phase_is_nobodys() -> None:
    events = [
        event("optimise", 0, 2),
        event("checkpoint", 2, 8),
        event("sample", 9, 11),
        event("sync", 10, 11),
    ]
    shares = waiting_shares(events)
    assert {row: shares[row]["work"] for row in shares} == pytest.approx(
        {"trainer": 3 / 5, "sampler": 2 / 5, "segmenter": 0.0}
    )
    assert shares["segmenter"]["nobody"] == pytest.approx(1 / 5)
    for row in shares.values():
        assert sum(row.values()) == pytest.approx(1.0)


def test_nested_and_overlapping_phases_of_a_row_are_counted_once() -> None:
    shares = waiting_shares([event("optimise", 0, 4), event("sync", 1, 2), event("load", 3, 5)])
    assert shares["trainer"]["work"] == pytest.approx(1.0)


def test_engines_are_at_work_while_a_group_they_finished_is_scored() -> None:
    rounds = [
        *(event("load", 0, 1), event("sample", 1, 3), event("segment", 3, 4), event("sample", 4, 6)),
        *(event("segment", 6, 7), event("load", 7, 8), event("sample", 8, 9), event("segment", 9, 10)),
    ]
    found = [(one["start_s"], one["end_s"]) for one in sampling_spans(rounds) if one["phase"] == "sample"]
    assert found == [(1, 6), (8, 9)], "not while the second round is loaded"
    shares = waiting_shares(sampling_spans(rounds))
    assert shares["sampler"]["work"] == pytest.approx(0.6)
    assert shares["segmenter"]["sampler"] == pytest.approx(0.5)


def test_the_picture_shows_the_last_windows_as_bars_of_their_lengths() -> None:
    windows = MOST_WINDOWS + 3
    events = [one for step in range(windows) for one in window(10.0 * step, 2 * step, 2 * step + 1)]
    events.append(event("checkpoint", 90.0, 91.0, 99))  # after everything that is drawn
    drawn = draw_timeline(events, [])
    assert drawn is not None
    root = ElementTree.fromstring(str(drawn.picture).strip())
    bars = [one for one in root.iter("rect") if one.find("title") is not None]
    assert len(bars) == 4 * MOST_WINDOWS
    by_phase: dict[str, set[float]] = {}
    for bar in bars:
        phase = str(bar.find("title").text).partition(",")[0]  # type: ignore[union-attr]
        by_phase.setdefault(phase, set()).add(round(float(bar.get("width", "0"))))
    widths = {phase: min(found) for phase, found in by_phase.items()}
    assert widths["sample"] == pytest.approx(2 * widths["segment"], abs=1)
    assert {bar.get("y") for bar in bars} == {"60", "94", "128"}, "a row for each of the three"
    assert "9 windows; the last 6 are drawn" in drawn.note
    assert drawn.shares[1] == ["trainer", "40.0%", "", "30.0%", "30.0%", "0.0%"]


def test_a_run_of_sums_is_drawn_one_phase_after_another_and_says_so() -> None:
    line = {
        "kind": "train",
        "step": 3,
        "seconds": {"optimise": 2.0, "sample": 1.0, "segment": 1.0, "wait": 9.0},
    }
    metrics = [line, {"kind": "eval", "step": 3, "gIoU": 0.5}]
    assert [(one["phase"], one["start_s"], one["end_s"]) for one in events_of_sums(metrics)] == [
        ("sample", 0.0, 1.0),
        ("segment", 1.0, 2.0),
        ("optimise", 2.0, 4.0),
    ]
    drawn = draw_timeline([], metrics)
    assert drawn is not None and "sums alone" in drawn.note
    assert drawn.shares[1][:2] == ["trainer", "50.0%"]


def test_a_run_without_phases_has_no_timeline() -> None:
    assert draw_timeline([], [{"kind": "eval", "step": 0, "gIoU": 0.1}]) is None
    assert draw_timeline([event("wait", 0, 1)], []) is None
