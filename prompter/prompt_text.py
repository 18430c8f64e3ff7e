"""A prompt given as a text: what is asked, with a place for the query, and a system prompt if wanted.

    [system]
    You are …
    [user]
    Find {query}.

Without a line `[user]` all of it is the user's turn, and there is no system turn. The text is what the
model sees, but for `{query}`; the peers' `{Question}` is taken for the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompter.errors import UserError

_PLACE = re.compile(r"\{(?:query|[Qq]uestion)\}")
_OTHER_PLACE = re.compile(r"\{[A-Za-z_]\w*\}")
_TURNS = re.compile(
    r"\A\s*\[system\][ \t]*\n(?P<system>.*?)^\[user\][ \t]*\n(?P<user>.*)\Z", re.DOTALL | re.MULTILINE
)


_MARK = re.compile(r"^\s*\[(?:system|user)\]\s*$", re.IGNORECASE | re.MULTILINE)


def check_prompt(text: str) -> None:
    """Raise ValueError, with a sentence, unless a text can be used as a prompt."""
    _, user = split_prompt(text)
    if not _PLACE.search(user):
        raise ValueError(
            "the prompt has no {query}, so the question would never be asked; write it where it belongs"
        )
    if other := _OTHER_PLACE.search(_PLACE.sub("", text)):
        raise ValueError(
            f"the prompt has {other.group()}, which nothing fills; write what the model should see there"
        )
    if not _TURNS.match(text) and _MARK.search(text):
        raise ValueError(
            "the prompt marks turns, but not as a line [system], its text, a line [user], its text; without "
            "a system prompt write the question's text alone"
        )
    if "{{" in text:
        raise ValueError("the prompt has '{{', as texts for Python's format do; write single braces")


def split_prompt(text: str) -> tuple[str, str]:
    """The (system, user) parts of a prompt; system is "" if there is none."""
    turns = _TURNS.match(text)
    return (turns["system"].strip(), turns["user"].strip()) if turns else ("", text.strip())


def fill_prompt(text: str, query: str) -> tuple[str, str]:
    """The (system, user) turns that ask a query."""
    system, user = split_prompt(text)
    return system, _PLACE.sub(lambda _: query, user)


def read_prompt_file(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a policy with the text of `prompt_file` under `prompt`, and no path any more.

    Raises:
        UserError: if the file cannot be read.
    """
    options = dict(options)
    path = options.pop("prompt_file", None)
    if path is None:
        return options
    try:
        options["prompt"] = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"prompt_file {str(path)!r} cannot be read ({error.strerror}); check the path."
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"prompt_file {str(path)!r} is not text in UTF-8.") from None
    return options
