"""Image placeholders: collapsing and expanding are inverse, and runs are counted per image."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompter.sampling.image_tokens import collapse_pads, expand_pads

PAD = 9
text = st.lists(st.integers(0, 8), min_size=1, max_size=5)
runs = st.lists(st.integers(1, 7), max_size=4)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """A prompt with single placeholders between pieces of text, and how often each is repeated."""
    lengths = draw(runs)
    prompt = draw(text)
    for _ in lengths:
        prompt = [*prompt, PAD, *draw(text)]
    return prompt, lengths


@given(prompts())
def test_collapsing_an_expanded_prompt_gives_it_back(case: tuple[list[int], list[int]]) -> None:
    prompt, lengths = case
    expanded = expand_pads(prompt, PAD, lengths)
    assert len(expanded) == len(prompt) - len(lengths) + sum(lengths)
    assert collapse_pads(expanded, PAD) == (prompt, lengths)


def test_runs_at_the_ends_and_alone() -> None:
    assert collapse_pads([PAD, PAD, PAD], PAD) == ([PAD], [3])
    assert collapse_pads([PAD, 1, PAD, PAD], PAD) == ([PAD, 1, PAD], [1, 2])
    assert collapse_pads([], PAD) == ([], [])


def test_a_prompt_without_its_placeholder_is_refused() -> None:
    with pytest.raises(ValueError, match="one image placeholder for each of 1 images, but the prompt has 0"):
        expand_pads([1, 2], PAD, [4])
