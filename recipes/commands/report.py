"""Write the page of a run again: of a training run, or of an evaluation.

    prompter report runs/demo-20260101-120000
    prompter report runs/earthreason-eval --title "EarthReason, test"
    prompter report runs/tuned-eval --against runs/base-eval
    prompter report runs/second --beside runs/first --rollouts 40000

The page, `report.html` in the run's folder, opens from the file system; its path is printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from recipes.commands import flags
from recipes.commands.output import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--title", default="", help="heading of the page (default: the run's own)")
    flags.add_trust(parser)
    parser.add_argument(
        "--against", type=Path, metavar="RUN", help="an evaluation of the same questions to compare with"
    )
    parser.add_argument(
        "--beside", type=Path, metavar="RUN", help="a run whose configuration is set beside this one's"
    )
    flags.add_rollouts(parser)
    # What `prompter report` was before: the leaderboard's flags.
    parser.add_argument("--benchmark", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=None, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Write each run's page and print its path; return 0."""
    if arguments.benchmark or arguments.out is not None:
        return _leaderboard(arguments)
    if not arguments.runs:
        raise UserError("Name the folder of a run, as in prompter report runs/demo.")
    most = flags.rollouts(arguments)
    against, beside = (
        None if path is None else RunFolder.open(path) for path in (arguments.against, arguments.beside)
    )
    pages = []
    for path in arguments.runs:
        pages.append(
            write_run_report(
                RunFolder.open(path),
                arguments.title,
                trust=arguments.trust,
                against=against,
                beside=beside,
                most=most,
            )
        )
        print(pages[-1])
    tell(pages=pages)
    return 0


def write_run_report(
    folder: RunFolder,
    title: str = "",
    *,
    trust: bool = False,
    against: RunFolder | None = None,
    beside: RunFolder | None = None,
    most: int = 10_000,
) -> Path:
    """Write the page of a finished training run or evaluation, whichever the folder holds.

    Args:
        folder: of the run.
        title: heading; "" takes the run's own.
        trust: import a dataset that the run's config names as "module:callable". Without it, the
            pictures of such a run are drawn on grey.
        against: for an evaluation, one of the same questions that it is compared with.
        beside: a run whose configuration is set beside this one's; for an evaluation `against`, if left out.
        most: rollouts to leaf through.

    Raises:
        UserError: if the folder holds neither, or a training run, which is compared with its own before, is
            to be compared with another.
    """
    if "trainer" in folder.read_config():
        if against is not None:
            raise UserError(
                f"{folder.path} is a training run, whose page compares it with what it started from; "
                f"`prompter compare {against.path} {folder.path}` sets it beside another."
            )
        from recipes.training.report import write_training_report

        return write_training_report(folder, title, trust=trust, beside=beside, most=most)
    from recipes.commands.eval import write_evaluation_report

    return write_evaluation_report(folder, title, trust=trust, against=against, beside=beside, most=most)


def _leaderboard(arguments: argparse.Namespace) -> int:
    from recipes.commands import leaderboard

    print("prompter report writes a run's page now: use prompter leaderboard for this.", file=sys.stderr)
    arguments.out = arguments.out or Path("leaderboard")
    return leaderboard.run(arguments)
