"""Every key of a config in words: its kind, its default and its meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from prompter.errors import UserError
from prompter.runs.config import StrictModel, load_config_model
from prompter.runs.config_keys import Key, Section, config_sections, help_text, markdown


class Part(StrictModel):
    """A part. It has more
    to say.

    And a second paragraph.
    """

    size: int = Field(default=2, ge=1, lt=9)
    """How large it is. The larger, the
    slower."""

    kind: Literal["a", "b"] | None = None
    """Its kind."""


class Whole(StrictModel):
    """The whole."""

    name: str
    """What it is called."""

    rates: dict[str, float] = Field(default_factory=lambda: {"x": 0.5})
    """Rates by name."""

    place: Path | None = None
    parts: Part | list[Part] = Part(size=3)
    """One part, or several."""

    other: Part | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    flag: bool | str = Field(default=True, examples=["yes", "no"])


def test_sections_hold_every_key_with_its_kind_default_and_meaning() -> None:
    size = ("whole number, at least 1, less than 9", "How large it is. The larger, the slower.")
    assert config_sections(Whole) == [
        Section(
            "",
            "The whole.",
            (
                Key("name", "text", None, "What it is called."),
                Key("rates", "mapping of names to number", "{x: 0.5}", "Rates by name."),
                Key("place", "path or null", "null", ""),
                Key("extra", "mapping", "{}", ""),
                Key("flag", "true or false or text, such as yes, no", "true", "", ("yes", "no")),
            ),
        ),
        Section(
            "parts",
            "One part, or several.",
            (
                Key("parts.size", size[0], "3", size[1]),
                Key("parts.kind", "a, b or null", "null", "Its kind.", ("a", "b")),
            ),
        ),
        Section(
            "other",
            "A part. It has more\n    to say.",
            (
                Key("other.size", size[0], "2", size[1]),
                Key("other.kind", "a, b or null", "null", "Its kind.", ("a", "b")),
            ),
        ),
    ]


def test_defaults_may_be_those_of_a_config() -> None:
    config = Whole(name="n", place=Path("here"), parts=Part(size=5, kind="b"))
    (top, parts, _) = config_sections(Whole, default=config)
    assert [key.default for key in top.keys] == ["n", "{x: 0.5}", "here", "{}", "true"]
    assert [key.default for key in parts.keys] == ["5", "b"]


def test_help_and_page_say_the_same() -> None:
    sections = config_sections(Whole)
    shown, page = help_text(sections), markdown(sections)
    assert "  --name (text; required)\n        What it is called.\n" in shown
    assert "\nother: A part. It has more to say.\n" in shown
    assert (
        "| `parts.size` | whole number, at least 1, less than 9; default 3 | How large it is. The larger, "
        "the slower. |\n"
    ) in page
    for section in sections:
        for key in section.keys:
            assert f"--{key.name} (" in shown and f"| `{key.name}` |" in page
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (
            "name: n",
            "parts.size=0",
            "'parts.size' should be greater than or equal to 1, but is 0. Its meaning: How large it is.",
        ),
        (
            "name: n",
            "parts=[{size: 0}]",
            "'parts.0.size' should be greater than or equal to 1, but is 0. Its meaning: How large it is.",
        ),
        ("place: x", "flag=true", "'name' is missing. Its meaning: What it is called."),
        ("name: n", "place=[]", "'place': Input is not a valid path"),
    ],
)
def test_a_complaint_ends_with_what_the_key_means(
    tmp_path: Path, text: str, override: str, message: str
) -> None:
    (tmp_path / "whole.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_config_model(Whole, tmp_path / "whole.yaml", [override])
    assert message in str(caught.value)
    assert ("Its meaning" in str(caught.value)) == ("Its meaning" in message)
