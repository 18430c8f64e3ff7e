"""Chosen queries drawn: what was asked, what was answered before, and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from envs.masks import decode_rle
from envs.rollout import Rollout
from eval.metrics import shared_queries
from eval.query_table import QueryTable, sample_digest
from eval.report.examples import CaseGroup, choose_cases, draw_cases
from eval.report.overlays import BOX, NEGATIVE, POSITIVE, PREDICTED, TRUE, data_url, draw_panel
from eval.runner import Samples
from prompter.types import PromptSet
from rewards.replay import read_rollouts

COLOURS = (
    (TRUE, "true mask"),
    (PREDICTED, "predicted mask"),
    (BOX, "box"),
    (POSITIVE, "positive point"),
    (NEGATIVE, "negative point"),
)
"""What the pictures are drawn in: (RGB, 0 to 255) and what it stands for."""

LARGE, SMALL = 360, 220
"""Longer side of a picture in pixels."""


@dataclass(frozen=True)
class Case:
    """A query to show.

    Args:
        sample: `eval.query_table.sample_digest` of its id.
        before, after: its IoU; `before` is None without such a run.
    """

    sample: int
    before: float | None
    after: float


def pick_cases(before: QueryTable | None, after: QueryTable) -> list[tuple[CaseGroup, list[Case]]]:
    """Choose the queries to show (`eval.report.examples`); keep of the tables what their pictures need.

    Where there is a before, those drawn by lot come first; they may be among the chosen ones as well.
    """
    groups: list[CaseGroup] = []
    if before is not None:
        before, after = shared_queries(before, after)
        groups = draw_cases(after, before)
    return [
        (
            group,
            [
                Case(
                    int(after.samples[row]),
                    None if before is None else float(before.scores[row]),
                    float(after.scores[row]),
                )
                for row in group.rows
            ],
        )
        for group in [*groups, *choose_cases(after, before)]
    ]


@dataclass(frozen=True)
class Shot:
    """One picture of a query.

    Args:
        url: the picture as a `data:` URL.
        size: its (width, height) in pixels.
        label: what it shows.
        score: IoU in per cent, or empty.
        remark: what is worth saying about the answer, or empty.
    """

    url: str = field(repr=False)
    size: tuple[int, int]
    label: str
    score: str = ""
    remark: str = ""


@dataclass(frozen=True)
class DrawnCase:
    """A query with its pictures, and what was answered: (label, completion)."""

    query: str
    chips: Sequence[str]
    shots: Sequence[Shot]
    completions: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class DrawnGroup:
    """Queries shown together: heading, one sentence on how they were chosen, they themselves, and how."""

    title: str
    note: str
    cases: Sequence[DrawnCase]
    small: bool


def case_pictures(
    samples: Samples | None,
    before: Path | None,
    after: Path,
    picked: Sequence[tuple[CaseGroup, Sequence[Case]]],
) -> list[DrawnGroup]:
    """Draw chosen queries.

    Args:
        samples: where the images come from, in the order of the file `after`; masks are drawn on
            grey where they do not hold a query.
        before, after: files of rollouts; `before` may be None.
        picked: from `pick_cases`.
    """
    wanted = {case.sample for _, cases in picked for case in cases}
    if not wanted:
        return []
    lines_after = pick_rollouts(after, wanted)
    lines_before = {} if before is None else pick_rollouts(before, wanted)
    groups = []
    for group, cases in picked:
        drawn = []
        for case in cases:
            line, rollout = lines_after[case.sample]
            earlier = lines_before[case.sample][1] if case.sample in lines_before else None
            image = image_of(samples, line, rollout)
            side = SMALL if group.small else LARGE
            drawn.append(_draw_case(rollout, earlier, (case.before, case.after), image, side))
        groups.append(DrawnGroup(group.title, group.note, drawn, group.small))
    return groups


def pick_rollouts(path: Path, wanted: set[int]) -> dict[int, tuple[int, Rollout]]:
    """Find rollouts of a file by sample digest: digest -> (line number from 0, rollout)."""
    found = {}
    for line, rollout in enumerate(read_rollouts(path)):
        digest = sample_digest(rollout.sample_id)
        if digest in wanted:
            found[digest] = (line, rollout)
    return found


def image_of(samples: Samples | None, line: int, rollout: Rollout) -> Image.Image:
    """The image of a rollout, or a grey one where the samples do not hold it."""
    if samples is not None and line < len(samples):
        sample = samples[line]
        if sample.sample_id == rollout.sample_id:
            return sample.load_image()
    return Image.new("RGB", rollout.image_wh, (120, 126, 134))


def _draw_case(
    after: Rollout,
    before: Rollout | None,
    scores: tuple[float | None, float],
    image: Image.Image,
    side: int,
) -> DrawnCase:
    """The pictures of a query, each of `side` pixels on its longer side."""
    shots = [target_shot(after, image, side)]
    completions = []
    for name, one, score in (("before", before, scores[0]), ("after", after, scores[1])):
        if one is None or score is None:
            continue
        label = name if before is not None else "predicted"
        shots.append(answer_shot(one, image, side, label, score))
        completions.append((label, one.completion))
    return DrawnCase(after.query, chips_of(after), shots, completions)


def chips_of(rollout: Rollout) -> list[str]:
    """The name of a question and its tags, for the line under it."""
    return [rollout.sample_id, *(f"{key}: {value}" for key, value in sorted(rollout.tags.items()))]


def target_shot(rollout: Rollout, image: Image.Image, side: int) -> Shot:
    """What was asked for, on the image (PIL RGB), `side` pixels on its longer side."""
    true = None if rollout.target is None else decode_rle(rollout.target, rollout.mask_hw)
    none = true is not None and not true.any()
    asked = "nothing in the image fits" if none else "true mask"
    return _shot(draw_panel(image, true=true, fill_true=True, long_side=side), asked)


def answer_shot(rollout: Rollout, image: Image.Image, side: int, label: str, score: float | None) -> Shot:
    """What was answered, with the true outline; `score` is its IoU in [0, 1], None for none."""
    true = None if rollout.target is None else decode_rle(rollout.target, rollout.mask_hw)
    predicted = None if rollout.prediction is None else decode_rle(rollout.prediction, rollout.mask_hw)
    prompts = rollout.reading if isinstance(rollout.reading, PromptSet) else None
    picture = draw_panel(image, predicted=predicted, true=true, prompts=prompts, long_side=side)
    if prompts is None:
        remark = "did not parse"
    else:
        remark = "says: no target" if prompts.is_empty else ""
    return _shot(picture, label, "" if score is None else f"{100 * score:.1f}", remark)


def _shot(picture: Image.Image, label: str, score: str = "", remark: str = "") -> Shot:
    return Shot(data_url(picture), picture.size, label, score, remark)
