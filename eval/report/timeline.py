"""Who worked and who waited for whom in a training run: a picture of some windows, and shares of all.

Three rows: the trainer, the sampler and the segmenter. A row is at work while one of its phases lasts,
whichever thread noted it, and waits otherwise; what it waits for is whoever is at work meanwhile.
Checkpoints and evaluations are left out of the shares, since the run's own loop stands still in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from eval.report.charts import CHART_PALETTE, ticks
from eval.report.html import from_template

ROWS = ("trainer", "sampler", "segmenter")

WORK: Mapping[str, str] = {
    "load": "trainer",
    "sync": "trainer",
    "old_logprobs": "trainer",
    "optimise": "trainer",
    "sample": "sampler",
    "segment": "segmenter",
    "encode": "segmenter",
}
"""Phase -> the row that is at work in it. A phase that nobody works in ("wait") is not among them."""

STANDSTILL = ("checkpoint", "evaluate")
"""Phases in which the loop stands still: drawn over all rows, counted in none."""

COLOURS = dict(zip([*WORK, *STANDSTILL], (*CHART_PALETTE, "#94a3b8"), strict=True))

MOST_WINDOWS = 6
"""Windows that are drawn: the last of a run."""

_BEFORE_EVENTS = ("sync", "load", "sample", "segment", "old_logprobs", "optimise")
"""Order of the phases of a step in runs that noted their sums alone; there they follow one another."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Timeline:
    """What a page shows of a run's timeline.

    Args:
        picture: an `<svg>` element.
        shares: table of text, the heading first: a row's share of time at work, and of waiting for each
            of the others.
        note: what was drawn and counted.
    """

    picture: Markup
    shares: list[list[str]]
    note: str


def draw_timeline(
    events: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]]
) -> Timeline | None:
    """The timeline of a run; None if it noted no phases.

    Args:
        events: lines of `timeline.jsonl` (phase, who, start_s, end_s, step); may be empty.
        metrics: lines of `metrics.jsonl`; their sums stand in where there are no events.
    """
    noted = list(events) or events_of_sums(metrics)
    known = [
        one for one in sampling_spans(noted) if one["phase"] in COLOURS and one["end_s"] > one["start_s"]
    ]
    # A window may be trained on for several steps; what collects it bears its first.
    steps = sorted(
        {one["step"] for one in known if one["phase"] == "sample"}
        or {one["step"] for one in known if one["phase"] in WORK}
    )
    if not steps:
        return None
    drawn = steps[-MOST_WINDOWS:]
    shown = [one for one in known if one["phase"] in WORK and one["step"] >= drawn[0]]
    shares = waiting_shares(known)
    table = [["", "at work", *(f"waits for the {row}" for row in ROWS), "nobody at work"]]
    for row in ROWS:
        others = ["" if other == row else f"{shares[row][other]:.1%}" for other in ROWS]
        table.append([row, f"{shares[row]['work']:.1%}", *others, f"{shares[row]['nobody']:.1%}"])
    return Timeline(
        _picture([*shown, *(one for one in known if _within(one, shown))]),
        table,
        f"Shares are of the whole run without checkpoints and evaluations, {len(steps)} windows; the last "
        f"{len(drawn)} are drawn."
        + (
            ""
            if events
            else " This run noted sums alone: within a window phases are drawn one after another."
        ),
    )


def events_of_sums(metrics: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Events as they must have been where a run noted `seconds` by phase and did one thing at a time."""
    events = []
    now = 0.0
    for line in metrics:
        seconds = line.get("seconds")
        if line.get("kind") != "train" or not isinstance(seconds, Mapping):
            continue
        for phase in _BEFORE_EVENTS:
            if seconds.get(phase):
                length = float(seconds[phase])
                events.append(
                    {
                        "phase": phase,
                        "who": "trainer",
                        "start_s": now,
                        "end_s": now + length,
                        "step": line["step"],
                    }
                )
                now += length
    return events


def sampling_spans(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Events in which the engines are at work from a window's first "sample" to its last.

    A pool hands over groups as they are finished: the driver notes "sample" while it waits for the next and
    "segment" while it scores one, and the engines sample the others meanwhile. Each round of sampling begins
    with a "load".
    """
    found: list[Mapping[str, Any]] = []
    begun: dict[tuple[int, str], dict[str, Any]] = {}
    for one in sorted(events, key=lambda event: event["start_s"]):
        key = (one["step"], one["who"])
        if one["phase"] == "load":
            begun.pop(key, None)
        if one["phase"] != "sample":
            found.append(one)
        elif key in begun:
            begun[key]["end_s"] = max(begun[key]["end_s"], one["end_s"])
        else:
            begun[key] = dict(one)
            found.append(begun[key])
    return found


def waiting_shares(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """For each row its share of time at work, and of waiting for each other row and for nobody.

    Where several others are at work while a row waits, they share that time equally. The shares of a row
    add up to 1.

    Args:
        events: with phases out of `WORK` and `STANDSTILL`.
    """
    still = merged((one["start_s"], one["end_s"]) for one in events if one["phase"] in STANDSTILL)
    at_work = {
        row: merged((one["start_s"], one["end_s"]) for one in events if WORK.get(one["phase"]) == row)
        for row in ROWS
    }
    times = sorted({time for spans in (still, *at_work.values()) for span in spans for time in span})
    seconds = {row: dict.fromkeys((*ROWS, "work", "nobody"), 0.0) for row in ROWS}
    places = dict.fromkeys(("still", *ROWS), 0)
    whole = 0.0
    for start, end in pairwise(times):
        working = []
        for name, spans in (("still", still), *at_work.items()):
            while places[name] < len(spans) and spans[places[name]][1] <= start:
                places[name] += 1
            if places[name] < len(spans) and spans[places[name]][0] <= start:
                working.append(name)
        if "still" in working:
            continue
        whole += end - start
        for row in ROWS:
            if row in working:
                seconds[row]["work"] += end - start
            elif not working:
                seconds[row]["nobody"] += end - start
            for other in working if row not in working else ():
                seconds[row][other] += (end - start) / len(working)
    return {
        row: {name: value / whole if whole else 0.0 for name, value in found.items()}
        for row, found in seconds.items()
    }


def merged(spans: Iterable[Span]) -> list[Span]:
    """Spans (begin, end) without overlaps, by begin."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _within(one: Mapping[str, Any], shown: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an event is a checkpoint or an evaluation between those that are shown."""
    return bool(
        one["phase"] in STANDSTILL
        and min(event["start_s"] for event in shown) <= one["start_s"]
        and one["end_s"] <= max(event["end_s"] for event in shown)
    )


def _picture(events: Sequence[Mapping[str, Any]], width: int = 860) -> Markup:
    """The rows with their phases as bars, over seconds since the first that is drawn."""
    first, last = min(one["start_s"] for one in events), max(one["end_s"] for one in events)
    left, right, top, row_height = 84, width - 16, 56, 34
    marks = [mark for mark in ticks(0.0, last - first, 8) if mark <= last - first]

    def across(seconds: float) -> float:
        return left + seconds / (last - first) * (right - left)

    bars = []
    # Long phases first, so that a short one inside a longer one of its row is seen.
    for one in sorted(events, key=lambda event: event["start_s"] - event["end_s"]):
        start, end = one["start_s"] - first, one["end_s"] - first
        standstill = one["phase"] in STANDSTILL
        row = 0 if standstill else ROWS.index(WORK[one["phase"]])
        bars.append(
            {
                "x": across(start),
                "width": max(0.6, across(end) - across(start)),
                "y": top + row * row_height + 4,
                "height": row_height * (len(ROWS) if standstill else 1) - 8,
                "colour": COLOURS[one["phase"]],
                "pale": standstill,
                "says": f"{one['phase']}, step {one['step']}: {end - start:.2f} s from {start:.2f} s on",
            }
        )
    names = [name for name in COLOURS if any(one["phase"] == name for one in events)]
    legend, x = [], float(left)
    for name in names:
        legend.append({"x": x, "name": name.replace("_", " "), "colour": COLOURS[name]})
        x += 30 + 6.6 * len(name)
    return from_template(
        "timeline.svg",
        title="Who worked when",
        width=width,
        height=top + row_height * len(ROWS) + 38,
        left=left,
        right=right,
        top=top,
        bottom=top + row_height * len(ROWS),
        rows=[(row, top + row_height * (number + 0.5) + 4) for number, row in enumerate(ROWS)],
        lines=[top + row_height * number for number in range(len(ROWS) + 1)],
        ticks=[(across(mark), f"{mark:g}") for mark in marks],
        bars=bars,
        legend=legend,
    )
