"""The part of a training run's page about further sets, evaluated before and after training only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eval.bootstrap import Bootstrap
from eval.figures import percent, points, points_between
from eval.mask_views import View
from eval.metrics import compare
from eval.query_table import build_table
from rewards.replay import read_rollouts


def other_sets(
    others: Mapping[str, tuple[Path, Path]], bootstrap: Bootstrap | None = None
) -> list[list[str]]:
    """A heading, and a row per set: gIoU before and after, and the paired difference; empty without any.

    Args:
        others: name -> rollouts of the set before and after training.
        bootstrap: settings of the intervals, which draw images.

    Raises:
        UserError: if a file cannot be read, or the two of a set share no query.
    """
    rows = [["set", "queries", "images", "gIoU before", "after", "difference", "95 %, drawing images"]]
    for name, files in others.items():
        before, after = (build_table(read_rollouts(path), [View.NATIVE]) for path in files)
        found = compare(before, after, ["gIoU"], bootstrap=bootstrap)["gIoU"]
        change, between = points(found.difference), points_between(found.by_image)
        counted = [str(len(after)), str(len(np.unique(after.images)))]
        rows.append([name, *counted, percent(found.before), percent(found.after), change, between])
    return rows if others else []
