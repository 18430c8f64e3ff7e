"""An audit puts wrong labels first where predictions are good, and is not led astray where they are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from envs.boxes import pairwise_box_iou
from envs.executors.base import Segmentation, SegmentRequest
from envs.masks import decode_rle, encode_rle, iou, mask_to_box
from envs.sample import Sample
from eval.audit.consensus import Vote, find_consensus, vote_of
from eval.audit.evidence import Evidence
from eval.audit.kinds import KINDS, kind_of
from eval.audit.planting import DIFFERENT, FAULTS, Label, plant_faults
from eval.audit.predictors import aligned, open_runs, shortest
from eval.audit.queue import read_queue, write_queue
from eval.audit.ranking import ORDERS, build_queue, measure_planted, order_of
from eval.audit.redraw import label_parts, redraw
from eval.audit.suspicion import PRIOR, suspect, usual
from prompter.errors import UserError
from tests.fixtures.audits import (
    EMPTY,
    HEIGHT,
    WIDTH,
    answers,
    disc,
    evidence_of,
    read_all,
    rollout,
    thing,
    write_run,
)

A, B = disc(20, 20, 8), disc(45, 30, 6)


def votes(*said: tuple[int, np.ndarray | None]) -> list[Vote]:
    return [Vote(policy, mask, 0.9) for policy, mask in said]


class TestConsensus:
    def test_the_largest_group_wins_and_its_majority_is_the_mask(self) -> None:
        wider = disc(20, 20, 9)
        found = find_consensus(votes((0, A), (1, A), (2, wider), (3, B)), 4)
        assert found is not None
        assert found.members.tolist() == [True, True, True, False]
        assert (found.mask == A).all() and found.policies == 3
        assert found.across == pytest.approx((1 + iou(A, wider) + 0) / 3)

    def test_a_policy_has_one_vote_however_many_segmenters_drew_it(self) -> None:
        found = find_consensus(votes((0, B), (0, B), (0, B), (1, A), (2, A)), 3)
        assert found is not None and (found.mask == A).all() and found.policies == 2
        assert found.within == 1.0

    def test_no_target_is_an_answer_and_what_did_not_parse_is_none(self) -> None:
        found = find_consensus(votes((0, EMPTY), (1, EMPTY), (2, None), (3, A)), 4)
        assert found is not None and not found.mask.any()
        assert found.members.tolist() == [True, True, False, False]
        assert found.across == pytest.approx(1 / 3)  # one of three others agrees; silence is no agreement
        assert vote_of(0, rollout(0, None)).mask is None
        assert vote_of(0, rollout(0, EMPTY)).mask is not None
        assert vote_of(0, replace(rollout(0, A), executor_error="gone", prediction=None)).mask is None

    def test_a_calibrated_confidence_goes_before_the_segmenters_own(self) -> None:
        own = replace(rollout(0, A), predicted_ious=(0.9,))
        assert vote_of(0, own).confidence == 0.9
        assert vote_of(0, replace(own, confidence={"agreement": 0.5})).confidence == 0.9
        assert vote_of(0, replace(own, confidence={"agreement": 0.5, "iou": 0.4})).confidence == 0.4

    def test_of_equals_the_first(self) -> None:
        found = find_consensus(votes((0, A), (1, B)), 2)
        assert found is not None and found.members.tolist() == [True, False]

    def test_nobody_answered(self) -> None:
        assert find_consensus(votes((0, None), (1, None)), 2) is None

    def test_one_policy_agrees_with_no_other(self) -> None:
        found = find_consensus(votes((0, A), (0, A)), 1)
        assert found is not None and np.isnan(found.across) and found.agreement == 1.0

    def test_ignored_pixels_count_nowhere(self) -> None:
        half = np.zeros_like(A)
        half[:, 20:] = True
        found = find_consensus(votes((0, A), (1, A & half)), 2, ignore=~half)
        assert found is not None and found.agreement == 1.0


def spoilt(evidence: list[Evidence], share: float, seed: int) -> tuple[list[Evidence], dict[str, str]]:
    """Evidence with planted faults, and the kind of each."""
    planted = plant_faults([Label(e.sample_id, e.image_id, e.label) for e in evidence], share, seed)
    changed = [
        one.with_label(planted[one.sample_id].rle) if one.sample_id in planted else one for one in evidence
    ]
    return changed, {name: fault.kind for name, fault in planted.items()}


class TestQueue:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_planted_faults_come_first_where_predictions_are_right(self, seed: int) -> None:
        evidence = evidence_of([answers(120, 1.0, policy) for policy in range(3)])
        changed, kinds = spoilt(evidence, 0.1, seed)
        order = order_of(suspect(changed).total)
        assert {changed[place].sample_id for place in order[: len(kinds)]} == set(kinds)

    def test_agreement_tells_a_wrong_label_from_a_wrong_answer(self) -> None:
        # Half of the answers are wrong: disagreement with the label alone puts mostly these first.
        evidence = evidence_of([answers(400, 0.6, policy) for policy in range(4)])
        changed, kinds = spoilt(evidence, 0.05, 7)

        def in_head(order: list[int]) -> float:
            return len({changed[place].sample_id for place in order[:40]} & kinds.keys()) / len(kinds)

        by_disagreement = np.argsort([np.mean(one.ious) for one in changed], kind="stable")
        assert in_head(order_of(suspect(changed).total)) > 0.75 > in_head([int(n) for n in by_disagreement])

    def test_policies_that_err_alike_gain_nothing_by_agreeing(self) -> None:
        # Twice the same answers: they always agree, and hit labels no more often for that.
        same, other = answers(200, 0.4, 0), answers(200, 0.4, 1)
        alike, apart = (suspect(evidence_of([same, one])).expected for one in (same, other))
        something = [number for number, one in enumerate(same) if decode_rle(one.prediction).any()]
        assert alike[something].max() < 0.6 < apart[something].max()

    def test_one_prediction_that_sides_with_the_label_clears_it(self) -> None:
        evidence = evidence_of([answers(120, 1.0, policy) for policy in range(3)])
        label = encode_rle(disc(8, 40, 6))
        against = evidence[4].with_label(label)
        cleared = replace(against, ious=(0.0, 0.0, 1.0))
        found = suspect([*evidence[:4], against, cleared, *evidence[6:]]).total
        assert found[4] > 0.3 and found[5] < 0.01

    def test_silence_is_no_evidence_and_ties_keep_their_order(self) -> None:
        silent = [rollout(number, None) for number in range(4)]
        evidence = evidence_of([silent, silent])
        assert order_of(suspect(evidence).total) == [0, 1, 2, 3]
        right = [rollout(number, thing(number)) for number in range(1, 5)]
        mixed = evidence_of([[silent[0], *right], [silent[0], *right]])
        found = suspect(mixed).total
        assert found[0] == pytest.approx(PRIOR) and (found[1:] < 0.01).all()
        assert order_of(found) == [0, 1, 2, 3, 4]

    def test_entries_say_what_speaks_against_a_label(self, tmp_path: Path) -> None:
        wrong = {0: EMPTY, 8: disc(20, 20, 8)}  # a target that the label lacks, and one that it has too many
        rollouts = [
            [
                rollout(number, thing(number), target=encode_rle(wrong.get(number, thing(number))))
                for number in range(40)
            ]
            for _ in range(2)
        ]
        runs = [write_run(tmp_path / name, one) for name, one in zip("ab", rollouts, strict=True)]
        audited = open_runs(runs)
        queue = build_queue(audited, runs, read_all(audited), None)
        first, second, third = queue.entries[:3]
        assert {first.sample_id, second.sample_id} == {"q0", "q8"}
        assert (first.kind, second.kind, third.kind) == ("no-target", "no-target", "none")
        assert first.rank == 1 and first.policies == 2 and first.ious == (0.0, 0.0)
        assert first.suspicion > 0.2 > 0.01 > third.suspicion and first.because == "predictions"
        assert queue.facts["predictors"][0] == {"name": "a/box", "policy": 0, "gIoU": 0.95}
        write_queue(tmp_path / "audit", queue)
        again = read_queue(tmp_path / "audit")
        assert again.entries == list(queue.entries) and again.key == queue.key

    def test_a_queue_that_is_none_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="holds no audit"):
            read_queue(tmp_path)
        (tmp_path / "audit.json").write_text('{"key": "x"}')
        (tmp_path / "queue.jsonl").write_text('{"rank": 1}\n')
        with pytest.raises(UserError, match="line 1 is not an entry"):
            read_queue(tmp_path)


class TestUsual:
    def test_a_label_has_no_part_in_what_is_expected_of_it(self) -> None:
        rng = np.random.default_rng(0)
        features, groups = rng.normal(size=(60, 2)), np.arange(60)
        values = 1 / (1 + np.exp(-features[:, 0]))
        changed = values.copy()
        changed[7] = 0.0
        before, after = usual(features, values, groups), usual(features, changed, groups)
        assert before[7] == after[7]
        assert np.abs(before - values).max() < 0.1

    def test_unknown_values_and_features(self) -> None:
        features = np.full((30, 2), np.nan)
        values = np.r_[np.nan, np.full(29, 0.5)]
        found = usual(features, values, np.zeros(30, dtype=int))
        assert np.isnan(found[0]) and found[1:] == pytest.approx(0.5)
        assert np.isnan(usual(features, np.full(30, np.nan), np.arange(30))).all()
        assert usual(np.ones((3, 1)), np.array([0.0, 0.5, 1.0]), np.arange(3)) == pytest.approx(0.5)


class TestPlanting:
    labels = tuple(Label(f"q{n}", f"i{n // 4}", encode_rle(thing(n))) for n in range(200))

    def test_a_seed_says_it_all_and_every_kind_is_planted(self) -> None:
        planted = plant_faults(self.labels, 0.2, 3)
        assert planted == plant_faults(self.labels, 0.2, 3) != plant_faults(self.labels, 0.2, 4)
        assert len(planted) == 40
        counts = [sum(fault.kind == kind for fault in planted.values()) for kind in FAULTS]
        assert min(counts) >= 7 and sum(counts) == 40

    def test_faults_are_faults(self) -> None:
        truth = {label.sample_id: thing(int(label.sample_id[1:])) for label in self.labels}
        for name, fault in plant_faults(self.labels, 0.5, 1).items():
            assert iou(decode_rle(fault.rle), truth[name]) < DIFFERENT

    def test_at_least_one_is_planted_and_never_more_than_can_be(self) -> None:
        assert len(plant_faults(self.labels[:4], 0.01, 0)) == 1
        nothing = [Label("q", "i", encode_rle(EMPTY))]
        assert plant_faults(nothing, 0.5, 0) == {}

    def test_what_was_planted_is_counted(self) -> None:
        evidence = evidence_of([answers(120, 1.0, policy) for policy in range(2)])
        found = measure_planted(evidence, 0.05, range(3), {}, None)
        assert found["found"] == 1.0 and found["rounds"] == 3 and found["head"] == 12
        assert sum(one["planted"] for one in found["kinds"].values()) == 18
        assert found["orders"]["both"] == 1.0 and found["orders"]["segmenter"] < 0.5


class TestKinds:
    @pytest.mark.parametrize(
        "label, other, kind",
        [
            (A, A, "none"),
            (A, disc(20, 20, 8.9), "boundary"),
            (A, EMPTY, "no-target"),
            (EMPTY, A, "no-target"),
            (A, B, "wrong-object"),
            (A, disc(20, 20, 12), "size"),
            (disc(20, 20, 12), A, "size"),
            (A, disc(27, 20, 8), "place"),
            (A & (np.mgrid[:HEIGHT, :WIDTH][1] < 20), A, "missing"),
            (A | B, A, "extra"),
        ],
    )
    def test_kinds(self, label: np.ndarray, other: np.ndarray, kind: str) -> None:
        assert kind_of(label, other) == kind and kind in KINDS

    def test_any_two_masks_have_a_kind(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(200):
            one, other = (rng.random((6, 7)) < rng.choice([0, 0.1, 0.5, 1]) for _ in range(2))
            assert kind_of(one, other) in KINDS


class _FillsThings:
    """A segmenter that knows the things of an image: it marks the one whose box is most like the prompt's."""

    def segment(self, requests: list[SegmentRequest], *, keep_instances: bool = False) -> list[Segmentation]:
        found = []
        for request in requests:
            mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
            for instance in request.prompts.instances:
                assert instance.box is not None
                things = [one for n in range(36) if (one := thing(n)).any()]
                boxes = [mask_to_box(one) or instance.box for one in things]
                mask |= things[int(np.argmax(pairwise_box_iou([instance.box], boxes)[0]))]
            found.append(Segmentation(mask))
        return found


def picture(sample_id: str) -> Sample:
    """A sample as far as redrawing looks at it."""
    blank = Image.new("RGB", (WIDTH, HEIGHT))
    return Sample(sample_id, "things", "test", sample_id, (WIDTH, HEIGHT), lambda: blank, "", None)


class TestRedraw:
    def test_a_shifted_label_is_found_without_any_policy(self) -> None:
        silent = [rollout(number, None) for number in range(36)]
        evidence = evidence_of([silent, silent])
        moved = np.roll(thing(4), 6, axis=1)
        evidence[4] = evidence[4].with_label(encode_rle(moved))
        samples = {one.sample_id: picture(one.sample_id) for one in evidence}
        drawn = list(redraw(evidence, samples, _FillsThings()))  # type: ignore[arg-type]
        assert [one.sample_id for one in drawn] == [one.sample_id for one in evidence]
        assert np.isnan(drawn[8].redrawn_iou)  # no target, no box
        assert drawn[1].redrawn_iou == 1.0
        assert order_of(suspect(drawn).total)[0] == 4

    def test_a_queue_may_be_ordered_by_one_kind_of_evidence(self, tmp_path: Path) -> None:
        rollouts = [rollout(number, thing(number)) for number in range(36)]
        rollouts[7] = rollout(7, disc(10, 40, 6))
        runs = [write_run(tmp_path / name, rollouts) for name in "ab"]
        audited = open_runs(runs)
        evidence = read_all(audited)
        evidence[4] = evidence[4].with_label(encode_rle(np.roll(thing(4), 6, axis=1)))
        samples = {one.sample_id: picture(one.sample_id) for one in evidence}
        drawn = list(redraw(evidence, samples, _FillsThings()))  # type: ignore[arg-type]
        first = {order: build_queue(audited, runs, drawn, "things", order).entries[0] for order in ORDERS}
        assert {order: entry.sample_id for order, entry in first.items()} == {
            "both": "q4",
            "predictions": "q7",
            "segmenter": "q4",
        }
        assert first["segmenter"].because == "segmenter"

    def test_specks_get_no_box(self) -> None:
        mask = disc(30, 24, 15)
        mask[0, 0] = True
        assert len(label_parts(mask)) == 1 and len(label_parts(A | B)) == 2


class TestRuns:
    def test_runs_of_one_policy_share_a_vote(self, tmp_path: Path) -> None:
        rollouts = answers(8, 1.0, 0)
        runs = [
            write_run(tmp_path / "a", rollouts, policy="same"),
            write_run(tmp_path / "b", rollouts, policy="same"),
            write_run(tmp_path / "c", rollouts, policy="same", policy_options={"adapter": "x"}),
        ]
        audited = open_runs(runs)
        assert [one.policy for one in audited.predictors] == [0, 0, 1]
        assert audited.policies == ("a", "c") and audited.benchmark == "things:test"

    def test_shorter_runs_are_audited_as_far_as_they_go(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path / name, answers(n, 1.0, 0)) for name, n in (("a", 8), ("b", 5))]
        audited = open_runs(runs)
        assert len(read_all(audited)) == 5 and shortest(audited.predictors) == (5, 8)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"sample_id": "other"}, "line 3 is about sample 'other'"),
            ({"target": encode_rle(B)}, "line 3: the label of sample 'q2' is not that"),
        ],
    )
    def test_runs_that_differ_are_refused(
        self, tmp_path: Path, change: dict[str, object], message: str
    ) -> None:
        rollouts = answers(4, 1.0, 0)
        other = [replace(one, **change) if one.sample_id == "q2" else one for one in rollouts]  # type: ignore[arg-type]
        audited = open_runs([write_run(tmp_path / "a", rollouts), write_run(tmp_path / "b", other)])
        with pytest.raises(UserError, match=message):
            read_all(audited)

    def test_boxes_cannot_be_audited(self, tmp_path: Path) -> None:
        boxes = [replace(one, target=None) for one in answers(2, 1.0, 0)]
        audited = open_runs([write_run(tmp_path / "a", boxes), write_run(tmp_path / "b", boxes)])
        with pytest.raises(UserError, match="has boxes and no mask"):
            next(aligned(audited.predictors))

    def test_what_cannot_be_compared_is_refused(self, tmp_path: Path) -> None:
        rollouts = answers(2, 1.0, 0)
        one = write_run(tmp_path / "a", rollouts)
        other = write_run(tmp_path / "b", rollouts, benchmark="others:test")
        with pytest.raises(UserError, match="benchmark = 'others:test'"):
            open_runs([one, other])
        with pytest.raises(UserError, match="given twice"):
            open_runs([one, one])
        with pytest.raises(UserError, match="at least two files"):
            open_runs([one])
        with pytest.raises(UserError, match="names no benchmark"):
            open_runs([write_run(tmp_path / "c", rollouts, benchmark=None)])

    def test_names_tell_runs_apart(self, tmp_path: Path) -> None:
        rollouts = answers(2, 1.0, 0)
        runs = [write_run(tmp_path / part / "run", rollouts) for part in ("x", "y")]
        assert [one.name for one in open_runs(runs).predictors] == ["x/run/box", "y/run/box"]
