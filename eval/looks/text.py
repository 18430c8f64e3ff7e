"""What several looks gave, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envs.rollout import EXPECTED_HIT, EXPECTED_IOU
from eval.figures import percent, with_interval
from prompter.runs.tables import text_table

OUTCOMES = {EXPECTED_IOU: "IoU", EXPECTED_HIT: "IoU >= 0.5"}
"""What a confidence is an estimate of, as tables call it."""


def combined_sentence(looks: Mapping[str, Any]) -> str:
    """Which answers the tables above are of."""
    drawn = looks["drawn"]
    bound = " (it looks at the TRUTH: an upper bound, no answer)" if looks["uses_truth"] else ""
    moved = f", images moved by up to {100 * drawn['shift']:g} % of their sides" if "shift" in drawn else ""
    return (
        f"answers combined by {looks['rule']}{bound} from {looks['samples']} of {drawn['samples']} samples, "
        f"temperature {drawn['temperature']:g}, top-p {drawn['top_p']:g}, seed {drawn['seed']}{moved}"
    )


def looks_lines(looks: Mapping[str, Any]) -> list[str]:
    """The curve over the number of looks, and what the confidence is worth (`eval.looks.summary`)."""
    lines = [combined_sentence(looks)]
    if looks["curve"] is not None:
        lines += text_table(curve_rows(looks), numbers=True)
        lines.append(
            "  gIoU, per cent; signed: the difference to greedy, with its 95 % interval, drawing images"
        )
    if looks["confidence"] is not None:
        lines += text_table(confidence_rows(looks), numbers=True)
        lines.append(
            "  per cent; risk: 1 - IoU, and 1 where IoU >= 0.5 is missed; calibration error in 10 bins"
        )
        if (abstention := looks["confidence"]["abstention"]) is not None:
            lines.append(abstention_sentence(abstention))
    return lines


def curve_rows(looks: Mapping[str, Any]) -> list[list[str]]:
    """A row per rule, a column per number of looks; then the seconds per question."""
    curve, seconds = looks["curve"], looks["seconds"]
    numbers = curve["samples"]
    rows = [["looks", "greedy", *map(str, numbers)]]
    for name, one in curve["rules"].items():
        cells = [
            f"{percent(value['value'])} {_signed(change)}"
            for value, change in zip(one["gIoU"], one["difference"], strict=True)
        ]
        label = f"{name} (uses the truth)" if one["uses_truth"] else name
        rows.append([label, percent(curve["greedy"]["value"]), *cells])
    if seconds is not None:
        spent = [f"{value:.3f}" for value in (seconds["greedy"], *seconds["looks"])]
        rows.append(["seconds per question", *spent])
    return rows


def _signed(metric: Mapping[str, Any]) -> str:
    """A difference as points: "+1.20 [0.30, 2.10]"."""
    if metric["value"] is None:
        return "-"
    sign = "+" if metric["value"] >= 0 else ""
    return f"{sign}{with_interval(metric)}"


def confidence_rows(looks: Mapping[str, Any]) -> list[list[str]]:
    """Calibration error and risk: a row per figure, a column per outcome (`OUTCOMES`)."""
    found = looks["confidence"]
    rows = [["confidence", *OUTCOMES.values()]]
    rows += [
        [f"calibration error, {kind}", *(percent(errors[name]) for name in OUTCOMES)]
        for kind, errors in found["error"].items()
        if any(errors[name] is not None for name in OUTCOMES)
    ]
    risk = found["risk"]
    for coverage in risk[EXPECTED_IOU]["at"]:
        label = f"risk at {float(coverage):.0%} coverage"
        rows.append([label, *(with_interval(risk[name]["at"][coverage]) for name in OUTCOMES)])
    rows.append(["mean risk over coverages (AURC)", *(percent(risk[name]["area"]) for name in OUTCOMES)])
    rows.append(["  in the best order", *(percent(risk[name]["area_best"]) for name in OUTCOMES)])
    for source, areas in found["sources"].items():
        mark = " (used)" if source == looks["source"] else ""
        rows.append([f"  by {source}{mark}", *(percent(areas[name]) for name in OUTCOMES)])
    return rows


def abstention_sentence(abstention: Mapping[str, Any]) -> str:
    """What became of a wanted risk."""
    wanted = f"for a risk (1 - IoU) of {abstention['max_risk']:g}"
    if not abstention["found"]:
        return f"{wanted}: no confidence was so sure where the calibration was fitted; nothing is answered"
    lowest = (
        "any confidence" if abstention["from"] is None else f"a confidence from {abstention['from']:.3f} on"
    )
    return (
        f"{wanted}, answer at {lowest}: coverage {with_interval(abstention['coverage'])}, "
        f"risk {with_interval(abstention['risk'])}"
    )
