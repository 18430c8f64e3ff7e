"""What the page of a training run says beside before and after: alarms, further sets, the held-out curve."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from eval.metrics import compare, score_file
from eval.protocols import PROTOCOLS
from eval.report.charts import Series, line_chart
from eval.report.other_sets import other_sets
from eval.report.run_page import ReportInput, render_report
from tests.unit.eval.test_report import rollout, write

pytestmark = pytest.mark.usefixtures("small_heap")


@pytest.fixture()
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Rollouts of twenty queries on ten images, before and after."""
    before = write(tmp_path / "before.jsonl", [rollout(n, 8) for n in range(20)])
    return before, write(tmp_path / "after.jsonl", [rollout(n, 1 + n) for n in range(20)])


def test_further_sets_have_a_row_with_the_paired_difference(files: tuple[Path, Path]) -> None:
    heading, row = other_sets({"elsewhere": files})
    before, after = (score_file(path, [PROTOCOLS["strict"]]) for path in files)
    found = compare(before, after, ["gIoU"])["gIoU"]
    assert found.before and found.after and found.difference and found.by_image
    assert len(heading) == len(row) and row[:3] == ["elsewhere", "20", "10"]
    assert row[3:6] == [
        f"{100 * found.before:.2f}",
        f"{100 * found.after:.2f}",
        f"{100 * found.difference:+.2f}",
    ]
    assert row[6] == f"{100 * found.by_image.low:+.2f} to {100 * found.by_image.high:+.2f}"
    assert other_sets({}) == []


def test_alarms_and_further_sets_stand_on_the_page(files: tuple[Path, Path]) -> None:
    before, after = files
    plain = render_report(ReportInput("A run", after, before))
    assert "On other sets" not in plain and "alarm" not in plain
    page = render_report(
        ReportInput("A run", after, before, others={"elsewhere": files}, alarms=["alarm: <it> rose."])
    )
    assert "On other sets" in page and "<td>elsewhere</td>" in page
    assert "<li>alarm: &lt;it&gt; rose.</li>" in page


def test_the_held_out_curve_has_intervals_and_goes_by_step(files: tuple[Path, Path]) -> None:
    """A run that was resumed logs an evaluation after the step it belongs to."""
    evaluations = [(0, 0.1), (8, 0.3), (4, 0.2)]
    metrics = [
        {"step": step, "kind": "eval", "gIoU": value, "gIoU_interval": [value - 0.05, value + 0.05]}
        for step, value in evaluations
    ]
    page = render_report(ReportInput("A run", *files[::-1], metrics=metrics))
    order = [page.index(f"held-out gIoU at {step}: {value} [") for step, value in sorted(evaluations)]
    assert order == sorted(order)
    # Runs of earlier versions have no intervals.
    bare = [{key: value for key, value in one.items() if key != "gIoU_interval"} for one in metrics]
    assert "held-out gIoU at 8: 0.3<" in render_report(ReportInput("A run", *files[::-1], metrics=bare))


def test_whiskers_stand_on_their_dots() -> None:
    points: list[tuple[float, float | None]] = [(0, 0.2), (1, None), (2, 0.4)]
    chart = line_chart([Series("a", points, "marks", limits=[(0.1, 0.3), None, (0.3, 0.6)])], title="a")
    root = ElementTree.fromstring(chart)
    dots = [
        (float(dot.get("cx", "")), float(dot.get("cy", "")))
        for dot in root.iter()
        if dot.get("class") == "dot"
    ]
    bars = [line for line in root.iter() if line.tag.endswith("line") and line.get("class") is None]
    spans = [(float(bar.get("x1", "")), float(bar.get("y1", "")), float(bar.get("y2", ""))) for bar in bars]
    assert len(dots) == len(spans) == 2
    for (x, y), (across, low, high) in zip(dots, spans, strict=True):
        assert across == x and high < y < low, "y runs downwards"
    assert dots[0][1] - spans[0][2] == pytest.approx(spans[0][1] - dots[0][1], abs=0.2)
    assert all(0 <= end <= 300 for span in spans for end in span[1:]), "an interval stays in the picture"
