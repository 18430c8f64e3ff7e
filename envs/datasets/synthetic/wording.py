"""The words of queries: templates by kind of question, short and long."""

from __future__ import annotations

GROUPS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "vehicle": ("vehicle", "vehicles", ("car", "truck")),
    "court": ("court", "courts", ("tennis court", "basketball court")),
}
"""Words that cover several classes: name -> (singular, plural, classes)."""

NAME_ONE = (
    ("the {one}", "the {one}", "{one}"),
    ("please find the {one} in this image", "outline the {one} in this image"),
)
NAME_ALL = (
    ("all the {many}", "all the {many}", "every {one}"),
    ("please find all the {many} in this image", "outline every {one} in this image"),
)
SIZE = (
    ("the {word} {one}",),
    (
        "of all the {many} in this image, find the {word}",
        "please find the {word} of the {many} in this image",
    ),
)
EXTREME = (
    ("the {word} {one}",),
    ("of all the {many} in this image, find the {word}", "outline the {one} that is furthest to the {side}"),
)
REGION = (
    ("the {one} in the {word}",),
    (
        "please find the {one} in the {word} of this image",
        "outline the {one} that lies in the {word} part of the image",
    ),
)
CENTRE = (("the {one} in the middle",), ("please find the {one} in the middle of this image",))
LOOK = (
    ("the {look} {one}",),
    ("please find the {look} {one} in this image", "outline the {look} {one} in this image"),
)
LOOK_ALL = (("all the {look} {many}",), ("please find all the {look} {many} in this image",))
NEAR = (
    ("the {one} closest to the {other}",),
    ("of all the {many} in this image, find the one closest to the {other}",),
)
TWO_LARGEST = (("the two largest {many}",), ("please find the two largest {many} in this image",))
HALF = (("the {many} in the {word} half",), ("please find all the {many} in the {word} half of this image",))
PART = (
    ("the {part} of the {one}",),
    ("please find the {part} of the {one} in this image", "outline only the {part} of the {one}"),
)
PART_OF_WHICH = (
    ("the {part} of the {word} {one}",),
    ("please find the {part} of the {word} {one} in this image",),
)
WINGS = (("both wings of the {one}",), ("please find both wings of the {one} in this image",))

SIZES = ("largest", "smallest")
EXTREMES = {
    "north": ("northernmost", "topmost"),
    "south": ("southernmost", "lowest"),
    "west": ("westernmost", "leftmost"),
    "east": ("easternmost", "rightmost"),
}
REGIONS = {
    (0, 0): "top left",
    (1, 0): "top right",
    (0, 1): "bottom left",
    (1, 1): "bottom right",
}

IMPLICIT: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "storage tank": (
        ("where could fuel be stored?", "what could hold a lot of oil?"),
        ("a delivery of oil has arrived here, where could it be stored?",),
    ),
    "building": (
        ("where could people live or work?", "where could people find shelter from the rain?"),
        ("it has started to rain hard, where could people find shelter?",),
    ),
    "ship": (
        ("what could carry goods across the sea?", "what could sail away?"),
        ("heavy goods have to travel across the sea, what could carry them?",),
    ),
    "aircraft": (
        ("what could fly?", "what could carry people through the air?"),
        ("people have to travel to a far country through the air, what could carry them?",),
    ),
    "tennis court": (
        ("where could people play tennis?",),
        ("two people have brought a racket and a small ball, where could they play?",),
    ),
    "basketball court": (
        ("where could people play basketball?",),
        ("two teams want to throw a ball through a hoop, where could they play?",),
    ),
    "running track": (
        ("where could people run a race?",),
        ("people want to train for a race and run many laps, where could they go?",),
    ),
    "swimming pool": (
        ("where could people swim?",),
        ("it is a hot day and people want to swim, where could they go?",),
    ),
    "truck": (
        ("what could carry goods by road?",),
        ("heavy goods have to travel by road, what could carry them?",),
    ),
    "vehicle": (
        ("what could drive on the road?",),
        ("people have to travel by road, what could they drive?",),
    ),
}
"""Class or group -> (short, long) questions that do not name it."""

IMPLICIT_PARTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("running track", "field"): ("where could people play football?",),
    ("ship", "superstructure"): ("from where is the ship steered?",),
    ("aircraft", "fuselage"): ("where do people sit in the aircraft?",),
}
PART_NAMES: dict[str, tuple[str, ...]] = {
    "aircraft": ("left wing", "right wing", "tail", "fuselage"),
    "ship": ("superstructure",),
    "running track": ("field",),
}
"""Class -> the parts that queries may ask for; left and right as the pilot sees them."""

LOOKALIKES = (
    frozenset({"red", "brown", "rusty", "orange"}),
    frozenset({"white", "grey", "yellow"}),
    frozenset({"green", "blue"}),
    frozenset({"grey", "black", "blue"}),
)
"""Colours that sunlight or shade makes hard to tell apart."""


def alike(first: str, second: str) -> bool:
    """Whether two different colour words could be taken for each other."""
    return first != second and any(first in group and second in group for group in LOOKALIKES)


def look_word(category: str, colour: str) -> str:
    """The adjective for an object of a colour: a building is named by its roof."""
    return f"{colour}-roofed" if category == "building" else colour
