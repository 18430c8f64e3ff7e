"""Serve a policy to agents by the Model Context Protocol: they look into folders, ask, and correct.

    prompter mcp photos --policy shipped:small-policy --executor box
    prompter mcp photos scenes --policy Qwen/Qwen2.5-VL-3B-Instruct --out answers

The tools are status, list, segment and refine; results are resources. An agent reads images in and below
the FOLDERs, and nothing else. It is served on stdin and stdout, for a client that starts this command; with
--http at http://127.0.0.1:PORT/mcp, for programs on this machine only. Nothing is written but with --out.
The policy is loaded at the first question.

`prompter mcp --skill` prints how an agent uses it. Needs pip install 'prompter-rl[mcp]'.
"""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

from prompter.errors import UserError
from prompter.prompt_text import read_prompt_file
from prompter.runs.values import read_options
from recipes.commands import flags

HOST = "127.0.0.1"
"""The only address that is served: whoever can connect can read the folders."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="a folder whose images may be read"
    )
    parser.add_argument(
        "--policy", help="checkpoint folder or hub id, shipped:NAME, openai:URL#MODEL, sam3:ID"
    )
    flags.add_policy_option(parser)
    flags.add_executor(parser, default="mobile-sam")
    flags.add_out(parser, "folder that every result is saved below; not given, nothing is written")
    parser.add_argument("--http", type=int, metavar="PORT", help=f"serve {HOST}:PORT, not stdin and stdout")
    parser.add_argument("--skill", action="store_true", help="print the page for agents, and end")


def run(arguments: argparse.Namespace) -> int:
    """Serve until the client hangs up, or Ctrl-C."""
    from recipes.api.shapes import optional_import

    optional_import("mcp.server.mcpserver", "prompter mcp", "mcp")
    from recipes.agents.server import build_server, skill

    if arguments.skill:
        print(skill(), end="")
        return 0
    if arguments.policy is None:
        raise UserError("prompter mcp needs --policy: who answers, as in --policy shipped:small-policy.")
    from recipes.agents.desk import Desk
    from recipes.agents.roots import Roots
    from recipes.api.load import Prompter, load
    from recipes.commands.arguments import OWN_MASKS, parse_executor
    from recipes.training.quiet import quiet

    roots = Roots(arguments.folders)
    own = arguments.executor == OWN_MASKS
    executor = OWN_MASKS if own else parse_executor(arguments.executor, **arguments.executor_fields)
    options = read_prompt_file(read_options(arguments.policy_option, "--policy-option"))

    def open_prompter() -> Prompter:
        quiet()
        return load(arguments.policy, executor, options=options)

    named = {"policy": arguments.policy, "executor": arguments.executor, "out": arguments.out}
    with Desk(roots, open_prompter, **named) as desk:
        server = build_server(desk)
        if arguments.http is None:
            server.run("stdio")
        else:
            _check_free(arguments.http)
            where = f"http://{HOST}:{arguments.http}/mcp"
            print(f"prompter: serving {where}; Ctrl-C ends it", file=sys.stderr, flush=True)
            server.run("streamable-http", host=HOST, port=arguments.http)
    return 0


def _check_free(port: int) -> None:
    """Refuse a port that is none or is taken, before the server does so in a traceback."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--http {port}: {HOST}:{port} cannot be served ({error}); name another port."
        ) from None
