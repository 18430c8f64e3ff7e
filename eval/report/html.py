"""The look of every HTML page: one style sheet, one skeleton, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
:root{--ground:#f6f7f9;--card:#fff;--ink:#16202e;--soft:#5b6778;--line:#dfe3ea;--accent:#2563eb;
--good:#047857;--bad:#b91c1c;--chip:#eef1f6}
@media (prefers-color-scheme:dark){:root{--ground:#0e131b;--card:#171e29;--ink:#e8edf5;--soft:#9aa7ba;
--line:#2a3444;--accent:#6ea0ff;--good:#34d399;--bad:#f87171;--chip:#222c3b}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:34px 24px 80px}
h1{font-size:27px;line-height:1.25;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:19px;margin:42px 0 4px;letter-spacing:-.005em}
p{margin:6px 0 12px;max-width:78ch}
.soft{color:var(--soft)}
.good{color:var(--good)}.bad{color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;margin:22px 0 8px}
.tile,.panel,.case{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tile{padding:14px 16px}
.tile b{display:block;font-size:25px;line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
.panel{padding:16px 18px;margin:12px 0;overflow-x:auto}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(460px,1fr));gap:12px}
.grid2 .panel{margin:0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:6px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600;font-size:12.5px}
th:first-child,td:first-child,.left{text-align:left;white-space:normal}
tr:last-child td{border-bottom:0}
.narrow{padding:10px 12px}.narrow th,.narrow td{padding:4px 7px;font-size:13px}
.narrow td:first-child,.narrow th:first-child{white-space:nowrap}
tr.ours td{background:color-mix(in srgb,var(--accent) 10%,transparent);font-weight:600}
main.wide{max-width:1480px}
.board tr.first td{border-top:2px solid var(--line)}.board td:first-child{font-weight:600}
.board td:nth-child(-n+4),.board th:nth-child(-n+4),.board td:nth-last-child(-n+2),
.board th:nth-last-child(-n+2){text-align:left}.board td:nth-last-child(2){white-space:normal}
td small{display:block;color:var(--soft);font-size:11px;line-height:1.2}
svg.chart{display:block;width:100%;height:auto}
svg .grid{stroke:var(--line)}svg .tick{fill:var(--soft);font-size:11.5px}
svg .chart-title{fill:var(--ink);font-size:13.5px;font-weight:600}
svg .whisker{stroke:var(--ink);stroke-width:2}svg .dot{stroke:var(--card);stroke-width:1.5}
.case{padding:14px 16px 12px;margin:14px 0}
.case h3{font-size:15.5px;margin:0 0 2px;line-height:1.4}
.chips{margin:0 0 10px;font-size:12px;color:var(--soft)}
.chips i{font-style:normal;background:var(--chip);border-radius:5px;padding:1px 7px;margin-right:5px;
display:inline-block}
.shots{display:grid;gap:12px}
figure{margin:0}
figure img{width:100%;height:auto;display:block;border-radius:6px;background:var(--chip)}
figcaption{font-size:13px;color:var(--soft);padding-top:5px}
figcaption b{color:var(--ink);font-variant-numeric:tabular-nums}
details{font-size:13px;margin-top:8px}summary{color:var(--soft);cursor:pointer}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--chip);border-radius:6px;padding:9px 11px;
margin:6px 0;font-size:12.5px}
.key{display:inline-flex;align-items:center;gap:6px;margin-right:16px;font-size:13px;color:var(--soft)}
.key i{width:13px;height:13px;border-radius:3px;display:inline-block}
"""


def page(title: str, body: Sequence[str], *, wide: bool = False) -> str:
    """A whole HTML page. `title` is plain text; the parts of `body` are HTML."""
    main = '<main class="wide">' if wide else "<main>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>{main}\n"
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def table(rows: Sequence[Sequence[str]], *, classes: Sequence[str] = ()) -> str:
    """An HTML table from cells of HTML; the first row is the heading, the first column left-aligned.

    Args:
        classes: CSS class of each row after the heading; missing ones are empty.
    """
    head = "".join(f"<th>{cell}</th>" for cell in rows[0])
    body = []
    for index, row in enumerate(rows[1:]):
        name = classes[index] if index < len(classes) else ""
        cells = "".join(f"<td>{cell}</td>" for cell in row)
        name = name.strip()
        body.append(f'<tr class="{name}">{cells}</tr>' if name else f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def tile(value: str, label: str, tone: str = "") -> str:
    """A large figure with its label; `tone` is "good", "bad" or empty."""
    return f'<div class="tile"><b class="{tone}">{value}</b><span>{label}</span></div>'
