"""The MCP server: tools and resources before a `Desk`, with errors that an agent can read and act on."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Annotated, Any, ParamSpec, TypeVar

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.context import Context
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp_types import ToolAnnotations
from pydantic import Field, ValidationError

from prompter import __version__
from prompter.errors import InfrastructureError, UserError, did_you_mean
from prompter.runs.config import describe_validation_error
from recipes.agents.desk import FORMS, SCHEME, Desk
from recipes.agents.replies import Answer, Listing, Status

P = ParamSpec("P")
R = TypeVar("R")

MOST = 256
"""Boxes or points of one call, and entries of a part of a list."""

Numbers = Annotated[list[float], Field(max_length=4)]

_LOG = logging.getLogger(__name__)


class ReadableServer(MCPServer[Any]):
    """A server that refuses what a tool does not take, by name, and says what is wrong in sentences."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> Any:
        """As the SDK's, but an unknown tool or argument gets "did you mean", and a bad value a sentence.

        Raises:
            ToolError: with one sentence a line.
        """
        taken = {tool.name: tool.input_schema.get("properties", {}) for tool in await self.list_tools()}
        if name not in taken:
            raise ToolError(f"There is no tool {name!r}.{did_you_mean(name, taken)}")
        for given in arguments:
            if given not in taken[name]:
                raise ToolError(f"{name} takes no {given!r}.{did_you_mean(given, taken[name])}")
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(f"{name}: {describe_validation_error(error.__cause__)}") from error.__cause__
            raise


def skill() -> str:
    """The page that tells an agent how to use the tools, Markdown."""
    return files("recipes.agents").joinpath("SKILL.md").read_text("utf-8")


def build_server(desk: Desk) -> MCPServer[Any]:
    """A server with the tools `status`, `list`, `segment` and `refine`, and results as resources.

    Args:
        desk: answers the calls; it stays the caller's to close.
    """
    server = ReadableServer(
        "prompter",
        title="Prompter",
        version=__version__,
        instructions=skill().split("---", 2)[2].strip(),
        log_level="WARNING",
    )
    reads = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
    answers = ToolAnnotations(
        read_only_hint=desk.out is None, destructive_hint=False, idempotent_hint=False, open_world_hint=False
    )

    @server.tool(annotations=reads)
    @readable(ToolError)
    def status() -> Status:
        """What is served: policy, segmenter, the folders that may be read, results that are kept. Call it
        first; it is quick and loads nothing."""
        return desk.status()

    @server.tool(name="list", annotations=reads)
    @readable(ToolError)
    def list_(
        folder: Annotated[
            str | None,
            Field(description="a folder that may be read, or one in it; all of those if not given"),
        ] = None,
        offset: Annotated[int, Field(ge=0, description="entries to pass over")] = 0,
        limit: Annotated[int, Field(ge=1, le=MOST, description="entries at most")] = 100,
    ) -> Listing:
        """Images and folders in a folder, by name. Not recursive."""
        return desk.list(folder, offset, limit)

    @server.tool(annotations=answers)
    @readable(ToolError)
    def segment(
        image: Annotated[str, Field(max_length=4096, description="path of an image in the folders")],
        question: Annotated[
            str, Field(min_length=1, max_length=4000, description="what to look for, in words")
        ],
    ) -> Answer:
        """Ask the policy a question about an image, and have the segmenter draw what it points at: masks,
        boxes, scores. The first call loads the models and takes long."""
        return desk.segment(image, question)

    @server.tool(annotations=answers)
    @readable(ToolError)
    def refine(
        result: Annotated[str, Field(max_length=64, description="name of a result, such as r1")],
        boxes: Annotated[
            list[Numbers] | None,
            Field(
                max_length=MOST,
                description="[x1, y1, x2, y2] in pixels; each is a new object, or with `object` takes the "
                "place of that object's box",
            ),
        ] = None,
        points: Annotated[
            list[Numbers] | None,
            Field(max_length=MOST, description="[x, y] in pixels, all of one object: `object`"),
        ] = None,
        labels: Annotated[
            list[int] | None,
            Field(
                max_length=MOST,
                description="1 (on the object) or 0 (off it) for each point; all 1 if not given",
            ),
        ] = None,
        object: Annotated[int | None, Field(description="number of the object, from 0")] = None,
    ) -> Answer:
        """Change the prompts of a result and draw again, as a new result. Quick: the policy is not asked and
        the image not encoded again. The old result stays."""
        return desk.refine(result, boxes=boxes, points=points, labels=labels, object=object)

    for form, media_type in FORMS.items():
        _add_form(server, desk, form, media_type)
    return server


def _add_form(server: MCPServer[Any], desk: Desk, form: str, media_type: str) -> None:
    """Serve one file of every kept result."""

    @server.resource(f"{SCHEME}/{{result}}/{form}", name=form, mime_type=media_type)
    @readable(ResourceError)
    def read(result: str) -> str | bytes:
        content = desk.file(result, form)
        return content if media_type.startswith("image/") else content.decode()


def readable(kind: type[Exception]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Wrap a handler so that what it raises reaches the agent: a `UserError` word for word.

    Of anything else, which is a fault of ours, the agent learns the type and that trying again is of no use;
    the rest is in the server's log.

    Args:
        kind: what the SDK passes on with its text.
    """

    def wrap(handler: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(handler)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return handler(*args, **kwargs)
            except (UserError, InfrastructureError) as error:
                raise kind(str(error)) from error
            except Exception as error:
                _LOG.exception("%s failed", handler.__name__)
                raise kind(
                    f"A fault of the server ({type(error).__name__}), not of this call; its log on stderr "
                    f"says more. The same call will most likely fail again."
                ) from error

        return called

    return wrap
