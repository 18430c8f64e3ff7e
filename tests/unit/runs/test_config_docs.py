"""What a key says of itself: read from the source of its model, where pydantic is not asked to."""

from __future__ import annotations

from pydantic import Field, create_model

from prompter.runs.config import StrictModel
from prompter.runs.config_docs import key_text


class Parent(StrictModel):
    both: int = Field(default=1, description="Given.")
    """Below it."""

    kept: int = 2
    """Of the parent:
    it goes on."""

    silent: int = 3

    class Inner(StrictModel):
        kept: int = 4
        """Of the inner one."""


class Child(Parent):
    silent: int = 5
    """Of the child."""


def test_a_key_says_what_is_given_or_stands_below_it_or_below_that_of_the_parent() -> None:
    assert key_text(Parent, "both") == "Given."
    assert key_text(Parent, "silent") == ""
    assert key_text(Child, "silent") == "Of the child."
    assert key_text(Child, "kept") == key_text(Parent, "kept") == "Of the parent:\nit goes on."
    assert key_text(Parent.Inner, "kept") == "Of the inner one."


def test_a_model_in_a_function_has_texts_and_one_without_a_source_has_none() -> None:
    class Local(StrictModel):
        key: int = 1
        """Within."""

    assert key_text(Local, "key") == "Within."
    made = create_model("Made", __base__=StrictModel, key=(int, 1))
    assert key_text(made, "key") == ""
    made.__module__ = "no.such.module"
    assert key_text(made, "key") == ""
