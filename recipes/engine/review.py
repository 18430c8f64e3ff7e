"""What people say of a set's items, on a page that this machine alone can open.

Four questions are asked of each item (SegEarth-R2, supplement 7.5); it passes if all four are answered yes.
Verdicts are lines of `review.jsonl`, with who gave them and when; the last of an item counts. So a review can
be broken off and gone on with, and two people can judge one set after each other.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from envs.datasets.reading.pixels.images import ImageFile
from eval.report.overlays import data_url
from prompter.errors import UserError
from prompter.runs.jsonl import append_lines, drop_unfinished_line, read_lines
from recipes.engine.ask import COLOURS, outlined
from recipes.engine.assemble import Item, items
from recipes.engine.store import EngineFolder

REVIEW = "review.jsonl"
RUBRIC: dict[str, str] = {
    "object": "The category is what the masks show.",
    "question": "The question is true of the image, and means these masks and nothing else.",
    "mask": "The masks are precise and complete.",
    "grammar": "The text has no mistake of grammar.",
}
"""The four questions of the rubric, by the name under which their answers are kept."""

PICTURE_SIDE = 1400
"""Longest side of a picture in pixels: larger images are made smaller, the browser enlarges smaller ones."""

_LARGEST_POST = 10_000
_PAGE = Path(__file__).parent / "page"
_LOG = logging.getLogger(__name__)


def read_verdicts(folder: EngineFolder) -> dict[str, dict[str, Any]]:
    """Identity of an item -> its last verdict: `passed`, the rubric's answers, `who` and `when`.

    Raises:
        UserError: if a line is no verdict.
    """
    path = folder.path / REVIEW
    found: dict[str, dict[str, Any]] = {}
    if not path.exists():
        return found
    for number, line in enumerate(read_lines(path), start=1):
        if "id" not in line or any(not isinstance(line.get(name), bool) for name in RUBRIC):
            raise UserError(f"{path}, line {number} is no verdict; mend or delete it.")
        answers = {name: line[name] for name in RUBRIC}
        verdict = {
            "passed": all(answers.values()),
            **answers,
            "who": line.get("who"),
            "when": line.get("when"),
        }
        found[str(line["id"])] = verdict
    return found


class Review:
    """The items of a set and what is said of them.

    Args:
        folder: of the set.
        names: its images.
    """

    def __init__(self, folder: EngineFolder, names: Sequence[str]) -> None:
        self.folder = folder
        self.items: list[Item] = list(items(folder, folder.settings(), names))
        if not self.items:
            raise UserError(f"{folder.path} has nothing to review.")
        self.token = secrets.token_hex(16)
        self._places = {one.identity: number for number, one in enumerate(self.items)}
        self._lock = threading.Lock()
        drop_unfinished_line(folder.path / REVIEW)

    def state(self) -> dict[str, Any]:
        """What the page needs: the rubric, and of each item its texts and what was last said of it."""
        verdicts = read_verdicts(self.folder)
        return {
            "rubric": RUBRIC,
            "token": self.token,
            "items": [
                {
                    "id": one.identity,
                    "question": one.text,
                    "answer": one.question.answer,
                    "tags": one.tags(),
                    "verdict": verdicts.get(one.identity),
                }
                for one in self.items
            ],
        }

    def picture(self, number: int) -> str:
        """The picture of an item with its masks outlined, as a data URL.

        Raises:
            IndexError: if there is no such item.
        """
        item = self.items[number]
        image = ImageFile(str(self.folder.path / item.half / "images" / item.image))()
        picture = outlined(image, [(mask, COLOURS[0][1]) for mask in item.masks])
        picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        return data_url(picture)

    def say(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a verdict: `id`, the four answers as true or false, and `who`.

        Raises:
            UserError: if it is no verdict of an item.
        """
        identity, who = given.get("id"), given.get("who")
        if identity not in self._places:
            raise UserError(f"there is no item {identity!r}.")
        if not isinstance(who, str) or not who.strip() or len(who) > 100:
            raise UserError("say who you are.")
        if any(not isinstance(given.get(name), bool) for name in RUBRIC):
            raise UserError(f"a verdict answers {', '.join(RUBRIC)} with true or false.")
        when = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"id": identity, **{name: given[name] for name in RUBRIC}, "who": who.strip(), "when": when}
        with self._lock:
            append_lines(self.folder.path / REVIEW, [line])
        return line


def serve(folder: EngineFolder, names: Sequence[str], port: int) -> None:
    """Serve the page on 127.0.0.1 until interrupted.

    Raises:
        UserError: if there is nothing to review, or the port is taken.
    """
    with make_server(Review(folder, names), port) as server:
        print(
            f"http://127.0.0.1:{server.server_address[1]}/  (stop with Ctrl-C; verdicts go to "
            f"{folder.path / REVIEW})",
            flush=True,
        )
        with suppress(KeyboardInterrupt):  # the way to end a sitting
            server.serve_forever()


def make_server(review: Review, port: int) -> ThreadingHTTPServer:
    """The server of the page; port 0 takes a free one.

    Raises:
        UserError: if the port is taken.
    """
    handler = type("Handler", (_Handler,), {"review": review})
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error.strerror}); give another --port.") from None


class _Handler(BaseHTTPRequestHandler):
    review: Review

    def do_GET(self) -> None:
        """The page, its script, the state, or an item's picture."""
        if not self._is_local():
            return
        path = unquote(self.path)
        if path in _FILES:
            name, kind = _FILES[path]
            self._send((_PAGE / name).read_bytes(), kind)
        elif path == "/state":
            self._json(self.review.state())
        elif path.startswith("/picture/"):
            try:
                self._json({"url": self.review.picture(int(path.removeprefix("/picture/")))})
            except (ValueError, IndexError):
                self._json({"error": "there is no such picture."}, 404)
            except UserError as error:
                self._json({"error": str(error)}, 500)
        else:
            self._json({"error": "there is no such page."}, 404)

    def do_POST(self) -> None:
        """Keep a verdict; only from this page, which knows the token."""
        if not self._is_local():
            return
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/verdict" or not 0 < length <= _LARGEST_POST:
            self._json({"error": "there is no such page."}, 404)
            return
        try:
            given = json.loads(self.rfile.read(length))
            if not isinstance(given, dict):
                raise UserError("a verdict is an object.")
            if not secrets.compare_digest(str(given.get("token")), self.review.token):
                self._json({"error": "the page is of another review; load it again."}, 403)
                return
            self._json(self.review.say(given))
        except (ValueError, UserError) as error:
            self._json({"error": str(error)}, 400)

    def _is_local(self) -> bool:
        """Refuse what a foreign page's name was pointed here for."""
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host in ("127.0.0.1", "localhost"):
            return True
        self._json({"error": "this page is for this machine only."}, 421)
        return False

    def _json(self, data: Mapping[str, Any], status: int = 200) -> None:
        self._send(json.dumps(data, ensure_ascii=False).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header(
            "Content-Security-Policy", "default-src 'self'; img-src data:; frame-ancestors 'none'"
        )
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """To the log, not to the terminal."""
        _LOG.debug(format, *args)


_FILES = {
    "/": ("review.html", "text/html"),
    "/review.js": ("review.js", "text/javascript"),
    "/review.css": ("review.css", "text/css"),
}
