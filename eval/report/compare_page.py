"""The page of several runs side by side: paired figures, where differences come from, and their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.comparison import Comparison, metric_rows, remarks
from eval.report.gain_section import gain_section
from eval.report.html import from_template
from eval.viewer.groups import Shown
from eval.viewer.page import config_changes, make_viewer


@dataclass(frozen=True)
class ComparedPair:
    """Two runs: what they are called together, and what was found."""

    title: str
    found: Comparison


def render_compare_page(
    title: str,
    pairs: Sequence[ComparedPair],
    configs: Mapping[str, Mapping[str, Any]],
    shown: Shown,
) -> str:
    """Make the page.

    Args:
        title: heading.
        pairs: in the order to show them.
        configs: name of a run -> its resolved configuration.
        shown: the runs' answers side by side.
    """
    return from_template(
        "compare.html",
        title=title,
        pairs=[
            {
                "title": pair.title,
                "queries": pair.found.queries,
                "images": pair.found.images,
                "remarks": remarks(pair.found),
                "rows": metric_rows(pair.found),
                "gain": gain_section(pair.found),
            }
            for pair in pairs
        ],
        config_changes=config_changes(configs),
        runs=list(configs),
        viewer=make_viewer(shown),
    )
