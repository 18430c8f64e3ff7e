"""The average of trained weights: its formula, its checkpoint, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prompter.errors import UserError
from recipes.training.average import WeightAverage


class Model(nn.Module):
    """One trained and one frozen parameter."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.trained = nn.Parameter(torch.zeros(3, dtype=dtype))
        self.frozen = nn.Parameter(torch.full((2,), 7.0), requires_grad=False)


def train(average: WeightAverage, model: Model, steps: range, last: int = 10) -> None:
    for step in steps:
        with torch.no_grad():
            model.trained.fill_(float(step))
        average.on_step_end(None, SimpleNamespace(global_step=step, max_steps=last), None, model=model)


def test_it_is_the_exponential_average_over_the_ends_of_windows() -> None:
    average, model = WeightAverage(0.75, window=2), Model()
    train(average, model, range(1, 8), last=7)
    average.put_into(model)
    expected = 2.0
    for end in (4, 6, 7):  # the run's end counts, too
        expected = 0.75 * expected + 0.25 * end
    assert model.trained.tolist() == pytest.approx([expected] * 3)
    assert model.frozen.tolist() == [7.0, 7.0]


def test_without_a_decay_the_weights_stay_and_nothing_is_saved(tmp_path: Path) -> None:
    average, model = WeightAverage(None, window=1), Model()
    train(average, model, range(1, 4))
    average.put_into(model)
    average.save(tmp_path)
    average.restore(tmp_path, model)
    assert model.trained.tolist() == [3.0] * 3 and not list(tmp_path.iterdir())


def test_small_changes_of_half_precision_weights_add_up() -> None:
    average, model = WeightAverage(0.99, window=1), Model(torch.bfloat16)
    with torch.no_grad():
        model.trained.fill_(256.0)
    average.update(model)
    with torch.no_grad():
        model.trained.fill_(258.0)
    for _ in range(400):
        average.update(model)
    average.put_into(model)
    assert model.trained.tolist() == [258.0] * 3, "each update is less than bfloat16 can hold"


def test_a_resumed_average_is_that_of_an_unbroken_run(tmp_path: Path) -> None:
    whole, model = WeightAverage(0.5, window=1), Model()
    train(whole, model, range(1, 6))
    first, second = WeightAverage(0.5, window=1), WeightAverage(0.5, window=1)
    train(first, Model(), range(1, 4))
    first.save(tmp_path / "checkpoint-3")
    second.restore(tmp_path / "checkpoint-3", Model())
    again = Model()
    train(second, again, range(4, 6))
    whole.put_into(model)
    second.put_into(again)
    assert model.trained.tolist() == again.trained.tolist()
    with pytest.raises(UserError, match=r"checkpoint-9 holds no averages .* average\.decay"):
        second.restore(tmp_path / "checkpoint-9", again)
