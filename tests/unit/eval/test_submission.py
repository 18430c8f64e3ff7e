"""Predictions of other programs: read rightly in every form, or refused by a sentence that says where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from envs.masks import decode_rle, encode_rle
from envs.polygons import mask_to_polygons
from envs.rollout import Rollout
from envs.sample import Sample
from eval.results import rescore
from eval.submission.export import export
from eval.submission.records import Notes, Prediction, RecordRules, prediction_records, read_prediction
from eval.submission.scoring import NOT_GIVEN, SubmissionRules, submit
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from prompter.types import FailureKind, Instance, ParseFailure, PromptSet, mends
from rewards.replay import read_rollouts

HW = (20, 30)
IDS = ("a/0", "a/1", "b:0", "c")


def box_mask(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros(HW, np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


ONE, TWO, NONE = box_mask(2, 3, 9, 12), box_mask(15, 4, 28, 18), np.zeros(HW, np.bool_)
RING = box_mask(2, 2, 20, 18) & ~box_mask(6, 6, 12, 12)


class Source:
    """Four samples: two questions on image "a", the last without a target."""

    name, split = "toy", "test"

    def __len__(self) -> int:
        return len(IDS)

    def __getitem__(self, index: int) -> Sample:
        target = (ONE, TWO, RING, NONE)[index]
        return Sample(
            sample_id=IDS[index],
            dataset="toy",
            split="test",
            image_id=IDS[index].split("/")[0],
            image_wh=(HW[1], HW[0]),
            load_image=lambda: Image.new("RGB", (HW[1], HW[0])),
            query="it",
            target=encode_rle(target),
            instances=(encode_rle(target),) if target.any() else (),
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths as a list: they begin with the background, down the columns."""
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(HW), "counts": [0, *runs] if flat[0] else runs}


PERFECT = [
    {"sample_id": "a/0", "segmentation": encode_rle(ONE), "score": 0.5},
    {"sample_id": "a/1", "segmentation": uncompressed(TWO)},
    {"sample_id": "b:0", "segmentation": encode_rle(RING), "bbox": [2, 2, 18, 16]},
    {"sample_id": "c", "segmentation": []},
]


def scored(
    tmp_path: Path, predictions: Path, **rules: Any
) -> tuple[dict[str, Any], list[Rollout], list[str]]:
    """Score predictions; return the strict metrics' values, the rollouts and what was said."""
    out = tmp_path / "run"
    given = {name: rules.pop(name) for name in ("id_map", "limit") if name in rules}
    done = submit(
        predictions,
        Source(),
        out,
        executor="own-masks",
        config={"benchmark": "toy:test"},
        rules=SubmissionRules(**rules),
        progress=False,
        **given,
    )
    results = rescore(done.folder, ["strict"])["own-masks"]["protocols"]["strict"]["metrics"]
    rollouts = list(read_rollouts(done.folder.rollouts_path("own-masks")))
    return {name: metric["value"] for name, metric in results.items()}, rollouts, list(done.exceptions)


def written(tmp_path: Path, records: Any, name: str = "preds.json") -> Path:
    path = tmp_path / name
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    else:
        path.write_text(json.dumps(records), encoding="utf-8")
    return path


def png_folder(tmp_path: Path, masks: dict[str, np.ndarray]) -> Path:
    folder = tmp_path / "masks"
    for name, mask in masks.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * (255 if mask.dtype == np.bool_ else 1)).save(folder / name)
    return folder


@pytest.mark.parametrize("form", ["array", "bom", "annotations", "lines", "grouped lines", "png", "labels"])
def test_every_form_of_the_right_answers_is_perfect(tmp_path: Path, form: str) -> None:
    rules: dict[str, Any] = {}
    if form == "lines":
        path = written(tmp_path, PERFECT, "p.jsonl")
    elif form == "grouped lines":
        lines = [{"sample_id": one["sample_id"], "instances": [one]} for one in PERFECT[:3]]
        path = written(tmp_path, [*lines, {"sample_id": "c", "instances": []}], "p.jsonl")
    elif form == "png":
        masks = {"a%2F0.png": ONE, "a/1_1.png": TWO, "b%3A0_0.png": RING, "c.png": NONE}
        path = png_folder(tmp_path, masks)
    elif form == "labels":
        labels = {
            f"{name}.png": mask.astype(np.uint8) * 3
            for name, mask in zip(IDS, (ONE, TWO, RING, NONE), strict=True)
        }
        path, rules = png_folder(tmp_path, labels), {"numbering": "labels"}
    else:
        path = written(tmp_path, {"annotations": PERFECT} if form == "annotations" else PERFECT)
        if form == "bom":
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    metrics, rollouts, said = scored(tmp_path, path, **rules)
    assert metrics["gIoU"] == metrics["cIoU"] == metrics["N-acc"] == metrics["T-acc"] == 1.0
    assert metrics["instance-F1"] == metrics["box-acc@0.5"] == 1.0
    assert [rollout.sample_id for rollout in rollouts] == list(IDS) and said == []


def test_polygons_with_a_hole_and_several_objects(tmp_path: Path) -> None:
    ring = [[2, 2, 20, 2, 20, 18, 2, 18, 2, 2, 6, 6, 6, 12, 12, 12, 12, 6, 6, 6, 2, 2]]
    records = [
        {"sample_id": "a/0", "segmentation": [[2, 3, 9, 3, 9, 12, 2, 12]]},
        {"sample_id": "a/0", "segmentation": encode_rle(TWO)},
        {"sample_id": "a/1", "segmentation": encode_rle(NONE)},
        {"sample_id": "b:0", "segmentation": ring},
        {"sample_id": "c", "segmentation": None},
    ]
    metrics, rollouts, _ = scored(tmp_path, written(tmp_path, records))
    assert (rollouts[0].prediction_mask == (ONE | TWO)).all()
    assert (rollouts[2].prediction_mask == RING).all()
    assert [len(rollout.reading) for rollout in rollouts] == [2, 0, 1, 0]  # type: ignore[arg-type]
    assert metrics["gIoU"] == pytest.approx((ONE.sum() / (ONE | TWO).sum() + 0 + 1 + 1) / 4)
    assert metrics["T-acc"] == pytest.approx(2 / 3)


def test_a_failure_is_not_an_empty_answer_and_an_error_is_left_out(tmp_path: Path) -> None:
    records = [
        *PERFECT[:2],
        {"sample_id": "b:0", "error": "out of memory"},
        {"sample_id": "c", "failure": "the model wrote a poem"},
    ]
    metrics, rollouts, _ = scored(tmp_path, written(tmp_path, records, "p.jsonl"))
    assert rollouts[2].executor_error == "out of memory" and rollouts[2].prediction is None
    assert isinstance(rollouts[3].reading, ParseFailure)
    assert metrics["gIoU"] == pytest.approx(2 / 3) and metrics["N-acc"] == 0
    assert metrics["parse-failures"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("missing, giou", [("empty", 0.75), ("skip", 1.0)])
def test_absent_predictions_are_counted_as_asked(tmp_path: Path, missing: str, giou: float) -> None:
    metrics, rollouts, said = scored(tmp_path, written(tmp_path, PERFECT[1:]), missing=missing)
    assert metrics["gIoU"] == giou
    assert rollouts[0].executor_error == (NOT_GIVEN if missing == "skip" else None)
    assert len(said) == 1 and said[0].startswith("1 samples without a prediction") and "'a/0'" in said[0]


def test_ids_of_their_own_images_and_the_first_samples(tmp_path: Path) -> None:
    records = [
        {"image_id": number, "segmentation": one["segmentation"]} for number, one in enumerate(PERFECT)
    ]
    table = {str(number): identity for number, identity in enumerate(IDS)}
    assert scored(tmp_path, written(tmp_path, records), id_map=table)[0]["gIoU"] == 1.0
    by_image = [
        *PERFECT[:2],
        *({"image_id": name, **one} for name, one in (("b:0", PERFECT[2]), ("c", PERFECT[3]))),
    ]
    for record in by_image[2:]:
        record.pop("sample_id")
    (tmp_path / "again").mkdir()
    assert scored(tmp_path / "again", written(tmp_path, by_image))[0]["gIoU"] == 1.0
    (tmp_path / "first").mkdir()
    metrics, rollouts, said = scored(tmp_path / "first", written(tmp_path, PERFECT), limit=2)
    assert len(rollouts) == 2 and metrics["gIoU"] == 1.0 and said == []


def small(mask: np.ndarray) -> dict[str, Any]:
    return dict(encode_rle(mask[::2, ::2]))


BAD: list[tuple[str, Any, str]] = [
    ("missing", PERFECT[:3], r"no prediction for 1 of the samples of toy:test: 'c'"),
    ("unknown", [*PERFECT, {"sample_id": "d", "segmentation": []}], r"does not have: 'd'.*like 'a/0'"),
    ("no id", [{"segmentation": []}], r"record 0: it names no sample"),
    ("odd id", [{"sample_id": 1.5, "segmentation": []}], r"record 0: `sample_id` must be text"),
    ("image of two", [*PERFECT[1:], {"image_id": "a", "segmentation": []}], r"several questions"),
    ("no mask", [{"sample_id": "a/0"}, *PERFECT[1:]], r"record 0: the key 'segmentation' is missing"),
    ("twice", [*PERFECT, PERFECT[0]], r"record 4: the same mask of the same sample stands at .*record 0"),
    ("failure beside", [*PERFECT, {"sample_id": "c", "failure": "x"}], r"its sample has other records"),
    ("size", [{"sample_id": "a/0", "segmentation": small(ONE)}, *PERFECT[1:]], r"10 x 15.*20 x 30"),
    (
        "outside",
        [{"sample_id": "a/0", "segmentation": [[0, 0, 90, 0, 90, 9]]}, *PERFECT[1:]],
        r"reach from",
    ),
    (
        "shares",
        [{"sample_id": "a/0", "segmentation": [[0, 0, 0.9, 0, 0.9, 0.9]]}, *PERFECT[1:]],
        r"shares of",
    ),
    (
        "runs",
        [{"sample_id": "a/0", "segmentation": {"size": list(HW), "counts": [5]}}, *PERFECT[1:]],
        r"add up",
    ),
    ("box", [{**PERFECT[0], "bbox": [1, 2]}, *PERFECT[1:]], r"record 0: "),
    ("score", [{**PERFECT[0], "score": "high"}, *PERFECT[1:]], r"record 0: a `score` must be a number"),
    ("key twice", '[{"sample_id": "c", "segmentation": [], "segmentation": [[0, 0, 5, 5]]}]', r"there twice"),
    ("not JSON", "[{", r"preds.json"),
]


@pytest.mark.parametrize("records, message", [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_does_not_fit_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, records: Any, message: str
) -> None:
    path = written(tmp_path, records)
    if isinstance(records, str):
        path.write_text(records)
    with pytest.raises(UserError, match=message) as caught:
        scored(tmp_path, path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_wrong_sizes_unknown_ids_and_low_scores_by_flag(tmp_path: Path) -> None:
    records = [
        {"sample_id": "a/0", "segmentation": small(ONE), "score": 0.9},
        {**PERFECT[1], "score": 0.2},
        {**PERFECT[2], "score": 0.8},
        PERFECT[3],
        {"sample_id": "z", "segmentation": []},
    ]
    rules = {"unknown": "skip", "reading": RecordRules(resize=True, min_score=0.5)}
    metrics, rollouts, said = scored(tmp_path, written(tmp_path, records), **rules)
    assert [len(rollout.reading) for rollout in rollouts] == [1, 0, 1, 0]  # type: ignore[arg-type]
    assert rollouts[0].prediction_mask is not None and rollouts[0].prediction_mask.shape == HW
    assert metrics["cIoU"] is not None and 0.5 < metrics["cIoU"] < 1
    assert [sentence.split()[0] for sentence in said] == ["1", "1", "1"] and "'z'" in said[0]
    with pytest.raises(UserError, match="has no `score`"):
        (tmp_path / "b").mkdir()
        scored(tmp_path / "b", written(tmp_path, PERFECT), reading=RecordRules(min_score=0.5))


def test_names_of_png_files_that_can_be_read_in_two_ways_are_refused(tmp_path: Path) -> None:
    folder = png_folder(tmp_path, {"a/0.png": ONE, "a%2F0.png": TWO, "c.png": NONE})
    with pytest.raises(UserError, match="both named after sample 'a/0'"):
        scored(tmp_path, folder)
    (folder / "a%2F0.png").rename(folder / "a%2F0_1.png")
    with pytest.raises(UserError, match="is one object of sample 'a/0'"):
        scored(tmp_path, folder)
    with pytest.raises(UserError, match=r"holds neither .* nor a PNG"):
        (tmp_path / "empty").mkdir()
        scored(tmp_path, tmp_path / "empty")


def test_an_index_may_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    Image.fromarray(ONE).save(tmp_path / "out.png")
    for place in ("../out.png", str(tmp_path / "out.png")):
        with pytest.raises(UserError, match="must lead to a file beside"):
            read_prediction([("here", {"segmentation": place})], HW, tmp_path / "folder")


def predictions() -> list[Prediction]:
    """Every kind of prediction there is."""
    corner = Instance(box=(2.1, 3.7, 9.3, 12.9), positive_points=((5.5, 6.5),), negative_points=((1.0, 1.0),))
    point = Instance(positive_points=((17.0, 9.0),))
    one, two, none = encode_rle(ONE), encode_rle(TWO), encode_rle(NONE)
    return [
        Prediction(PromptSet((corner, point), clipped=2), (one, two), (0.5, 0.25), tokens=7),
        Prediction(
            PromptSet((corner, point)), (encode_rle(ONE | TWO),), (0.5, 0.25), tokens=7, has_instances=False
        ),
        Prediction(PromptSet((point,)), (none,)),  # named, but the segmenter found no pixel
        Prediction(PromptSet((corner, corner)), (one, one)),  # an object named twice
        Prediction(PromptSet(), tokens=3, text="[]"),
        Prediction(ParseFailure(FailureKind.TOO_MANY, "expected fewer", "[…]"), tokens=9, text="[…]"),
        Prediction(PromptSet(), error="the segmenter died"),
    ]


@pytest.mark.parametrize("prediction", predictions())
def test_records_of_a_prediction_are_read_back_as_it(prediction: Prediction) -> None:
    records = json.loads(json.dumps(prediction_records(prediction)))
    notes = Notes()
    found = read_prediction([("", record) for record in records], HW, None, notes=notes)
    assert found == prediction and mends(found.reading) == mends(prediction.reading)
    assert notes.lines() == []


def test_polygons_of_the_first_pixel_are_no_shares_of_the_image() -> None:
    mask = box_mask(0, 0, 1, 1)
    found = read_prediction([("", {"segmentation": mask_to_polygons(mask)})], HW, None)
    assert (decode_rle(found.masks[0]) == mask).all()


def test_parts_without_area_are_counted_and_grey_masks_refused(tmp_path: Path) -> None:
    notes = Notes()
    polygons = [*mask_to_polygons(ONE), [1.0, 1.0, 5.0, 5.0], [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]]
    found = read_prediction([("", {"segmentation": polygons})], HW, None, notes=notes)
    assert (decode_rle(found.masks[0]) == ONE).all() and notes.parts == 2
    found = read_prediction([("", {"segmentation": polygons[1:]})], HW, None, notes=notes)
    assert found.reading == PromptSet() and notes.nothing_drawn == 1
    grey = np.where(ONE, 255, 0).astype(np.uint8)
    grey[0, :3] = (10, 20, 130)
    Image.fromarray(grey).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="10"):
        read_prediction([("", {"segmentation": "x.png"})], HW, tmp_path)
    rules = RecordRules(mask_values="above:127")
    found = read_prediction([("", {"segmentation": "x.png"})], HW, tmp_path, rules)
    assert decode_rle(found.masks[0]).sum() == ONE.sum() + 1


def test_an_empty_mask_beside_others_is_left_out_and_counted() -> None:
    notes = Notes()
    records = [("", {"segmentation": encode_rle(mask)}) for mask in (ONE, NONE)]
    found = read_prediction(records, HW, None, notes=notes)
    assert isinstance(found.reading, PromptSet) and len(found.reading) == 1
    assert (decode_rle(found.masks[0]) == ONE).all() and notes.empty_beside_others == 1


@pytest.mark.parametrize("form", ["rle", "polygons", "png"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_exported_predictions_score_as_their_run_to_the_digit(tmp_path: Path, form: Any, suffix: str) -> None:
    rng = np.random.default_rng(1)
    records = []
    for number, name in enumerate(IDS):
        noisy = (np.array((ONE, TWO, RING, NONE)[number]) ^ (rng.random(HW) < 0.1)) & (rng.random() < 0.9)
        records += [
            {"sample_id": name, "segmentation": encode_rle(noisy), "bbox": [1, 1, 20.3, 15.7], "score": 0.1}
        ]
    (tmp_path / "one").mkdir()
    _, rollouts, _ = scored(tmp_path / "one", written(tmp_path, records))
    out = tmp_path / ("masks" if form == "png" else f"exported{suffix}")
    done = export(rollouts, form, out)
    assert (done.samples, done.masks, done.pixels_lost) == (4, 4, 0)
    done_again = submit(
        out,
        Source(),
        tmp_path / "two",
        executor="own-masks",
        config={},
        rules=SubmissionRules(),
        progress=False,
    )
    names = ["strict", "rmsin", "geo-r1", "rela", "think2seg", "segearth-r1"]
    assert rescore(done_again.folder, names) == rescore(RunFolder(tmp_path / "one" / "run"), names)
    assert list(read_rollouts(done_again.folder.rollouts_path("own-masks"))) == rollouts
    with pytest.raises(UserError, match="exists already"):
        export(rollouts, form, out)


def test_rollouts_are_predictions_but_only_of_their_own_benchmark(tmp_path: Path) -> None:
    _, rollouts, _ = scored(tmp_path, written(tmp_path, PERFECT))
    path = tmp_path / "run" / "rollouts" / "own-masks.jsonl"
    (tmp_path / "again").mkdir()
    metrics, again, _ = scored(tmp_path / "again", path)
    assert metrics["gIoU"] == 1.0 and again == rollouts
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text(path.read_text().replace('"dataset":"toy"', '"dataset":"toys"'))
    (tmp_path / "third").mkdir()
    with pytest.raises(UserError, match="line 1: it is a rollout of toys:test"):
        scored(tmp_path / "third", foreign)
