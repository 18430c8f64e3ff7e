"""What an ELISA policy learns from."""

from __future__ import annotations

import pytest
import torch

from recipes.elisa.data import Lesson, likeness, mean_embedding


def lesson(*masks: tuple[float, ...]) -> Lesson:
    return Lesson(0, "?", "image", torch.tensor(masks).view(len(masks), -1), (), False)


def test_masks_are_less_alike_without_what_they_share() -> None:
    lessons = [lesson((10.0, 1.0), (10.0, -1.0)), lesson((10.0, 1.0), (10.0, -1.0)), lesson((10.0, 0.0))]
    mean = mean_embedding(lessons)
    assert mean.tolist() == [10.0, 0.0]
    assert likeness(lessons, torch.zeros(2)) == pytest.approx(99 / 101)
    assert likeness(lessons, mean) == pytest.approx(-1.0)
    assert likeness(lessons[2:], mean) is None


def test_the_mean_counts_masks_not_questions() -> None:
    assert mean_embedding([lesson((0.0,)), lesson((1.0,), (1.0,), (2.0,))]).tolist() == [1.0]
