"""`key=value` texts: one reader for overrides, options and parts of an executor."""

from __future__ import annotations

from typing import Any

import pytest

from prompter.errors import UserError
from prompter.runs.values import apply_overrides, read_option, read_options

VALUES: list[tuple[str, Any]] = [
    ("1e-4", 1e-4),
    ("8", 8),
    ("true", True),
    ("null", None),
    ("", None),
    ("[a, 2]", ["a", 2]),
    ("a=b", "a=b"),
    ("'8'", "8"),
    ("facebook/sam2.1-hiera-small", "facebook/sam2.1-hiera-small"),
    ("random:7", "random:7"),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_a_value_means_the_same_wherever_it_is_given(text: str, value: Any) -> None:
    assert read_option(f"a.b={text}", "--option") == ("a.b", value)
    assert read_options([f"a.b={text}"], "--option") == {"a": {"b": value}}
    assert apply_overrides({}, [f"a.b={text}"]) == {"a": {"b": value}}


def test_options_fill_sections() -> None:
    texts = ["image={side: 84}", "image.min_pixels=4", "sampler.dtype=float32", "think=false"]
    assert read_options(texts, "--policy-option") == {
        "image": {"side": 84, "min_pixels": 4},
        "sampler": {"dtype": "float32"},
        "think": False,
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["frame"], "--x is written KEY=VALUE, but got 'frame'."),
        (["=1"], "--x is written KEY=VALUE, but got '=1'."),
        (["a..b=1"], "--x is written KEY=VALUE, but got 'a..b=1'."),
        (["a={"], "--x a is not YAML"),
        (["a=1", "a=1"], "--x gives 'a' twice."),
        (["a=1", "a.b=2"], "--x a.b: a is a value, not a section."),
        (["a.b=1", "a=2"], "--x gives 'a' as a value and as a section."),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_flag(texts: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_options(texts, "--x")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
