"""The same questions answered by several systems, drawn side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from eval.metrics import STRICT, score_file
from eval.report.example_pictures import (
    SMALL,
    DrawnCase,
    DrawnGroup,
    answer_shot,
    chips_of,
    image_of,
    pick_rollouts,
    target_shot,
)
from eval.report.examples import draw_cases
from eval.runner import Samples

SHOWN = 12
"""Questions on a page of systems."""


def system_pictures(
    samples: Samples | None, files: Mapping[str, Path], *, count: int = SHOWN
) -> list[DrawnGroup]:
    """Draw questions by lot (`eval.report.examples.draw_cases`), each with the target and every answer.

    Args:
        samples: where the images come from, in the order of the first file; masks are drawn on grey where
            they do not hold a question.
        files: name of a system -> its file of rollouts; all of the same questions.
        count: of questions.

    Returns:
        One group, or none where there is nothing to draw.

    Raises:
        UserError: if a file cannot be read.
    """
    tables = {name: score_file(path, [STRICT]) for name, path in files.items()}
    scores = {
        name: dict(zip(table.samples.tolist(), table.scores.tolist(), strict=True))
        for name, table in tables.items()
    }
    first = next(iter(tables.values()))
    drawn: list[DrawnGroup] = []
    for group in draw_cases(first, first, count=count):
        wanted = {int(first.samples[row]) for row in group.rows}
        lines = {name: pick_rollouts(path, wanted) for name, path in files.items()}
        cases = []
        for row in group.rows:
            digest = int(first.samples[row])
            answers = {name: found[digest] for name, found in lines.items()}
            line, asked = next(iter(answers.values()))
            image = image_of(samples, line, asked)
            shots = [target_shot(asked, image, SMALL)]
            for name, (_, rollout) in answers.items():
                score = scores[name][digest]
                shots.append(answer_shot(rollout, image, SMALL, name, None if math.isnan(score) else score))
            said = [(name, rollout.completion) for name, (_, rollout) in answers.items()]
            cases.append(DrawnCase(asked.query, chips_of(asked), shots, said))
        drawn.append(DrawnGroup(group.title, group.note, cases, group.small))
    return drawn
