"""The words of questions asked offline: which objects are meant, how they are called, how it is asked."""

from __future__ import annotations

from envs.datasets.synthetic.objects import OBJECT_CLASSES

WHICH: dict[str, tuple[str, str, str]] = {
    "only": ("the {one}", "the only {one}", "the single {one}"),
    "largest": ("the largest {one}", "the biggest {one}", "the {one} that covers the most ground"),
    "smallest": (
        "the smallest {one}",
        "the {one} of the least size",
        "the {one} that covers the least ground",
    ),
    "northernmost": (
        "the northernmost {one}",
        "the {one} closest to the top edge",
        "the {one} furthest to the north",
    ),
    "southernmost": (
        "the southernmost {one}",
        "the {one} closest to the bottom edge",
        "the {one} furthest to the south",
    ),
    "westernmost": (
        "the westernmost {one}",
        "the {one} closest to the left edge",
        "the {one} furthest to the west",
    ),
    "easternmost": (
        "the easternmost {one}",
        "the {one} closest to the right edge",
        "the {one} furthest to the east",
    ),
    "elongated": (
        "the most elongated {one}",
        "the {one} that is longest for its width",
        "the long and narrow {one}",
    ),
    "isolated": (
        "the {one} farthest from all others",
        "the most isolated {one}",
        "the {one} that stands most by itself",
    ),
    "beside_largest": (
        "the {one} closest to the largest one",
        "the {one} nearest to the biggest one",
        "the {one} right beside the largest",
    ),
    "top_left": ("the {one} in the top left", "the {one} in the upper left", "the {one} in the north-west"),
    "top_right": (
        "the {one} in the top right",
        "the {one} in the upper right",
        "the {one} in the north-east",
    ),
    "bottom_left": (
        "the {one} in the bottom left",
        "the {one} in the lower left",
        "the {one} in the south-west",
    ),
    "bottom_right": (
        "the {one} in the bottom right",
        "the {one} in the lower right",
        "the {one} in the south-east",
    ),
    "central": (
        "the {one} closest to the middle of the image",
        "the {one} nearest to the centre of the image",
        "the most central {one}",
    ),
    "near_top_left": (
        "the {one} closest to the top left corner",
        "the {one} nearest to the upper left corner",
        "the {one} closest to the north-west corner",
    ),
    "near_top_right": (
        "the {one} closest to the top right corner",
        "the {one} nearest to the upper right corner",
        "the {one} closest to the north-east corner",
    ),
    "near_bottom_left": (
        "the {one} closest to the bottom left corner",
        "the {one} nearest to the lower left corner",
        "the {one} closest to the south-west corner",
    ),
    "near_bottom_right": (
        "the {one} closest to the bottom right corner",
        "the {one} nearest to the lower right corner",
        "the {one} closest to the south-east corner",
    ),
    "closest_pair": (
        "the two {many} closest together",
        "the pair of {many} with the least distance between them",
        "the two {many} that are nearest to each other",
    ),
    "two_largest": (
        "the two largest {many}",
        "the two biggest {many}",
        "the two {many} that cover the most ground",
    ),
    "all": ("all {many}", "every {one}", "each {one}"),
    "all_but_largest": (
        "all {many} except the largest",
        "every {one} but the largest",
        "all {many} without the biggest one",
    ),
    "north_half": (
        "all {many} in the northern half",
        "all {many} in the upper half",
        "every {one} in the top half",
    ),
    "south_half": (
        "all {many} in the southern half",
        "all {many} in the lower half",
        "every {one} in the bottom half",
    ),
    "west_half": (
        "all {many} in the left half",
        "all {many} in the western half",
        "every {one} in the left half",
    ),
    "east_half": (
        "all {many} in the right half",
        "all {many} in the eastern half",
        "every {one} in the right half",
    ),
}
"""Kind of question -> three ways to say which objects are meant. Kinds are those of
`envs.datasets.building_queries`, `only` (the image shows one) and `recipes.engine.questions.NEAREST`."""

PURPOSES: dict[str, tuple[str, str]] = {
    "building": ("place where people could live or work", "places where people could live or work"),
    "house": ("place where a family could live", "places where families could live"),
    "storage tank": ("place where oil or fuel could be stored", "places where oil or fuel could be stored"),
    "ship": ("thing that could carry goods across water", "things that could carry goods across water"),
    "boat": ("thing that could take people across water", "things that could take people across water"),
    "aircraft": (
        "thing that could carry people through the air",
        "things that could carry people through the air",
    ),
    "airplane": (
        "thing that could carry people through the air",
        "things that could carry people through the air",
    ),
    "plane": (
        "thing that could carry people through the air",
        "things that could carry people through the air",
    ),
    "helicopter": ("thing that could take off straight up", "things that could take off straight up"),
    "car": (
        "thing that a few people could travel in by road",
        "things that a few people could travel in by road",
    ),
    "small vehicle": (
        "thing that a few people could travel in by road",
        "things that a few people could travel in by road",
    ),
    "vehicle": ("thing that could travel by road", "things that could travel by road"),
    "truck": ("thing that could carry heavy goods by road", "things that could carry heavy goods by road"),
    "large vehicle": (
        "thing that could carry heavy goods by road",
        "things that could carry heavy goods by road",
    ),
    "tennis court": (
        "place where two people could hit a ball over a net",
        "places where two people could hit a ball over a net",
    ),
    "basketball court": (
        "place where a team could throw a ball through a hoop",
        "places where teams could throw a ball through a hoop",
    ),
    "baseball diamond": (
        "place where a ball could be hit with a bat",
        "places where a ball could be hit with a bat",
    ),
    "soccer ball field": (
        "place where two teams could kick a ball into goals",
        "places where two teams could kick a ball into goals",
    ),
    "ground track field": ("place where people could run laps", "places where people could run laps"),
    "running track": ("place where people could run laps", "places where people could run laps"),
    "swimming pool": ("place where people could swim", "places where people could swim"),
    "bridge": (
        "way on which traffic could cross an obstacle",
        "ways on which traffic could cross an obstacle",
    ),
    "harbor": ("place where ships could be moored", "places where ships could be moored"),
    "roundabout": (
        "place where traffic could turn round an island",
        "places where traffic could turn round an island",
    ),
    "solar panel": (
        "thing that could turn sunlight into power",
        "things that could turn sunlight into power",
    ),
    "windmill": ("thing that could turn wind into power", "things that could turn wind into power"),
    "tree": ("living thing that could give shade", "living things that could give shade"),
    "dam": ("thing that could hold back a river", "things that could hold back a river"),
    "chimney": ("thing that could let smoke out high up", "things that could let smoke out high up"),
    "stadium": ("place where thousands could watch a game", "places where thousands could watch a game"),
    "train station": ("place where people could board a train", "places where people could board a train"),
    "parking lot": (
        "place where drivers could leave their cars",
        "places where drivers could leave their cars",
    ),
}
"""Category -> (singular, plural) that means it and does not name it."""

SHORT = ("{it}", "find {it}", "outline {it}")
LONG = (
    "in this overhead image, please find and outline {it}, and leave out everything else",
    "looking at this area from above, mark with care the outline of {it} and of nothing else",
    "somebody who sees this area for the first time asks from the air where to find {it}, please show it",
)
"""How it is asked, three ways each."""

AND = "{first} and {second}"


def plural(name: str) -> str:
    """The plural of a category's plain name."""
    if name in OBJECT_CLASSES:
        return OBJECT_CLASSES[name].plural
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    if name.endswith("craft"):
        return name
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"


def names(category: str, *, implicit: bool) -> dict[str, str] | None:
    """The words for `{one}` and `{many}` of a category; None where it has no implicit ones."""
    if not implicit:
        return {"one": category, "many": plural(category)}
    found = PURPOSES.get(category)
    return None if found is None else {"one": found[0], "many": found[1]}
