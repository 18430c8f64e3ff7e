"""Leaderboards: published numbers and runs of ours in one table per benchmark.

A row group is one system, that is one checkpoint with one segmenter: all its numbers come from the
same weights. Within it there is one row per split and protocol, because numbers under different
protocols cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from eval.report.html import from_template
from eval.report.published import PublishedNumber
from prompter.runs.tables import markdown_table

METRIC_ORDER = ("gIoU", "cIoU", "P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9", "N-acc", "T-acc", "box-acc@0.5")
"""Columns stand in this order; metrics that are not named here follow."""


@dataclass(frozen=True)
class Row:
    """Numbers of one system on one split under one protocol.

    Args:
        system, split, protocol, training: as in `PublishedNumber`.
        values: metric -> value, per cent.
        source: where the numbers were read, or the run folder.
        status: "verified", "second-hand", or "run" for ours.
    """

    system: str
    split: str
    protocol: str
    training: str
    values: Mapping[str, float]
    source: str
    status: str

    @property
    def is_run(self) -> bool:
        """Whether this is a run of ours."""
        return self.status == "run"


@dataclass(frozen=True)
class Board:
    """The table of one benchmark.

    Args:
        benchmark: its name.
        metrics: column names.
        groups: one list of rows per system, best first.
    """

    benchmark: str
    metrics: tuple[str, ...]
    groups: tuple[tuple[Row, ...], ...] = field(default=())


def published_rows(numbers: Iterable[PublishedNumber]) -> list[Row]:
    """Gather published numbers of one benchmark into rows."""
    gathered: dict[tuple[str, ...], dict[str, float]] = {}
    for number in numbers:
        key = (
            number.system,
            number.split,
            number.protocol,
            number.training,
            number.source,
            number.status,
        )
        gathered.setdefault(key, {})[number.metric] = number.value
    return [
        Row(system, split, protocol, training, values, source, status)
        for (system, split, protocol, training, source, status), values in gathered.items()
    ]


def build_board(benchmark: str, rows: Sequence[Row]) -> Board:
    """Group rows by system; groups are sorted by gIoU on the main split (average, test), best first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.system, []).append(row)
    named = [name for row in rows for name in row.values]
    metrics = dict.fromkeys([*(name for name in METRIC_ORDER if name in named), *named])
    ordered = sorted(groups.values(), key=_rank, reverse=True)
    return Board(benchmark, tuple(metrics), tuple(tuple(group) for group in ordered))


def _rank(group: Sequence[Row]) -> tuple[float, float]:
    """Best gIoU on the split that stands for the benchmark, else on any; then the best of any metric."""
    main = [row for row in group if row.split.split(",")[0] in ("average", "test")]
    return (
        max((row.values.get("gIoU", -1.0) for row in main or group), default=-1.0),
        max((value for row in group for value in row.values.values()), default=-1.0),
    )


def markdown(boards: Sequence[Board]) -> str:
    """The boards as one Markdown page. Runs of ours are in bold."""
    lines = ["# Leaderboard", "", _NOTE, ""]
    for board in boards:
        lines += [f"## {board.benchmark}", ""]
        rows = [_heading(board)]
        for group in board.groups:
            for index, row in enumerate(group):
                cells = _cells(board, row, first=index == 0)
                rows.append([f"**{cell}**" if cell and row.is_run else cell for cell in cells])
        lines += [*markdown_table(rows), ""]
    return "\n".join(lines)


def html(boards: Sequence[Board]) -> str:
    """The boards as one self-contained HTML page. Runs of ours are tinted."""
    shown = []
    for board in boards:
        rows = [_heading(board)]
        classes = []
        for group in board.groups:
            for index, row in enumerate(group):
                rows.append(_cells(board, row, first=index == 0))
                classes.append(" ".join(["first"] * (index == 0) + ["ours"] * row.is_run))
        shown.append({"benchmark": board.benchmark, "rows": rows, "classes": classes})
    return from_template("leaderboard.html", title="Leaderboard", note=_NOTE, boards=shown)


_NOTE = (
    "Per cent. A row group is one system, and every number in it comes from one checkpoint. Numbers under "
    'different protocols cannot be compared (docs/protocols.md); "unstated": the source does not say. '
    '"verified" numbers were read in the source named, "second-hand" ones were quoted from elsewhere.'
)


def _heading(board: Board) -> list[str]:
    return ["system", "split", "training", "protocol", *board.metrics, "source", "status"]


def _cells(board: Board, row: Row, *, first: bool) -> list[str]:
    values = [_number(row.values[name]) if name in row.values else "" for name in board.metrics]
    return [
        row.system if first else "",
        row.split,
        row.training,
        row.protocol,
        *values,
        row.source,
        row.status,
    ]


def _number(value: float) -> str:
    """At least one decimal, at most two: 55.0, 73.36."""
    text = f"{value:.2f}"
    return text[:-1] if text.endswith("0") else text
