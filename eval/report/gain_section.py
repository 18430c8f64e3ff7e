"""Where a gain comes from, as a section of a page: a waterfall, a table and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from eval.comparison import Comparison, answered_sentence, gain_rows
from eval.figures import points
from eval.report.charts import waterfall


@dataclass(frozen=True)
class GainSection:
    """The parts of a gain drawn (`picture`), as rows of text with their heading, and what stands beside."""

    picture: Markup = field(repr=False)
    rows: Sequence[Sequence[str]]
    sentence: str


def gain_section(found: Comparison) -> GainSection | None:
    """The section of a comparison; None where there is no gIoU to split."""
    gain, main = found.gain, found.metrics["gIoU"]
    if gain is None or main.before is None or main.after is None:
        return None
    rounded = gain.rounded(points(main.difference), decimals=2)
    return GainSection(
        picture=waterfall(
            main.before,
            [(str(part), one.value or 0.0, rounded[part]) for part, one in gain.parts.items()],
            main.after,
            title="gIoU before, what each part adds in points, and gIoU after; per cent",
        ),
        rows=gain_rows(found),
        sentence=answered_sentence(found),
    )
