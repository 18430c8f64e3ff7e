"""The parts of an answer's mask: what each of its prompts found."""

from __future__ import annotations

import numpy as np

from envs.masks import encode_rle
from prompter.types import Instance, PromptSet
from recipes.cold_start.answers import parts_of
from tests.fixtures.made_rollouts import NOTHING, made_rollout, rectangle

ONE, OTHER, SPECK = rectangle(2, 1, 6, 5), rectangle(10, 10, 15, 16), rectangle(18, 1, 19, 2)


def test_specks_outside_the_boxes_are_no_objects() -> None:
    reading = PromptSet((Instance(box=(2, 1, 6, 5)), Instance(box=(9.4, 9.6, 14.5, 17))))
    rollout = made_rollout(reading, prediction=encode_rle(ONE | OTHER | SPECK))
    one, other = parts_of(rollout)
    assert np.array_equal(one, ONE) and np.array_equal(other, OTHER)


def test_a_point_means_the_component_under_it() -> None:
    reading = PromptSet((Instance(positive_points=((12.0, 12.0),)), Instance(positive_points=((0.5, 19.9),))))
    (part,) = parts_of(made_rollout(reading, prediction=encode_rle(ONE | OTHER | SPECK)))
    assert np.array_equal(part, OTHER), "and nothing where the mask is empty"


def test_masks_that_were_kept_apart_stay_as_they_are() -> None:
    kept = tuple(map(encode_rle, (ONE, NOTHING, OTHER | SPECK)))
    parts = parts_of(made_rollout(predicted_instances=kept, prediction=encode_rle(ONE | OTHER | SPECK)))
    assert [int(one.sum()) for one in parts] == [int(ONE.sum()), int((OTHER | SPECK).sum())]


def test_what_is_said_twice_is_one_part_and_what_lies_outside_all_prompts_is_not_lost() -> None:
    twice = PromptSet((Instance(box=(2, 1, 6, 5)),) * 2)
    (part,) = parts_of(made_rollout(twice, prediction=encode_rle(ONE | SPECK)))
    assert np.array_equal(part, ONE)
    (part,) = parts_of(made_rollout(twice, prediction=encode_rle(OTHER)))
    assert np.array_equal(part, OTHER)


def test_an_empty_answer_has_no_parts() -> None:
    assert parts_of(made_rollout(PromptSet(), prediction=encode_rle(NOTHING))) == []
