"""`prompter eval --samples K`: its flags, and what is done with the looks once they are there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eval.answerers.base import LookSettings
from eval.looks.calibration import CalibrationFile
from eval.looks.combining import COMBINED, Combination, combine_run, read_combined
from eval.looks.confidence import DEFAULT_SOURCE, SOURCES
from eval.looks.records import looks_files
from eval.looks.rules import DEFAULT_RULE, RULES, USES_TRUTH
from eval.looks.summary import fit_run
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from recipes.commands import flags

_ONLY_WITH_SAMPLES = ("temperature", "top_p", "seed", "shift")
_OF_COMBINING = ("combine", "confidence", "calibration", "fit_calibration", "max_risk")


def add_look_flags(parser: argparse.ArgumentParser, *, scored: bool = True) -> None:
    """Declare what belongs to `--samples`; what needs targets, or scores again, only where it is `scored`."""
    group = parser.add_argument_group("several looks at each question (docs/looks.md)")
    group.add_argument(
        "--samples",
        type=int,
        metavar="K",
        help="draw K completions per question beside the greedy one"
        + ("; with --rescore, combine the first K" if scored else ""),
    )
    group.add_argument(
        "--temperature", type=float, metavar="T", help="they are drawn at (default: 0.8; 0 with --shift)"
    )
    group.add_argument(
        "--shift",
        type=float,
        metavar="S",
        help="move the image for each of them, by up to this share of its sides (default: 0)",
    )
    group.add_argument(
        "--top-p", type=float, metavar="P", help="share of probability drawn from (default: 1)"
    )
    flags.add_seed(group, "the draws", default=None)
    rules = ", ".join(name for name in RULES if scored or name not in USES_TRUTH)
    group.add_argument(
        "--combine",
        metavar="RULE",
        help=f"how they become one answer: {rules}, or MODULE:FUNCTION (default: {DEFAULT_RULE})",
    )
    group.add_argument(
        "--confidence",
        metavar="FIGURE",
        help=f"what the confidence is read from: {', '.join(SOURCES)} (default: {DEFAULT_SOURCE})",
    )
    group.add_argument("--calibration", metavar="FILE", help="calibrate the confidence with this file")
    if not scored:
        return
    group.add_argument("--fit-calibration", metavar="FILE", type=Path, help="fit such a file on this run")
    group.add_argument(
        "--max-risk",
        type=float,
        metavar="R",
        help="also tell what abstaining for a mean 1 - IoU of R comes to, by the calibration",
    )


def look_settings(arguments: argparse.Namespace) -> LookSettings | None:
    """How to look, or None where each question is asked once; checks the flags of `add_look_flags`.

    Raises:
        UserError: if a number is out of range, or a flag has nothing to act on.
    """
    combination(arguments).check()
    given = {name: getattr(arguments, name) for name in _ONLY_WITH_SAMPLES}
    given = {name: value for name, value in given.items() if value is not None}
    if getattr(arguments, "rescore", False):
        if given:
            raise UserError(f"{_flag(next(iter(given)))} is about drawing samples; --rescore draws none.")
        return None
    if arguments.samples is None:
        for name in (*given, *_OF_COMBINING):
            if getattr(arguments, name, None) is not None:
                raise UserError(f"{_flag(name)} is about several looks at a question: give --samples K.")
        return None
    if getattr(arguments, "invariance", False):
        raise UserError("--invariance compares greedy answers; leave out --samples.")
    return LookSettings.asked({"samples": arguments.samples, **given}, _flag)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def combination(arguments: argparse.Namespace, before: Combination | None = None) -> Combination:
    """How looks are combined: what was given, and for the rest `before`, or the defaults."""
    fields = {
        "rule": arguments.combine,
        "samples": arguments.samples,
        "source": arguments.confidence,
        "calibration": arguments.calibration,
        "max_risk": getattr(arguments, "max_risk", None),
    }
    known = before or Combination()
    return Combination(
        **{name: getattr(known, name) if value is None else value for name, value in fields.items()}
    )


def combine_looks(arguments: argparse.Namespace, folder: RunFolder) -> None:
    """Make the rollouts of a run from its looks, if it has any, as the flags say or as was done last.

    Raises:
        UserError: if a flag asks for looks that the run has not; or as `combine_run` and `fit_run`.
    """
    if not looks_files(folder):
        for name in ("samples", *_OF_COMBINING):
            if getattr(arguments, name) is not None:
                raise UserError(
                    f"{folder.path} holds one answer per question, so {_flag(name)} has nothing to act on; "
                    f"evaluate with --samples into a new folder."
                )
        return
    before = None
    if arguments.rescore and (folder.path / COMBINED).exists():
        told = read_combined(folder)
        before = Combination(**{name: told[name] for name in Combination.__dataclass_fields__})
    how = combination(arguments, before)
    combine_run(folder, how)
    if how.calibration is not None:
        _warn(CalibrationFile.read(Path(how.calibration)), folder, how.calibration)
    if arguments.fit_calibration is not None:
        fitted = fit_run(folder, arguments.fit_calibration)
        queries = ", ".join(str(one.queries) for one in fitted.executors.values())
        print(f"calibration fitted on {queries} answers: {arguments.fit_calibration}")


def _warn(found: CalibrationFile, folder: RunFolder, path: str) -> None:
    """Say where a calibration was fitted on something else than it is used for, or on the very same."""
    config = folder.read_config()
    for key in ("policy", "policy_options", "looks"):
        if key in found.made and found.made[key] != config.get(key):
            print(
                f"warning: {path} was fitted with {key} = {found.made[key]!r}, and is used with "
                f"{config.get(key)!r}.",
                file=sys.stderr,
            )
    if found.made.get("benchmark") == config.get("benchmark"):
        print(
            f"warning: {path} was fitted on {config['benchmark']} itself; its calibration error there is no "
            f"test of it.",
            file=sys.stderr,
        )
