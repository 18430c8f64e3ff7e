"""What a comparison of systems says as text: the page, and the same tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from eval.figures import number, percent, points, points_between
from eval.gain import Part
from eval.report.charts import bar_chart
from eval.report.example_pictures import COLOURS, DrawnGroup
from eval.report.html import from_template
from eval.study import Change
from eval.systems import BASE, METRICS, Axis, Cost, Figure, System, SystemsFound
from prompter.runs.tables import markdown_table

COLUMNS = 5
"""Pictures in a row under a question."""


def systems_page(
    title: str, found: SystemsFound, note: str, taught: str, groups: Sequence[DrawnGroup]
) -> str:
    """Make the page.

    Args:
        title: heading.
        found: the figures.
        note: one paragraph under the heading: what was trained on what, and asked what.
        taught: what the checkpoint was taught before that all systems start from.
        groups: pictures of the same questions.
    """
    return from_template(
        "systems.html",
        title=title,
        note=note,
        how=how_to_read(found, taught),
        chart=_chart("gIoU, per cent, with 95 % intervals (drawing images)", _figures(found), width=1400),
        systems=system_rows(found),
        differences=difference_rows(found),
        gains=gain_rows(found),
        costs=cost_rows(found),
        axes=[
            {"axis": axis, "rows": axis_rows(found, axis), "charts": _axis_charts(axis)}
            for axis in found.axes
        ],
        remarks=found.remarks,
        groups=groups,
        colours=COLOURS,
        columns=COLUMNS,
    )


def systems_markdown(title: str, found: SystemsFound, note: str, taught: str) -> str:
    """The same in Markdown, without charts and pictures."""
    lines = [f"# {title}", "", note, "", "## How to read this", ""]
    lines += [f"- {sentence}" for sentence in how_to_read(found, taught)]
    for heading, rows in (
        ("Systems", system_rows(found)),
        (f"Against {found.reference}", difference_rows(found)),
        *((("Gained over the base, and where", gain_rows(found)),) if found.gains else ()),
        ("What training cost", cost_rows(found)),
        *((f"gIoU by {axis.tag}: {axis.says}", axis_rows(found, axis)) for axis in found.axes),
    ):
        lines += ["", f"## {heading}", "", *markdown_table(rows)]
    return "\n".join([*lines, "", *found.remarks, ""])


def how_to_read(found: SystemsFound, taught: str) -> list[str]:
    """What a reader has to know before believing a figure, a sentence or two each."""
    sentences = [
        f"All systems start from one checkpoint. {taught}",
        f"All were asked the same {found.questions} questions about {found.images} images, "
        f"{found.no_target or 'none'} of them without a target. Answers are greedy; scores are by protocol "
        "strict, in per cent.",
        "Brackets are 95 % bootstrap intervals that draw images. They hold for these trained weights: "
        "another seed of training gives others, and with one seed nothing here says by how much.",
        f"Differences are to {found.reference}, paired by question. Where such an interval holds 0, the "
        "questions do not tell the two apart.",
        "Equal time and equal questions are two comparisons: a system that learns from a label directly "
        "takes less time for a question than one that samples answers to it. Read both.",
        "Along an axis, a value with few questions has a wide interval, and of so many intervals some leave "
        "out the truth.",
    ]
    if found.left_out:
        sentences.append(
            f"{found.left_out} further questions are in no figure: a segmenter failed on them in some run."
        )
    return sentences


def system_rows(found: SystemsFound) -> list[list[str]]:
    """The table of systems, its heading first."""
    rows = [["system", "trained by", "equal", "seeds", *METRICS]]
    for one in found.systems:
        rows.append([*_named(one), *(_value(one.metrics[name]) for name in METRICS)])
    return rows


def difference_rows(found: SystemsFound) -> list[list[str]]:
    """Differences from the reference in points, the heading first; the reference itself is left out."""
    rows = [["system", "trained by", "equal", "seeds", *METRICS]]
    for one in found.systems:
        if one.against is not None:
            rows.append([*_named(one), *(_difference(one.against[name]) for name in METRICS)])
    return rows


def gain_rows(found: SystemsFound) -> list[list[str]]:
    """What each trained system gained in gIoU over the base, and the parts of that (`eval.gain`), in points;
    the heading first. Nothing but that while the base has not been asked."""
    rows = [
        [
            "system",
            "gIoU",
            *(part.value for part in Part),
            "localisation, each seed",
            "t over seeds",
            "where both answered",
        ]
    ]
    for arm in found.gains:
        where = arm.parts[Part.LOCALISATION]
        rows.append(
            [
                arm.name,
                _change(arm.from_start),
                *(_change(arm.parts[part]) for part in Part),
                " ".join(map(points, where.by_seed)),
                points_between(where.over_seeds),
                _change(arm.both_answered),
            ]
        )
    return rows


def cost_rows(found: SystemsFound) -> list[list[str]]:
    """What training and asking cost, the heading first; means over seeds."""
    rows = [
        ["system", "minutes of training", "questions", "completions", "trained weights", "MB", "s a question"]
    ]
    for one in found.systems:
        if one.cost is not None:
            rows.append([one.name, *_cost(one.cost)])
    return rows


def axis_rows(found: SystemsFound, axis: Axis) -> list[list[str]]:
    """gIoU of each system on each value of an axis, the heading first."""
    rows = [["system", *(f"{one.value} ({one.questions} on {one.images})" for one in axis.values)]]
    for system in found.systems:
        rows.append([system.name, *(_value(one.systems[system.name]) for one in axis.values)])
    return rows


def _named(one: System) -> list[str]:
    seeds = "-" if one.name == BASE else str(len(one.seeds))
    return [one.name, one.kind, one.equal or "-", seeds]


def _cost(one: Cost) -> list[str]:
    return [
        number(one.minutes, 1),
        number(one.questions, 0),
        number(one.completions, 0),
        number(one.weights, 0),
        number(one.megabytes, 1),
        number(one.seconds, 2),
    ]


def _value(figure: Figure) -> str:
    if figure.interval is None:
        return percent(figure.value)
    return f"{percent(figure.value)} [{', '.join(map(percent, figure.interval))}]"


def _difference(figure: Figure) -> str:
    if figure.interval is None:
        return points(figure.value)
    return f"{points(figure.value)} [{', '.join(map(points, figure.interval))}]"


def _change(change: Change) -> str:
    """A change with the interval that draws images."""
    return _difference(Figure(change.difference, change.by_image, change.by_seed))


def _figures(found: SystemsFound) -> list[tuple[str, Figure]]:
    return [(one.name, one.metrics[METRICS[0]]) for one in found.systems]


def _chart(title: str, figures: Sequence[tuple[str, Figure]], width: int = 860) -> Markup:
    bars = [(name, one.value, one.interval) for name, one in figures if one.value is not None]
    return bar_chart(bars, title=title, width=width)


def _axis_charts(axis: Axis) -> list[Markup]:
    return [
        _chart(f"{one.value}: gIoU on {one.questions} questions", list(one.systems.items()), width=480)
        for one in axis.values
    ]
