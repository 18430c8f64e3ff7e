"""The tile of an image: by tag, by what the catalog says, or by what the user says; never guessed."""

from __future__ import annotations

import pytest

from envs.datasets.catalog import CATALOG
from envs.datasets.tiles import tile_of, tile_rule
from envs.rollout import Rollout
from prompter.errors import UserError
from prompter.types import PromptSet


def rollout(image_id: str, dataset: str = "unit", **tags: str) -> Rollout:
    return Rollout(
        sample_id="s",
        dataset=dataset,
        split="test",
        image_id=image_id,
        image_wh=(2, 2),
        query="q",
        target=None,
        completion="",
        reading=PromptSet(),
        prediction=None,
        tags=tags,
    )


def test_a_tile_is_named_by_a_tag_the_catalog_or_the_image() -> None:
    assert tile_of(rollout("967_x0_y96")) == "967_x0_y96"
    assert tile_of(rollout("967_x0_y96", "aerial-buildings")) == "967"
    assert tile_of(rollout("967_x0_y96", "aerial-buildings", tile="a")) == "a"
    assert tile_of(rollout("other", "aerial-buildings")) == "other"
    assert CATALOG["aerial-buildings"].tile and not CATALOG["synthetic-aerial"].tile


def test_the_user_says_what_tiles_are() -> None:
    assert tile_rule("tag:city")(rollout("i", city="Ulm")) == "Ulm"
    assert tile_rule(r"image:(\w+)-\d+")(rollout("north-12")) == "north"
    assert tile_rule("image:..")(rollout("north-12")) == "no"
    assert tile_rule("image:a(b)?")(rollout("a")) == ""


@pytest.mark.parametrize("text", ["city", "tag:", "image:", "column:x"])
def test_a_rule_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="tag:NAME or image:REGEX"):
        tile_rule(text)


def test_what_a_rule_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="no regular expression"):
        tile_rule("image:(")
    with pytest.raises(UserError, match="has no tag 'city'; its tags: country"):
        tile_rule("tag:city")(rollout("i", country="x"))
    with pytest.raises(UserError, match="'south' does not match"):
        tile_rule("image:north")(rollout("south"))
