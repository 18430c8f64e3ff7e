"""The data engine's parts: grids, detections, shapes, filters, and questions that have one right answer."""

from __future__ import annotations

import json
import random
from pathlib import Path

import cv2
import numpy as np
import pytest

from envs.masks import Mask, encode_rle, mask_to_box
from prompter.errors import UserError
from prompter.types import Box, Instance
from recipes.engine.ask import _read
from recipes.engine.detections import Detection, of_image, read_detections
from recipes.engine.filters import filter_masks, filter_shapes
from recipes.engine.masks import Candidate, Source, inside_grid
from recipes.engine.questions import Meant, Named, Question, ask_offline, axes_of, choose, meant_by_geometry
from recipes.engine.settings import EngineSettings, FilterRules
from recipes.engine.shapes import FEWEST, make_reference, references, shape_of
from recipes.engine.store import EngineFolder
from recipes.engine.words import PURPOSES, WHICH, plural

WH = (120, 80)


def rectangle(x1: int, y1: int, x2: int, y2: int, wh: tuple[int, int] = WH) -> Mask:
    mask = np.zeros((wh[1], wh[0]), np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


def candidate(
    mask: Mask,
    source: Source = "box",
    *,
    detection: int | None = 0,
    iou: float = 0.9,
    stability: float = 0.95,
    label: str = "building",
) -> Candidate:
    box = mask_to_box(mask)
    assert box is not None
    prompt = Instance(box) if source == "box" else Instance(positive_points=((box[0], box[1]),))
    area = int(mask.sum())
    return Candidate(
        encode_rle(mask),
        source,
        prompt,
        box,
        area,
        iou,
        stability,
        detection if source == "box" else None,
        label if source == "box" else "",
    )


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 10, 10), (4, 4)),
        ((5, 5, 29, 15), (4, 4)),  # 2.4
        ((0, 0, 25, 10), (4, 1)),  # 2.5: ceil(2.5) + 1
        ((0, 0, 10, 31), (1, 5)),  # 3.1, upright
        ((0, 0, 100, 10), (11, 1)),
    ],
)
def test_the_grid_inside_a_box_follows_its_aspect_ratio(box: Box, expected: tuple[int, int]) -> None:
    assert inside_grid(box) == expected


def test_detections_read_alike_from_three_forms(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        json.dumps(
            {
                "images": [{"id": 3, "file_name": "x/a.png"}],
                "annotations": [{"image_id": 3, "bbox": [1, 2, 4, 6], "category_id": 9}],
                "categories": [{"id": 9, "name": "ship"}],
            }
        )
    )
    (tmp_path / "a.csv").write_text("image_path,xmin,ymin,xmax,ymax,label\nx/a.png,1,2,5,8,ship\n")
    (tmp_path / "a.jsonl").write_text('{"image": "x/a.png", "boxes": [[1, 2, 5, 8]], "labels": ["ship"]}\n')
    for name in ("a.json", "a.csv", "a.jsonl"):
        found = read_detections(tmp_path / name)
        assert list(of_image(found, "x/a.png")) == [Detection((1.0, 2.0, 5.0, 8.0), "ship")], name
    assert not of_image(found, "b.png")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"image": "a", "boxes": [[1, 2, 1, 8]], "labels": ["ship"]}\n', "line 1.*x2 > x1"),
        ('{"image": "a", "boxes": [[1, 2, 3, 8]], "labels": []}\n', "1 boxes, but 0 labels"),
        ('{"image": "a", "boxes": [[1, 2, 3, 8]], "labels": [" "]}\n', "label"),
        ('{"image": "a"}\n', "'boxes'"),
        ("", "no box"),
    ],
)
def test_a_file_of_detections_that_is_bad_is_refused_with_its_place(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=told):
        read_detections(tmp_path / "a.jsonl")


def test_shapes_of_figures_whose_statistics_are_known() -> None:
    disc = np.zeros((200, 200), np.uint8)
    cv2.circle(disc, (100, 100), 60, 1, -1)
    found = shape_of(disc.astype(np.bool_))
    assert found.eccentricity < 0.05 and found.solidity > 0.98 and found.symmetry > 0.97
    assert found.circularity > 0.93 and found.extent == pytest.approx(np.pi / 4, abs=0.02)
    bar = shape_of(rectangle(10, 10, 90, 30))
    assert bar.extent == 1 and bar.solidity == 1 and bar.symmetry > 0.9
    assert bar.eccentricity == pytest.approx(np.sqrt(1 - (20 / 80) ** 2), abs=0.01)
    assert bar.circularity == pytest.approx(4 * np.pi * 1600 / 200**2, abs=0.03)
    corner = rectangle(10, 10, 70, 70, (80, 80)) & ~rectangle(25, 10, 70, 55, (80, 80))
    found = shape_of(corner)
    assert found.solidity < 0.75 and found.extent == pytest.approx(corner.sum() / 3600)
    assert shape_of(corner | rectangle(0, 0, 4, 4, (80, 80))) == found  # the largest component alone
    line = shape_of(rectangle(5, 5, 60, 6))
    assert line.eccentricity > 0.99 and line.extent == 1
    assert shape_of(rectangle(3, 3, 4, 4)).eccentricity == pytest.approx(0, abs=1e-6)


def test_every_filter_counts_what_it_removes() -> None:
    boxes = [(10, 10, 40, 40), (50, 10, 80, 40), (90, 10, 110, 40), (10, 50, 40, 70), (60, 50, 80, 70)]
    detections = [Detection(tuple(map(float, box)), "building") for box in boxes]  # type: ignore[arg-type]
    two = rectangle(90, 10, 100, 40) | rectangle(104, 10, 110, 40)
    speck = rectangle(60, 50, 80, 70) | rectangle(100, 60, 101, 62)
    kept, removed = filter_masks(
        [
            candidate(rectangle(10, 10, 40, 40), detection=0),
            candidate(rectangle(11, 11, 40, 40), "grid", iou=0.99),  # the same, better scored, not from a box
            candidate(rectangle(50, 10, 80, 40), detection=1, iou=0.3),
            candidate(rectangle(50, 10, 80, 40), detection=1, stability=0.2),
            candidate(rectangle(50, 10, 51, 11), "grid"),
            candidate(rectangle(0, 0, 120, 75), "grid"),
            candidate(two, detection=2),
            candidate(rectangle(12, 50, 20, 55), detection=3),
            candidate(speck, detection=4),
            candidate(rectangle(50, 10, 80, 40), "grid", iou=float("nan")),
        ],
        detections,
        WH,
        FilterRules(smallest_share=0.001),
    )
    assert removed == {
        "predicted_iou": 2,
        "stability": 1,
        "small": 1,
        "large": 1,
        "components": 1,
        "off_box": 1,
        "duplicate": 1,
    }
    assert [one.detection for one in kept] == [0, 4]
    assert kept[1].area == 400 and kept[1].box == (60.0, 50.0, 80.0, 70.0)  # the speck is off


def test_shapes_out_of_the_references_range_are_removed_by_the_statistic_that_tells() -> None:
    shapes = [shape_of(rectangle(5, 5, 25 + n, 22)) for n in range(FEWEST)]
    known = {"building": make_reference(shapes)}
    square, thin = candidate(rectangle(10, 10, 31, 28)), candidate(rectangle(10, 10, 110, 13))
    kept, removed = filter_shapes(
        [(square, "Building"), (thin, "building"), (thin, "road"), (thin, "")], WH, known, 2.5
    )
    assert [(one, category) for one, category, _ in kept] == [
        (square, "Building"),
        (thin, "road"),
        (thin, ""),
    ]
    assert removed == {"eccentricity": 1}


def layout(count: int, seed: int) -> tuple[Named, list[Detection]]:
    """Buildings and ships of random size and place, apart; every fifth has no mask."""
    generator = random.Random(seed)
    detections, kept = [], []
    taken = np.zeros((WH[1], WH[0]), np.bool_)
    while len(detections) < count:
        w, h = generator.randrange(4, 24), generator.randrange(4, 18)
        x, y = generator.randrange(0, WH[0] - w), generator.randrange(0, WH[1] - h)
        mask = rectangle(x, y, x + w, y + h)
        if (mask & taken).any():
            continue
        taken |= mask
        label = "ship" if generator.random() < 0.2 else "building"
        detections.append(Detection((float(x), float(y), float(x + w), float(y + h)), label))
        if len(detections) % 5:
            kept.append(candidate(mask, detection=len(detections) - 1, label=label))
    return Named(kept, [one.label for one in kept]), detections


def test_what_is_meant_is_right_among_all_that_was_detected() -> None:
    seen = set()
    for seed in range(40):
        named, detections = layout(9, seed)
        for meant in meant_by_geometry(named, detections, WH, unique=False):
            if " and " in meant.kind:
                assert len(set(meant.categories)) == 2
                continue
            seen.add(meant.kind)
            own = [one.box for one in detections if one.label == meant.categories[0]]
            targets = [named.kept[number].box for number in meant.masks]
            areas = sorted((box[2] - box[0]) * (box[3] - box[1]) for box in own)
            area = [(box[2] - box[0]) * (box[3] - box[1]) for box in targets]
            if meant.kind == "only":
                assert targets == own
            elif meant.kind == "largest":
                assert area == areas[-1:]
            elif meant.kind == "smallest":
                assert area == areas[:1]
            elif meant.kind == "westernmost":
                assert targets[0][0] == min(box[0] for box in own)
            elif meant.kind == "southernmost":
                assert targets[0][3] == max(box[3] for box in own)
            elif meant.kind == "near_bottom_right":
                far = [
                    (WH[0] - (box[0] + box[2]) / 2) ** 2 + (WH[1] - (box[1] + box[3]) / 2) ** 2 for box in own
                ]
                assert targets == [own[far.index(min(far))]]
            elif meant.kind == "all":
                assert sorted(targets) == sorted(own)  # never where one of them has no mask
            elif meant.kind == "top_left":
                inside = [box for box in own if box[0] < WH[0] / 2 and box[1] < WH[1] / 2]
                assert inside == targets
    assert {
        "only",
        "largest",
        "smallest",
        "westernmost",
        "southernmost",
        "all",
        "top_left",
        "near_bottom_right",
    } <= seen


def test_unique_means_categories_of_which_there_is_one() -> None:
    named, detections = layout(9, 3)
    once = [one.label for one in detections if sum(o.label == one.label for o in detections) == 1]
    found = meant_by_geometry(named, detections, WH, unique=True)
    assert {one.kind for one in found} <= {"only", "only and only"}
    assert all(set(one.categories) <= set(once) for one in found)


def test_questions_go_round_the_axes_with_one_target_and_several() -> None:
    single = [Meant(kind, (0,), ("building",)) for kind in ("largest", "smallest", "westernmost", "isolated")]
    several = [Meant(kind, (0, 1), ("building",) * 2) for kind in ("all", "two_largest", "closest_pair")]
    chosen = choose([*single, *several], 7, random.Random(0))
    assert [len(one.masks) > 1 for one in chosen] == [False, True] * 3 + [False]
    assert len({one.kind for one in chosen}) == 7
    assert len(set(map(axes_of, range(8)))) == 4


def test_offline_wordings_differ_keep_to_their_axes_and_read_back() -> None:
    for kind in WHICH:
        for number in range(8):
            reasoning, length = axes_of(number)
            meant = Meant(kind, (0,), ("storage tank",))
            asked = ask_offline(meant, reasoning, length, 3, random.Random(number))
            assert len(set(asked.wordings)) == 3 and asked.reasoning == reasoning
            for text in asked.wordings:
                assert ("storage tank" in text) == (reasoning == "explicit")
                assert length != "long" or len(text.split()) >= 15
                assert length != "short" or reasoning == "implicit" or len(text.split()) <= 12
                assert "{" not in text
            assert "storage tank" in asked.answer
            assert Question.from_json(json.loads(json.dumps(asked.to_json()))) == asked
    unknown = ask_offline(Meant("only", (0,), ("quarry",)), "implicit", "short", 3, random.Random(0))
    assert unknown.reasoning == "explicit" and all("quarry" in text for text in unknown.wordings)
    both = Meant("largest and only", (0, 1), ("building", "ship"))
    text = ask_offline(both, "explicit", "short", 1, random.Random(1)).wordings[0]
    assert "building" in text and " and the" in text and "ship" in text
    assert [plural(one) for one in ("bus", "ferry", "aircraft", "bridge")] == [
        "buses",
        "ferries",
        "aircraft",
        "bridges",
    ]
    assert not [name for name, words in PURPOSES.items() if any(name in text.split() for text in words)]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ('{"questions": ["a", "b", "c"], "answer": "The ship. [SEG]"}', ""),
        ('<think>{"x": 1}</think>```json\n{"questions": ["a", "b", "c"]}```', ""),
        ('Here:\n```json\n{"questions": ["a", "b", "c"]}\n```', ""),
        ("no idea", "no questions in JSON"),
        ('{"questions": ["a", "a", "b"]}', "too few wordings"),
        ('{"questions": ["the outlined one", "b", "c"]}', "speaks of the outline"),
        ('{"questions": ["which ship", "b", "c"]}', "names the category"),
        ('{"questions": ["' + "a " * 30 + '", "b", "c"]}', "wrong length"),
        ('{"questions": "a"}', "no questions in JSON"),
    ],
)
def test_a_reply_is_taken_or_counted_by_what_is_wrong(reply: str, why: str) -> None:
    texts, answer, found = _read(reply, Meant("marked", (0,), ("ship",)), "implicit", "short", 3)
    assert found == why
    assert texts == (() if why else ("a", "b", "c"))
    assert bool(answer) != bool(why) and "[SEG]" not in answer


def test_a_folder_with_other_settings_or_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    folder = EngineFolder(tmp_path / "set")
    folder.begin(EngineSettings(executor={"family": "box"}))
    folder.begin(EngineSettings(executor={"family": "box"}))
    assert folder.settings() == EngineSettings(executor={"family": "box"})
    with pytest.raises(UserError, match="seed = 0, not 1"):
        folder.begin(EngineSettings(executor={"family": "box"}, seed=1))
    with pytest.raises(UserError, match="not empty"):
        EngineFolder(tmp_path).begin(EngineSettings(executor={}))
    with pytest.raises(UserError, match=r"engine\.json"):
        EngineFolder(tmp_path).settings()


def test_a_reference_needs_masks_and_a_category() -> None:
    from envs.datasets import open_dataset

    source = open_dataset("synthetic-aerial", "val", scenes=40, size=64)
    found = references(source)
    assert found and all(one.masks >= FEWEST for one in found.values())
    with pytest.raises(UserError, match="reference-category"):
        references(open_dataset("synthetic-aerial", "val", scenes=1, queries_per_scene=1, size=64))
