"""Prints which segmenter families the contract suite ran, and on which weights."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per family: its weights, and how many tests passed, failed and were skipped."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            segmenter = dict(report.user_properties).get("segmenter")
            if segmenter is not None and report.when == "call":
                counts.setdefault(tuple(segmenter), Counter())[outcome] += 1
    if not counts:
        return
    terminalreporter.section("contract of segmenters")
    for (name, weights), outcomes in counts.items():
        line = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
        terminalreporter.write_line(f"{name:<28}{weights + ' weights':<18}{line}")
