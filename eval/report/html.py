"""The HTML pages: templates with autoescape, one style sheet, nothing fetched.

Whatever a template is given is escaped where it is put in; only what another template made
(`Markup`) goes in as it is.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["px"] = lambda pixels: f"{pixels:.1f}"
    environment.globals["style"] = Markup((_FOLDER / "style.css").read_text(encoding="utf-8"))
    return environment


def from_template(template: str, **values: Any) -> Markup:
    """Fill a template of `templates/`, named without `.j2`: `run.html`, `line_chart.svg`.

    Args:
        values: what the template names; text is escaped, numbers may be formatted by `px` (one decimal).

    Raises:
        jinja2.UndefinedError: if the template names a value that is not given.
    """
    return Markup(_environment().get_template(f"{template}.j2").render(values))
