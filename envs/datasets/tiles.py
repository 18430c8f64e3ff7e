"""What tile an image was cut from: windows of one tile overlap or adjoin, so they are not independent.

Intervals that draw images take each for a draw of its own. Where images are windows of larger tiles (or
frames of one film, scenes of one city), drawing whole tiles is the honest choice. The tile is named by the
tag `tile` of a sample, else by what the catalog says of its set, else it is the image itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from envs.datasets.catalog import CATALOG
from envs.rollout import Rollout
from prompter.errors import UserError

TAG = "tile"
"""The tag by which a sample names its tile."""

_FORM = "--tiles is written tag:NAME or image:REGEX"


def tile_of(rollout: Rollout) -> str:
    """Name of the tile of a rollout's image, unique within its dataset and split."""
    if TAG in rollout.tags:
        return rollout.tags[TAG]
    info = CATALOG.get(rollout.dataset)
    return _first_group(info.tile if info else "", rollout.image_id)


def tile_rule(text: str) -> Callable[[Rollout], str]:
    """Read what a user says tiles are.

    Args:
        text: "tag:NAME" for the value of a tag, or "image:REGEX" for what group 1 (or, without a group, the
            whole) of a regular expression matches at the start of the image id.

    Returns:
        rollout -> name of its tile.

    Raises:
        UserError: if the text is neither. The rule raises it, too, for a rollout without the tag, or whose
            image id does not match: taken for a tile of its own, it would narrow the interval unseen.
    """
    kind, _, rule = text.partition(":")
    if kind not in ("tag", "image") or not rule:
        raise UserError(f"{_FORM}, but got {text!r}.")
    if kind == "image":
        try:
            pattern = re.compile(rule)
        except re.error as error:
            raise UserError(f"--tiles {text}: this is no regular expression ({error}).") from None

    def by_tag(rollout: Rollout) -> str:
        if rule not in rollout.tags:
            known = ", ".join(sorted(rollout.tags)) or "none"
            raise UserError(
                f"--tiles {text}: sample {rollout.sample_id!r} has no tag {rule!r}; its tags: {known}."
            )
        return rollout.tags[rule]

    def by_image(rollout: Rollout) -> str:
        found = pattern.match(rollout.image_id)
        if found is None:
            raise UserError(f"--tiles {text}: the image id {rollout.image_id!r} does not match.")
        name = found[1] if pattern.groups else found[0]
        return name or ""

    return by_tag if kind == "tag" else by_image


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _first_group(pattern: str, image_id: str) -> str:
    found = _compiled(pattern).fullmatch(image_id) if pattern else None
    return found[1] if found else image_id
