"""What the questions about buildings say, and which kinds name one or all of them."""

from __future__ import annotations

WORDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "largest": (
        ("the largest building", "explicit"),
        ("the building with the largest roof", "explicit"),
        ("Which roof would collect the most rainwater?", "implicit"),
        ("If solar panels could go on one roof only, which one offers the most room?", "implicit"),
    ),
    "smallest": (
        ("the smallest building", "explicit"),
        ("the building with the smallest roof", "explicit"),
        ("Which building would be the quickest to re-roof?", "implicit"),
    ),
    "northernmost": (
        ("the northernmost building", "explicit"),
        ("the building closest to the top edge of the image", "explicit"),
    ),
    "southernmost": (
        ("the southernmost building", "explicit"),
        ("the building closest to the bottom edge of the image", "explicit"),
    ),
    "westernmost": (
        ("the westernmost building", "explicit"),
        ("the building closest to the left edge of the image", "explicit"),
    ),
    "easternmost": (
        ("the easternmost building", "explicit"),
        ("the building closest to the right edge of the image", "explicit"),
    ),
    "central": (
        ("the building nearest the centre of the image", "explicit"),
        ("A drone hovers over the middle of this scene; which building is nearest below it?", "implicit"),
    ),
    "elongated": (
        ("the most elongated building", "explicit"),
        ("the long and narrow building", "explicit"),
    ),
    "isolated": (
        ("the building standing farthest from all the others", "explicit"),
        ("Whose residents have the farthest way to their next neighbour?", "implicit"),
    ),
    "beside_largest": (
        ("the building closest to the largest one", "explicit"),
        (
            "Find the largest building first, then mark the one whose centre is closest to it.",
            "explicit",
        ),
    ),
    "closest_pair": (
        ("the two buildings whose centres are closest together", "explicit"),
        ("Of all pairs of buildings, mark the pair whose centres lie closest to each other.", "explicit"),
    ),
    "two_largest": (
        ("the two largest buildings", "explicit"),
        (
            "Mark the two buildings whose roofs would take up the most space on a map.",
            "implicit",
        ),
    ),
    "all": (
        ("all buildings", "explicit"),
        ("every building in the image", "explicit"),
        ("Where could people take shelter from the rain?", "implicit"),
        (
            "Mark everything here that a fire brigade would have to protect from a forest fire.",
            "implicit",
        ),
    ),
    "all_but_largest": (
        ("all buildings except the largest", "explicit"),
        ("every building in this image, leaving out only the one that is the largest", "explicit"),
    ),
    "north_half": (("all buildings in the northern half", "explicit"),),
    "south_half": (("all buildings in the southern half", "explicit"),),
    "west_half": (("all buildings in the left half", "explicit"),),
    "east_half": (("all buildings in the right half", "explicit"),),
    "top_left": (("the building in the top left", "explicit"),),
    "top_right": (("the building in the top right", "explicit"),),
    "bottom_left": (("the building in the bottom left", "explicit"),),
    "bottom_right": (("the building in the bottom right", "explicit"),),
}
"""Kind -> wordings (text, explicit or implicit). Twelve words or more make a query "long"."""

SEMANTIC_KINDS = {"all", "all_but_largest", "north_half", "south_half", "west_half", "east_half"}
EMPTY_KINDS = ("all", "largest", "smallest", "central", "northernmost", "top_left", "bottom_right")
"""Asked where there is no building at all. Left out are wordings that presuppose one or two."""
