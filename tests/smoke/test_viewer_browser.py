"""The page of a run in a headless browser: it opens from the file system, filters, draws, fetches nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prompter.runs.jsonl import read_lines
from recipes.commands import report
from tests.fixtures.browser import OpenPage, opened_browser
from tests.fixtures.many_rollouts import GROUP, make_run
from tests.fixtures.runs import command

ROLLOUTS, HELD_OUT = 160, 4


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as found:
        yield found


@pytest.fixture(scope="module")
def run(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with its page. It asks for the browser first, which may not be there."""
    folder = make_run(tmp_path_factory.mktemp("viewer") / "run", ROLLOUTS, held_out=HELD_OUT)
    assert command(report, folder) == 0
    return folder


@pytest.fixture()
def shown(browser: Any, run: Path) -> Iterator[OpenPage]:
    page = OpenPage(browser, run / "report.html", viewport={"width": 1280, "height": 900})
    yield page
    assert page.fetched == [] and page.complaints == []
    page.page.context.close()


def colours(page: Any, member: int) -> list[int]:
    """How many pixels of a card's canvas are the outline of the target, and of the prediction."""
    return page.evaluate(
        """(member) => {
            const canvas = document.querySelectorAll("#cards canvas")[member];
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const count = (r, g, b) => {
                let found = 0;
                for (let at = 0; at < data.length; at += 4)
                    found += data[at] === r && data[at + 1] === g && data[at + 2] === b;
                return found;
            };
            return [count(34, 211, 120), count(255, 122, 26)];
        }""",
        member,
    )


def test_all_rollouts_are_there_and_can_be_narrowed(shown: OpenPage, run: Path) -> None:
    assert (
        shown.text("#found") == f"{ROLLOUTS // GROUP + HELD_OUT} groups, {ROLLOUTS + 2 * HELD_OUT} rollouts"
    )
    records = [
        record for step in (1, 2) for record in read_lines(run / "rollouts" / f"step-{step:08d}.jsonl")
    ]
    shown.choose("f-part", "0")
    assert shown.text("#found") == f"{ROLLOUTS // GROUP} groups, {ROLLOUTS} rollouts"
    shown.choose("f-outcome", "failed")
    failed = {(one["step"], one["sample_id"]) for one in records if one["failure"]}
    assert shown.text("#found").startswith(f"{len(failed)} groups")
    assert shown.page.locator(".shot.chosen .badge.bad").count() == 1, "the one that failed is chosen"
    shown.page.keyboard.press("x")
    shown.page.fill("#f-from", "2")
    assert shown.text("#found").startswith(f"{ROLLOUTS // GROUP // 2} groups")
    shown.page.fill("#f-text", "no such question")
    assert shown.text("#found").startswith("0 groups") and shown.page.is_visible("#nothing")


def test_the_worst_group_comes_first_when_asked_for(shown: OpenPage, run: Path) -> None:
    means: dict[str, list[float]] = {}
    for step in (1, 2):
        for record in read_lines(run / "rollouts" / f"step-{step:08d}.jsonl"):
            means.setdefault(record["sample_id"], []).append(record["rewards"]["total"])
    shown.choose("f-part", "0")
    shown.choose("f-order", "worst")
    assert shown.text("#facts").startswith(f"mean reward {min(map(sum, means.values())) / GROUP:.3f}")
    shown.choose("f-order", "spread")
    widest = max(max(one) - min(one) for one in means.values())
    assert f"spread {widest:.3f}" in shown.text("#facts")


def test_masks_are_drawn_and_hidden_by_a_key(shown: OpenPage, run: Path) -> None:
    records = list(read_lines(run / "rollouts" / "step-00000001.jsonl"))
    card = 1 + next(number for number, one in enumerate(records[:GROUP]) if one["prompts"])
    page = shown.page
    page.keyboard.press("b")  # the segmenter `box` fills the boxes, whose lines lie on the mask's
    target, predicted = colours(page, card)
    assert target > 20 and predicted > 20
    page.keyboard.press("t")
    assert colours(page, card)[0] == 0 and colours(page, 0)[0] > 20, "the target's own picture keeps it"
    page.keyboard.press("p")
    assert colours(page, card) == [0, 0]


def test_the_keyboard_leafs_and_enlarges(shown: OpenPage) -> None:
    page = shown.page
    first = shown.text("#chips")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("(before) => document.getElementById('chips').innerText !== before", arg=first)
    assert page.url.endswith("#rollouts/1")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute(".shot.chosen", "data-member") == "1"
    page.keyboard.press("Enter")
    assert page.locator("#cards > :visible").count() == 2
    page.keyboard.press("Escape")
    assert page.locator("#cards > :visible").count() == 1 + GROUP


def test_dark_and_light_follow_the_system_or_the_button(shown: OpenPage) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = shown.page.evaluate(ground)
    shown.page.click("#scheme")
    dark = shown.page.evaluate(ground)
    assert dark != light
    shown.page.click("#scheme")
    assert shown.page.evaluate(ground) == light
    shown.page.click("#scheme")
    shown.page.emulate_media(color_scheme="dark")
    assert shown.page.evaluate(ground) == dark


def test_tabs_hold_what_the_page_always_said(shown: OpenPage) -> None:
    for tab, says in (("summary", "Learning curve"), ("configuration", "config.yaml")):
        shown.page.click(f'[data-tab="{tab}"]')
        assert says in shown.text(f"#tab-{tab}") and not shown.page.is_visible("#tab-rollouts")
