"""The prompts of a window: TRL's order, told from the seed and the window's number alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.training.order import window_indices

EPOCHS = 3


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**20),
    samples=st.integers(1, 40),
    share=st.floats(0.01, 1),
    group=st.integers(1, 3),
    repeats=st.integers(1, 3),
    shuffle=st.booleans(),
)
def test_windows_are_those_of_trl_over_several_epochs(
    seed: int, samples: int, share: float, group: int, repeats: int, shuffle: bool
) -> None:
    from trl.trainer.utils import RepeatSampler

    prompts = max(1, int(samples * share))
    expected = []
    for epoch in range(EPOCHS):
        rows = list(
            RepeatSampler(
                range(samples), group, prompts, repeat_count=repeats, shuffle=shuffle, seed=seed + epoch
            )
        )
        window = prompts * group * repeats
        expected += [rows[i : i + window][: prompts * group : group] for i in range(0, len(rows), window)]
    assert len(expected) == EPOCHS * (samples // prompts)
    numbers = list(range(len(expected)))[::-1]  # in any order: nothing is remembered from call to call
    found = {
        number: window_indices(seed=seed, window=number, samples=samples, prompts=prompts, shuffle=shuffle)
        for number in numbers
    }
    assert [found[number] for number in range(len(expected))] == expected


def test_a_set_smaller_than_a_window_and_a_window_before_the_first_are_refused() -> None:
    for samples, prompts, window in ((3, 4, 0), (3, 0, 0), (3, 1, -1)):
        with pytest.raises(ValueError, match="no window"):
            window_indices(seed=0, window=window, samples=samples, prompts=prompts)
