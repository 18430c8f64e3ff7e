"""Charts are well-formed, in proportion, and trust no text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from eval.report.charts import Series, bar_chart, line_chart, smoothed, ticks, waterfall
from tests.fixtures.hostile import HOSTILE, texts


class TestCharts:
    @pytest.mark.parametrize(
        "points",
        [
            [(0, 1.0)],
            [(0, 1.0), (1, 1.0)],
            [(0, -3.0), (5, None), (9, 2e6)],
            [(n, 1e-9 * n) for n in range(4)],
        ],
    )
    def test_lines_are_well_formed_and_inside(self, points: list[tuple[float, float | None]]) -> None:
        svg = line_chart([Series("a & b", points), Series("<c>", points, "marks")], title="<t>")
        root = ElementTree.fromstring(svg)
        for circle in root.iter("circle"):
            assert 0 <= float(circle.attrib["cx"]) <= 860 and 0 <= float(circle.attrib["cy"]) <= 300
        for path in root.iter("path"):
            numbers = [float(n) for n in re.findall(r"-?\d+\.\d", path.attrib["d"])]
            assert all(0 <= n <= 860 for n in numbers)

    @pytest.mark.parametrize("count", [1, 3, 12])
    def test_a_legend_stays_in_the_chart_in_as_many_rows_as_it_needs(self, count: int) -> None:
        series = [Series(f"old_logprobs {number}", [(0, 1.0), (1, 2.0)]) for number in range(count)]
        root = ElementTree.fromstring(line_chart(series, title="Seconds per phase", width=440))
        names = [one for one in root.iter() if "logprobs" in (one.text or "")]
        places = {(one.attrib["x"], one.attrib["y"]) for one in names}
        assert len(places) == len(names) == (count if count > 1 else 0)
        assert all(float(x) >= 52 for x, _ in places)
        assert len({y for _, y in places}) == {1: 0, 3: 1, 12: 4}[count]

    def test_nothing_to_draw_is_nothing(self) -> None:
        assert line_chart([Series("a", [(0, None)])], title="t") == ""
        assert bar_chart([], title="t") == ""

    def test_bars_are_proportional(self) -> None:
        root = ElementTree.fromstring(bar_chart([("a", 0.2, None), ("b", 0.4, (0.3, 1.4))], title="t"))
        first, second = (float(bar.attrib["width"]) for bar in root.iter("rect"))
        assert second == pytest.approx(2 * first, rel=1e-3)

    def test_ticks_cover_the_range_with_round_numbers(self) -> None:
        assert ticks(0.12, 0.87) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        assert ticks(0, 160, 8) == [0, 20, 40, 60, 80, 100, 120, 140, 160]

    def test_running_mean_skips_gaps(self) -> None:
        assert smoothed([None, 1.0, None, 3.0, 5.0], 2) == [None, 1.0, 1.0, 2.0, 4.0]


class TestWaterfall:
    @pytest.mark.parametrize("parts", [(0.3, -0.1, 0.0, 0.05), (-0.3, -0.2, 0.4, 0.35), (0.0, 0.0, 0.0, 0.0)])
    def test_every_bar_begins_where_the_last_one_ends(self, parts: tuple[float, ...]) -> None:
        before, after = 0.2, 0.2 + sum(parts)
        drawn = waterfall(before, [(HOSTILE, part, HOSTILE) for part in parts], after, title=HOSTILE)
        assert texts(drawn).count(HOSTILE) == 2 + 2 * len(parts)  # label and title, and two per bar
        root = ElementTree.fromstring(drawn)
        bars = [bar for bar in root.iter() if bar.tag.endswith("rect")]
        spans = [(float(bar.get("x", "")), float(bar.get("width", ""))) for bar in bars]
        assert all(0 <= x and x + width <= 860 for x, width in spans)
        assert [bar.get("class") for bar in bars[1:-1]] == ["bad" if part < 0 else "good" for part in parts]
        unit = (spans[0][1] or 1.0) / before
        assert [width for _, width in spans[1:-1]] == pytest.approx(
            [max(abs(part) * unit, 1.0) for part in parts], abs=0.2
        )
        level = spans[0][0] + spans[0][1]
        for part, (x, width) in zip(parts, spans[1:-1], strict=True):
            start, end = (x, x + width) if part >= 0 else (x + width, x)
            assert start == pytest.approx(level, abs=0.2)
            level = end if part else level
        assert level == pytest.approx(spans[-1][0] + spans[-1][1], abs=0.3)
