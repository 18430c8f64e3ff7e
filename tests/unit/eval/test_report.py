"""The report shows the right queries and figures, fetches nothing, and trusts no text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from envs.masks import encode_rle
from envs.rollout import Rollout
from envs.sample import Sample
from eval.ablation import Cell, grid_html
from eval.metrics import summarise
from eval.protocols import get_protocols
from eval.query_table import build_table
from eval.report.charts import Series, bar_chart, line_chart
from eval.report.examples import choose_cases, draw_cases
from eval.report.leaderboard import Row, build_board
from eval.report.leaderboard import html as leaderboard_html
from eval.report.overlays import BOX, PREDICTED, TRUE, draw_panel
from eval.report.run_page import ReportInput, render_report
from prompter.errors import UserError
from prompter.runs.jsonl import write_lines
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet
from rewards.replay import read_rollouts
from tests.fixtures.hostile import HOSTILE, texts

pytestmark = pytest.mark.usefixtures("small_heap")

WIDTH, HEIGHT = 40, 30


def mask_of(width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[5:25, 5 : 5 + width] = True
    return mask


def rollout(number: int, width: int, **changes: object) -> Rollout:
    """A rollout whose IoU is width / 20; odd and even numbers share images in pairs."""
    made = Rollout(
        sample_id=f"s{number}",
        dataset="unit",
        split="test",
        image_id=f"i{number // 2}",
        image_wh=(WIDTH, HEIGHT),
        query=f"query {number}",
        target=encode_rle(mask_of(20)),
        completion=f"completion {number}",
        reading=PromptSet((Instance(box=(5, 5, 5 + width, 25), positive_points=((6, 6),)),)),
        prediction=encode_rle(mask_of(width)),
        tags={"parity": "odd" if number % 2 else "even"},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def write(path: Path, rollouts: list[Rollout]) -> Path:
    write_lines(path, [one.to_json() for one in rollouts])
    return path


class Samples:
    """Images for the rollouts, in their order."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            sample_id=f"s{index}",
            dataset="unit",
            split="test",
            image_id=f"i{index // 2}",
            image_wh=(WIDTH, HEIGHT),
            load_image=lambda: Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 30)),
            query="",
            target=None,
        )


class Collector(HTMLParser):
    """Collects every address a page could fetch, and its headings."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


@pytest.fixture()
def files(tmp_path: Path) -> tuple[Path, Path]:
    before = write(tmp_path / "before.jsonl", [rollout(n, 10 if n < 18 else 20) for n in range(20)])
    after = write(tmp_path / "after.jsonl", [rollout(n, 1 + n if n < 18 else 4) for n in range(20)])
    return before, after


def test_the_page_fetches_nothing_and_holds_no_script(files: tuple[Path, Path]) -> None:
    before, after = files
    html = render_report(
        ReportInput(
            title="A run",
            after=after,
            before=before,
            samples=Samples(20),
            metrics=[{"step": n, "kind": "train", "reward": n / 10} for n in range(9)],
            references={"floor": before},
        )
    )
    page = Collector()
    page.feed(html)
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http" not in re.sub(r"data:image/[^\"]+", "", html)
    for heading in (
        "Before and after",
        "Where the gain comes from",
        "Drawn by lot",
        "Learning curve",
        "Between floor and ceiling",
        "Breakdown",
        "Most improved",
    ):
        assert heading in html


def test_text_of_models_and_datasets_is_escaped(tmp_path: Path) -> None:
    attack = '<script>alert("x")</script><img src=https://evil.example/x.png>'
    path = write(
        tmp_path / "after.jsonl",
        [
            rollout(0, 5, query=attack, completion=attack, tags={attack: attack}),
            rollout(1, 9, tags={attack: "b"}),
        ],
    )
    html = render_report(ReportInput(title=attack, after=path, note=attack, config={"model": attack}))
    page = Collector()
    page.feed(html)
    assert "script" not in page.tags
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert html.count("&lt;script&gt;") >= 6


def hostile(number: int, width: int) -> Rollout:
    """A rollout whose every text is hostile."""
    names = dict.fromkeys(("dataset", "split", "image_id", "query", "completion"), HOSTILE)
    tags = {HOSTILE: HOSTILE if number else "b"}
    return rollout(number, width, sample_id=f"{HOSTILE}{number}", tags=tags, executor=HOSTILE, **names)


def test_hostile_text_shows_as_it_is_in_every_place_of_a_run_page(tmp_path: Path) -> None:
    after = write(tmp_path / "after.jsonl", [hostile(0, 5), hostile(1, 9)])
    before = write(tmp_path / "before.jsonl", [hostile(0, 3), hostile(1, 4)])
    summary = summarise(build_table(read_rollouts(after)), get_protocols(["strict"]))
    html = render_report(
        ReportInput(
            title=HOSTILE,
            after=after,
            before=before,
            metrics=[{"step": n, "kind": "train", "seconds": {HOSTILE: 1.0, "b": 2.0}} for n in range(3)]
            + [{"step": 0, "kind": "eval", "gIoU": 0.5}],
            references={HOSTILE: before},
            results={HOSTILE: summary},
            config={HOSTILE: HOSTILE},
            note=HOSTILE,
        )
    )
    shown = texts(html)
    once = ("title", "heading", "note", "reference", "executor", "phase", "breakdown", "its value")
    per_query = ("question", "before", "after")
    # Both queries are shown twice: drawn by lot, and as the most improved.
    assert shown.count(HOSTILE) == len(once) + 2 * 2 * len(per_query)
    assert f"{HOSTILE}0" in shown and f"{HOSTILE}: {HOSTILE}" in shown  # a sample's id, its tag
    assert yaml.safe_dump({HOSTILE: HOSTILE}) in shown


@pytest.mark.parametrize(
    "place", ["benchmark", "system", "split", "training", "protocol", "source", "metric"]
)
def test_hostile_text_shows_as_it_is_on_a_leaderboard(place: str) -> None:
    texts_of = dict.fromkeys(("system", "split", "protocol", "training", "source", "status"), "x")
    metric = HOSTILE if place == "metric" else "gIoU"
    row = Row(**{**texts_of, **({place: HOSTILE} if place in texts_of else {})}, values={metric: 1.0})
    board = build_board(HOSTILE if place == "benchmark" else "x", [row])
    assert HOSTILE in texts(leaderboard_html([board]))


@pytest.mark.parametrize("place", ["benchmark", "policy", "executor", "metric"])
def test_hostile_text_shows_as_it_is_in_a_grid(place: str) -> None:
    cell = Cell("b", "p", "box", "absolute", "e", 1, 0.5, None, None, None, "f")
    changed = cell if place == "metric" else replace(cell, **{place: HOSTILE})
    metric = HOSTILE if place == "metric" else "gIoU"
    shown = texts(grid_html([changed, cell], get_protocols(["strict"])[0], metric))
    assert any(HOSTILE in text for text in shown)


def test_hostile_text_shows_as_it_is_in_charts() -> None:
    points: list[tuple[float, float | None]] = [(0, 1.0), (1, 2.0)]
    lines = line_chart(
        [Series(HOSTILE, points, "marks", HOSTILE), Series("b", points)], title=HOSTILE, x_label=HOSTILE
    )
    shown = texts(lines)
    assert shown.count(HOSTILE) >= 5  # label, title, x axis, legend, colour
    assert f"{HOSTILE} at 0: 1" in shown  # a mark's tooltip
    assert texts(bar_chart([(HOSTILE, 0.5, None)], title=HOSTILE)).count(HOSTILE) == 3
    ElementTree.fromstring(lines)


def test_figures_are_those_of_the_rollouts(files: tuple[Path, Path]) -> None:
    before, after = files
    html = render_report(ReportInput(title="A run", after=after, before=before))
    mean_before = (18 * 0.5 + 2 * 1.0) / 20
    mean_after = (sum((1 + n) / 20 for n in range(18)) + 2 * 0.2) / 20
    assert f"{100 * mean_before:.2f} → {100 * mean_after:.2f}" in html
    assert f"{100 * (mean_after - mean_before):+.2f}" in html


def test_a_report_is_reproducible(files: tuple[Path, Path]) -> None:
    before, after = files
    given = ReportInput(title="A run", after=after, before=before, samples=Samples(20))
    assert render_report(given) == render_report(given)


def test_failures_of_the_segmenter_are_said_loudly(tmp_path: Path) -> None:
    failed = rollout(1, 5, prediction=None, executor_error="the actor died")
    html = render_report(
        ReportInput(title="A run", after=write(tmp_path / "a.jsonl", [rollout(0, 5), failed]))
    )
    assert "Incomplete: the segmenter failed on 1 of 2 queries" in html


def test_answers_that_are_none_or_do_not_parse_are_told_apart(tmp_path: Path) -> None:
    failure = ParseFailure(FailureKind.NOT_JSON, "", "completion 0")
    empty = encode_rle(np.zeros((HEIGHT, WIDTH), bool))
    rollouts = [
        rollout(0, 5, reading=failure, prediction=None),
        rollout(1, 5, reading=PromptSet(), prediction=empty),
        rollout(2, 5, reading=PromptSet(), prediction=empty, target=empty),
    ]
    html = render_report(ReportInput(title="A run", after=write(tmp_path / "a.jsonl", rollouts)))
    assert "did not parse" in html and "says: no target" in html and "nothing in the image fits" in html


def test_runs_that_share_no_query_are_refused(tmp_path: Path) -> None:
    before = write(tmp_path / "before.jsonl", [rollout(90, 5)])
    after = write(tmp_path / "after.jsonl", [rollout(1, 5)])
    with pytest.raises(UserError, match="share no query"):
        render_report(ReportInput(title="A run", after=after, before=before))


class TestCases:
    def test_extremes_and_range_without_repeats(self) -> None:
        before = build_table([rollout(n, 10) for n in range(20)])
        after = build_table([rollout(n, 1 + n) for n in range(20)])
        groups = {group.title: group.rows for group in choose_cases(after, before, per_group=2, across=3)}
        assert groups["Most improved"] == (19, 17)  # 18 shares its image with 19
        assert groups["Most worsened"] == (0, 2)
        assert groups["Best"] == (18, 16)  # what is left, best first
        assert groups["Worst"] == (1, 3)
        shown = [row for rows in groups.values() for row in rows]
        assert len(shown) == len(set(shown))
        middle = after.scores[list(groups["Across the range"])]
        assert list(middle) == sorted(middle) and middle[0] < 0.5 < middle[-1]

    def test_one_no_target_query_is_enough_for_a_group(self) -> None:
        empty = encode_rle(np.zeros((HEIGHT, WIDTH), bool))
        none = [rollout(2 * n, 5, target=empty) for n in range(6)]
        some = [rollout(20 + 2 * n, 1 + n) for n in range(12)]
        table = build_table([*none, *some])
        worst = next(group for group in choose_cases(table, per_group=4) if group.title == "Worst")
        assert sum(not table.has_target[row] for row in worst.rows) == 1

    def test_failed_segmentations_are_never_shown(self) -> None:
        table = build_table([rollout(0, 5, prediction=None, executor_error="gone")])
        assert choose_cases(table) == []

    def test_other_queries_are_refused(self) -> None:
        with pytest.raises(ValueError, match="same queries"):
            choose_cases(build_table([rollout(0, 5)]), build_table([rollout(1, 5)]))


class TestLot:
    def test_the_same_questions_are_drawn_whatever_was_answered_and_in_whatever_order(self) -> None:
        def drawn(widths: list[int], order: list[int]) -> list[str]:
            before = build_table([rollout(n, 10) for n in order])
            after = build_table([rollout(n, widths[n]) for n in order])
            (group,) = draw_cases(after, before, count=5)
            return [f"s{order[row]}" for row in group.rows]

        rising, falling, order = list(range(1, 21)), list(range(20, 0, -1)), list(range(20))
        names = drawn(rising, order)
        assert names == drawn(falling, order) == drawn(falling, order[::-1])
        assert len(set(names)) == 5

    def test_another_seed_draws_others(self) -> None:
        table = build_table([rollout(n, 10) for n in range(40)])
        first, other = (draw_cases(table, table, count=8, seed=seed)[0] for seed in (1, 2))
        assert set(first.rows) != set(other.rows) and "seed 1" in first.note

    def test_a_query_without_a_score_is_not_replaced(self) -> None:
        table = build_table([rollout(n, 10) for n in range(30)])
        (whole,) = draw_cases(table, table, count=6)
        gone = whole.rows[2]
        failed = [
            rollout(n, 10, **({"prediction": None, "executor_error": "x"} if n == gone else {}))
            for n in range(30)
        ]
        (left,) = draw_cases(build_table(failed), table, count=6)
        assert left.rows == (*whole.rows[:2], *whole.rows[3:]) and "1 have no score" in left.note

    def test_other_queries_are_refused(self) -> None:
        with pytest.raises(ValueError, match="same queries"):
            draw_cases(build_table([rollout(0, 5)]), build_table([rollout(1, 5)]))


class TestDrawing:
    def test_masks_and_boxes_land_where_they_belong(self) -> None:
        black = Image.new("RGB", (WIDTH, HEIGHT))
        prompts = PromptSet((Instance(box=(20, 10, 30, 20)),))
        panel = draw_panel(black, predicted=mask_of(10), prompts=prompts, long_side=400)
        assert panel.size == (400, 300)
        pixels = np.asarray(panel).astype(int)
        inside, outside = pixels[150, 100], pixels[30, 30]
        assert np.abs(inside - np.array(PREDICTED) * 0.42).max() < 6
        assert outside.max() < 6
        assert np.abs(pixels[150, 200] - np.array(BOX)).max() < 40  # the box's left side, x = 20

    def test_the_true_mask_is_outlined_and_filled_when_asked(self) -> None:
        black = Image.new("RGB", (WIDTH, HEIGHT))
        outlined = np.asarray(draw_panel(black, true=mask_of(20), long_side=400)).astype(int)
        filled = np.asarray(draw_panel(black, true=mask_of(20), fill_true=True, long_side=400)).astype(int)
        assert outlined[150, 150].max() < 6
        assert np.abs(filled[150, 150] - np.array(TRUE) * 0.38).max() < 6

    @pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2), (2000, 1500)])
    def test_any_size(self, size: tuple[int, int]) -> None:
        mask = np.ones((size[1], size[0]), bool)
        panel = draw_panel(Image.new("RGB", size), predicted=mask, true=mask, long_side=120)
        assert max(panel.size) == 120
