"""After the first pass, questions that still teach are asked; the order is a function of what is recorded."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest

from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from recipes.config import OrderConfig
from recipes.training.mining import WindowOrder
from recipes.training.order import indices_of_run

SAMPLES, PROMPTS = 26, 4
PASS = SAMPLES // PROMPTS
MINED = OrderConfig(mining="spread", fresh=0.25)
ARGUMENTS = SimpleNamespace(
    seed=3, generation_batch_size=8 * PROMPTS, num_generations=8, shuffle_dataset=True
)


def order_of(config: OrderConfig = MINED, samples: int = SAMPLES) -> WindowOrder:
    return WindowOrder(config, ARGUMENTS, samples)


def rewards_of(index: int) -> list[float | None]:
    """Every third question teaches, the higher its number the more; of the others all answers are alike."""
    return [0.5, 0.5 + (index / SAMPLES if index % 3 == 0 else 0.0), None]


def asked(order: WindowOrder, windows: range) -> list[list[int]]:
    found = []
    for window in windows:
        found.append(order.indices(window))
        order.note([(index, rewards_of(index)) for index in found[-1]])
    return found


def test_without_mining_the_order_is_that_of_every_run() -> None:
    plain = asked(order_of(OrderConfig()), range(20))
    assert plain == [indices_of_run(ARGUMENTS, window, SAMPLES) for window in range(20)]


def test_the_first_pass_asks_every_question_once_and_mining_begins_after_it() -> None:
    found = asked(order_of(), range(PASS))
    assert found == asked(order_of(OrderConfig()), range(PASS))
    assert max(Counter(chain.from_iterable(found)).values()) == 1


def test_what_teaches_is_asked_more_often_and_the_rest_now_and_then() -> None:
    order = order_of()
    asked(order, range(PASS))
    later = asked(order, range(PASS, PASS + 120))
    assert all(len(set(window)) == PROMPTS for window in later)
    counts = Counter(chain.from_iterable(later))
    teaching = [index for index in range(SAMPLES) if index % 3 == 0 and index]
    others = [index for index in range(SAMPLES) if index % 3]
    # Three of four are mined, of 8 questions; the fourth is of all that were not drawn.
    assert sum(counts[index] for index in teaching) > 0.75 * 480 - 30
    assert min(counts[index] for index in others) > 0
    assert counts[24] > counts[3] > max(counts[index] for index in others)
    assert order.figures() == {"questions_asked": SAMPLES, "questions_at_rest": SAMPLES - len(teaching)}


def test_where_nothing_teaches_questions_are_drawn_alike() -> None:
    order = order_of()
    order.note([(index, [1.0, 1.0]) for index in range(SAMPLES)])
    assert len(set(order.indices(PASS + 1))) == PROMPTS


def test_fewer_questions_that_teach_than_a_window_asks_are_filled_up() -> None:
    order = order_of(OrderConfig(mining="spread", fresh=0.0))
    order.note([(index, [0.0, float(index < 2)]) for index in range(SAMPLES)])
    found = order.indices(PASS + 1)
    assert len(set(found)) == PROMPTS and {0, 1} <= set(found)


def test_a_resumed_run_asks_what_an_unbroken_one_does(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    unbroken = order_of()
    expected = []
    for window in range(PASS + 6):
        expected.append(unbroken.indices(window))
        groups = [{"index": index, "rewards": rewards_of(index)} for index in expected[-1]]
        if window < PASS + 3:
            folder.write_step_window(1 + window, [{"all_groups": len(groups)}, *groups])
        unbroken.note([(one["index"], one["rewards"]) for one in groups])  # type: ignore[misc]
    resumed = order_of()
    resumed.restore(folder)
    assert asked(resumed, range(PASS + 3, PASS + 6)) == expected[PASS + 3 :]
    forgetful = order_of()
    assert asked(forgetful, range(PASS + 3, PASS + 6)) != expected[PASS + 3 :], "the record must matter"


def test_a_file_that_is_no_window_is_named(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_step_window(1, [{"groups": []}])
    with pytest.raises(UserError, match=r"step-00000001\.jsonl is no window of rollouts"):
        order_of().restore(folder)
