"""How well masks were chosen among those on offer: ELISA's precision, recall and F1 beside chance.

Per question, then averaged, over the questions that have a right mask on offer (its authors' code leaves out
the others). Chance is exact, not drawn: the expected scores of one who takes every mask on offer with a
probability of a half (Rand50), or with the share of right ones among all masks on offer (RandClass).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from eval.bootstrap import Bootstrap, Ratio
from eval.figures import percent, with_interval
from eval.instance_scores import InstanceScore, score_from_counts
from eval.metrics import with_intervals
from prompter.errors import UserError
from prompter.runs.jsonl import read_lines
from prompter.runs.run_folder import RunFolder
from prompter.runs.tables import text_table
from prompter.types import Choice

METRICS = ("precision", "recall", "F1")


def choice_score(choice: Choice) -> InstanceScore:
    """Precision, recall and F1 of one choice (`eval.instance_scores.score_from_counts`)."""
    hits = len(set(choice.chosen) & set(choice.matching))
    return score_from_counts(hits, len(choice.chosen), len(choice.matching))


def chance_score(offered: int, matching: int, probability: float) -> InstanceScore:
    """What is expected of one who takes each mask on offer with this probability.

    Args:
        offered: masks on offer; matching: right ones among them, at least one.
        probability: in [0, 1].

    With no mask taken precision is 0, as in `score_from_counts`. The authors' code puts the expected counts
    into the formulas instead, which is not quite the same: a mean of ratios is no ratio of means.
    """
    some = 1.0 - (1.0 - probability) ** offered
    right, wrong = np.arange(matching + 1), np.arange(offered - matching + 1)
    together = np.outer(
        binom.pmf(right, matching, probability), binom.pmf(wrong, offered - matching, probability)
    )
    f1 = 2.0 * right[:, None] / (right[:, None] + wrong[None, :] + matching)
    return InstanceScore(matching / offered * some, probability, float((together * f1).sum()))


def read_choices(folder: RunFolder) -> list[Choice] | None:
    """The choices of an evaluation, one per question in order; None if its policy does not choose.

    Raises:
        UserError: if only some of its answers are choices.
    """
    path = folder.path / "completions.jsonl"
    if not path.exists():
        return None
    choices: list[Choice] = []
    others = 0
    for line in read_lines(path):
        if "choice" not in line:
            others += 1
            if not choices:
                return None
        else:
            choices.append(Choice.from_json(line["choice"]))
    if others:
        raise UserError(f"{path}: {others} answers are no choice among masks, but {len(choices)} are.")
    return choices or None


def summarise_choices(
    choices: Sequence[Choice], images: NDArray[np.int64], bootstrap: Bootstrap | None = None
) -> dict[str, Any]:
    """Scores of choosing, JSON-ready.

    Args:
        choices: one per question.
        images: number of each question's image, int64 [questions]; intervals draw images.
        bootstrap: settings of the intervals.

    Returns:
        `questions`; `answerable`: those with a right mask on offer; `none_right`: how many are the others
        (`questions`), and the share of them where nothing was chosen (`left_alone`, None without any);
        `offered`, `matching`: masks on offer and right ones, per answerable question; `share`: of right ones
        among all masks on offer; `scores`: chosen, Rand50, RandClass -> precision, recall, F1 -> as
        `eval.metrics.with_intervals`.
    """
    able = np.array([bool(one.matching) for one in choices], dtype=np.bool_)
    answerable = [one for one, is_able in zip(choices, able, strict=True) if is_able]
    others = [one for one, is_able in zip(choices, able, strict=True) if not is_able]
    offered = sum(one.offered for one in answerable)
    matching = sum(len(one.matching) for one in answerable)
    share = matching / offered if offered else 0.0
    rows = {
        "chosen": [choice_score(one) for one in answerable],
        "Rand50": [chance_score(one.offered, len(one.matching), 0.5) for one in answerable],
        "RandClass": [chance_score(one.offered, len(one.matching), share) for one in answerable],
    }
    scores: dict[str, Any] = {}
    for name, found in rows.items():
        if not found:
            continue
        values = np.array([(one.precision, one.recall, one.f1) for one in found])
        ratios = {metric: Ratio.of(values[:, place], 1.0) for place, metric in enumerate(METRICS)}
        scores[name] = with_intervals(ratios, images[able], bootstrap)
    alone = sum(not one.chosen for one in others) / len(others) if others else None
    count = max(1, len(answerable))
    return {
        "questions": len(choices),
        "answerable": len(answerable),
        "none_right": {"questions": len(others), "left_alone": alone},
        "offered": offered / count,
        "matching": matching / count,
        "share": share,
        "scores": scores,
    }


def choice_lines(choice: Mapping[str, Any]) -> list[str]:
    """What `summarise_choices` found, as lines for a terminal."""
    lines = [
        f"choice among masks: {choice['answerable']} of {choice['questions']} questions have a right one on "
        f"offer ({choice['matching']:.2f} of {choice['offered']:.1f})"
    ]
    others = choice["none_right"]
    if others["questions"]:
        lines.append(
            f"of the other {others['questions']}, {percent(others['left_alone'])} % were answered by no mask"
        )
    if choice["scores"]:
        rows = [["", *METRICS]]
        for name, metrics in choice["scores"].items():
            rows.append([name, *(with_interval(metrics[metric]) for metric in METRICS)])
        lines += text_table(rows, numbers=True)
        lines.append("per question that has a right one, per cent; 95 % bootstrap intervals, drawing images")
    return lines
