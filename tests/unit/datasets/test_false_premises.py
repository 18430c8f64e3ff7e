"""False premises: what is asked is not there, what is said to be there is, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from envs.datasets import open_dataset
from envs.datasets.false_premises import colour_of, plain_name
from envs.datasets.synthetic.objects import OBJECT_CLASSES
from envs.datasets.synthetic.scene import draw_scene
from envs.datasets.synthetic.wording import GROUPS, alike
from envs.premise import ASKED, FalsePremise
from envs.sample import Sample, SampleSource
from prompter.errors import UserError

SIZE = 96
SCENES = 14


@pytest.fixture(scope="module")
def drawn() -> list[Sample]:
    return list(open_dataset("synthetic-aerial", "val", scenes=SCENES, size=SIZE, false_premises=0.5))


def test_the_questions_that_stay_are_those_of_before(drawn: list[Sample]) -> None:
    plain = open_dataset("synthetic-aerial", "val", scenes=SCENES, size=SIZE)
    kept = [(one, old) for one, old in zip(drawn, plain, strict=True) if ASKED not in one.tags]
    assert 0.35 * len(drawn) < len(kept) < 0.65 * len(drawn)
    assert all(one == old for one, old in kept)


def test_what_a_scene_is_falsely_asked_for_is_not_there_and_what_is_named_instead_is(
    drawn: list[Sample],
) -> None:
    kinds = set()
    for sample in drawn:
        premise = FalsePremise.from_tags(sample.tags)
        if premise is None:
            continue
        kinds.add(premise.kind)
        scene = draw_scene("val", int(sample.image_id.split("-")[1]), size=SIZE)
        colours = [
            (one.category, one.attributes.get("colour", "").replace("-roofed", "")) for one in scene.instances
        ]
        category = sample.tags["category"]
        there = {category for category, _ in colours}
        if premise.kind == "absent":
            assert premise.asked == category and category not in there
        else:
            assert category in there and premise.asked.endswith(category)
            asked = premise.asked.removesuffix(category).strip().removesuffix("-roofed")
            own = [colour for kind, colour in colours if kind == category]
            assert asked in OBJECT_CLASSES[category].looks["colour"]
            assert asked not in own and not any(alike(asked, colour) for colour in own)
        for name in premise.there:
            assert name in GROUPS or any(name.endswith(category) for category in there)
        assert premise.instead in premise.there
        assert not sample.instances and not sample.target_mask().any()
        assert premise.asked.split()[-1].rstrip("s") in sample.query
    assert kinds == {"absent", "attribute"}


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="false_premises"):
        open_dataset("synthetic-aerial", "val", false_premises=1.5)


def manifest(folder: Path, rows: list[tuple[str, str, dict[str, str], bool]]) -> Path:
    mask = [[2, 2, 12, 2, 12, 12]]
    lines = []
    for image, query, tags, has_target in rows:
        Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(folder / image)
        lines.append(
            json.dumps({"image": image, "query": query, "mask": mask if has_target else None, "tags": tags})
        )
    path = folder / "m.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


ROWS = [
    ("a.png", "the white storage tanks on the left", {"category": "storage_tank"}, True),
    ("a.png", "the ship", {"category": "ship"}, True),
    ("b.png", "the large harbor", {"category": "harbor"}, True),
    ("b.png", "the bridge", {"category": "bridge"}, False),
]


def derived(folder: Path, share: float = 1.0) -> SampleSource:
    return open_dataset("manifest", "test", path=manifest(folder, ROWS), false_premises=share)


def test_any_set_with_categories_gets_false_premises_behind_its_own_questions(tmp_path: Path) -> None:
    source, plain = derived(tmp_path), open_dataset("manifest", "test", path=tmp_path / "m.jsonl")
    samples = [source[number] for number in range(len(source))]
    own = [one for one in samples if ASKED not in one.tags]
    assert [(one.sample_id, one.query, one.target) for one in own] == [
        (one.sample_id, one.query, one.target) for one in plain
    ]
    false = [one for one in samples if ASKED in one.tags]
    assert [one.sample_id for one in false] == ["line-1~false", "line-2~false", "line-3~false"]
    for one in false:
        premise = FalsePremise.from_tags(one.tags)
        assert premise is not None and not one.target_mask().any()
        if one.image_id == "a.png":
            assert premise.there == ("ship", "white storage tank", "storage tank")
            # The bridge is asked about elsewhere, but without a target: it is no category to ask for.
            assert premise.asked == "harbor" or premise.asked.endswith(" storage tank")
        else:
            assert premise.there == ("harbor",) and premise.asked in ("storage tank", "ship")
    assert [one.query for one in source] == [one.query for one in derived(tmp_path)]
    assert len(derived(tmp_path, 0.0)) == len(ROWS)


def test_a_colour_is_exchanged_only_where_the_colours_of_all_of_the_kind_are_named(tmp_path: Path) -> None:
    rows = [(f"{n}.png", "the white car", {"category": "car"}, True) for n in range(30)]
    rows += [("0.png", "the car at the top", {"category": "car"}, True)]
    source = open_dataset("manifest", "test", path=manifest(tmp_path, rows), false_premises=1.0)
    found = [one for one in source if ASKED in one.tags]
    assert {one.image_id for one in found} == {
        f"{n}.png" for n in range(1, 30)
    }  # no other category to ask for
    for one in found:
        colour = one.query.removeprefix("the ").removesuffix(" car")
        assert one.tags[ASKED] == f"{colour} car" and not alike(colour, "white") and colour != "white"


def test_a_set_without_categories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="category"):
        open_dataset(
            "manifest", "x", path=manifest(tmp_path, [("a.png", "it", {}, True)]), false_premises=0.5
        )


def test_names_and_colours_are_found_however_they_are_written() -> None:
    assert plain_name("Expressway_Service-area") == "expressway service area"
    assert colour_of("Both White storagetanks", "storage tank") == "white"
    assert colour_of("the tank by the white wall", "tank") == ""
