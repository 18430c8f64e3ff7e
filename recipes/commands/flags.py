"""The flags that several commands share: each is declared once, so it reads and means the same everywhere.

A flag that was renamed keeps its old name (`add_old_name`): that works, is not in the help, and says once
on stderr what it is called now.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompter.errors import UserError


def add_benchmark(
    parser: argparse.ArgumentParser,
    *,
    several: bool = False,
    default: str | None = None,
    note: str = "",
    metavar: str = "NAME:SPLIT",
) -> None:
    """Declare `--benchmark NAME:SPLIT`, which was `--dataset` in some commands.

    Args:
        several: it may be given several times; the result is a list.
        default: what it is where it is not given; None is None, or an empty list.
        note: what else a command has to say about it.
    """
    _declare(parser, "--benchmark", several, default, metavar, f"see `prompter data ls`{note}")
    add_old_name(parser, "--dataset", "--benchmark")


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    """Declare how a dataset is opened: `--dataset-option`, `--root`, `--skip-bad` (see `dataset_options`)."""
    _declare(parser, "--dataset-option", True, None, "KEY=VALUE", "option of the dataset's opener")
    add_old_name(parser, "--option", "--dataset-option")
    parser.add_argument("--root", metavar="FOLDER", help="the set's folder, or a hub id where it has one")
    add_skip_bad(parser)


def add_skip_bad(parser: argparse.ArgumentParser) -> None:
    """Declare `--skip-bad`."""
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out records that do not load; count them"
    )


def add_config_and_resume(parser: argparse.ArgumentParser) -> None:
    """Declare the config and `--resume` of a command that trains a policy by supervision."""
    parser.add_argument("config", type=Path, help="YAML config of the training")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run that was broken off, after its last checkpoint",
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Declare `--trust`, for commands that open a dataset as a run's config says."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import a dataset that a run's config names as MODULE:CALLABLE, which runs that code",
    )


def add_rollouts(parser: argparse.ArgumentParser) -> None:
    """Declare `--rollouts`, for commands that write a page to leaf through; `rollouts` reads it."""
    parser.add_argument(
        "--rollouts",
        type=int,
        default=10_000,
        metavar="N",
        help="rollouts on the page (default: 10000); of more, steps or questions are evenly spaced",
    )


def rollouts(arguments: argparse.Namespace) -> int:
    """What `--rollouts` says.

    Raises:
        UserError: if it is less than 1.
    """
    if arguments.rollouts < 1:
        raise UserError(f"--rollouts must be at least 1, but is {arguments.rollouts}.")
    return int(arguments.rollouts)


def add_executor(
    parser: argparse.ArgumentParser, *, several: bool = False, default: str | None = None
) -> None:
    """Declare `--executor FAMILY[:MODEL][,KEY=VALUE…]`, and the flags that once said a part of it.

    The parts are kept in `arguments.executor_fields`, for `recipes.commands.arguments.parse_executor`.
    """
    what = "a frozen segmenter, with any key of the config's executor section"
    _declare(parser, "--executor", several, default, "FAMILY[:MODEL][,KEY=VALUE…]", what)
    for key in ("device", "dtype", "multimask", "cache_dtype", "encode_batch"):
        flag = "--" + key.replace("_", "-")
        parser.add_argument(flag, action=_ExecutorField, key=key, dest="executor_fields")
    parser.set_defaults(executor_fields={})


def add_policy_option(parser: argparse.ArgumentParser) -> None:
    """Declare `--policy-option`, which is about how a policy is asked and sampled."""
    what = "how the policy is asked, as in image.side=840, or sampled, as in sampler.backend=hf"
    _declare(parser, "--policy-option", True, None, "KEY=VALUE", what)


def add_out(
    parser: argparse.ArgumentParser, what: str, *, required: bool = False, default: Path | None = None
) -> None:
    """Declare `--out`, short `-o`, the file or folder that is written; it was `--output` in some commands."""
    parser.add_argument(
        "--out",
        "-o",
        type=Path,
        required=required,
        default=default,
        metavar="PATH",
        help=_with(what, default),
    )
    add_old_name(parser, "--output", "--out")


def add_limit(parser: argparse.ArgumentParser, what: str = "samples") -> None:
    """Declare `--limit`."""
    parser.add_argument("--limit", type=int, metavar="N", help=f"only the first so many {what}")


def add_chunk(parser: argparse.ArgumentParser) -> None:
    """Declare `--chunk`."""
    parser.add_argument(
        "--chunk", type=int, default=32, metavar="N", help="samples answered together (default: 32)"
    )


def add_seed(parser: Any, what: str, *, default: int | None = 0) -> None:
    """Declare `--seed` of a parser or a group of its arguments; with a `default` of None 0 is still meant."""
    parser.add_argument("--seed", type=int, default=default, metavar="N", help=f"of {what} (default: 0)")


def add_old_name(parser: argparse.ArgumentParser, old: str, flag: str) -> None:
    """Let a declared flag be given by the name it had before, which is said once."""
    parser.add_argument(old, action=_OldName, now=parser._option_string_actions[flag])


def _declare(
    parser: argparse.ArgumentParser, flag: str, several: bool, default: str | None, metavar: str, what: str
) -> None:
    if several:
        parser.add_argument(
            flag, action="append", default=[], metavar=metavar, help=f"{_with(what, default)}; repeatable"
        )
    else:
        parser.add_argument(flag, default=default, metavar=metavar, help=_with(what, default))


def _with(what: str, default: object) -> str:
    return what if default is None else f"{what} (default: {default})"


class _Old(argparse.Action):
    """A flag of before, left out of the help; it says once what to write today."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options)
        self._said = False

    def _say(self, option: str | None, today: str) -> None:
        if not self._said:
            self._said = True
            print(f"{option} is written {today} now.", file=sys.stderr)


class _OldName(_Old):
    """An old name of a flag that is called `now`."""

    def __init__(self, option_strings: Sequence[str], dest: str, now: argparse.Action) -> None:
        super().__init__(option_strings, now.dest, type=now.type, nargs=now.nargs)
        self._now = now

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        self._say(option_string, self._now.option_strings[0])
        self._now(parser, namespace, values, option_string)


class _ExecutorField(_Old):
    """A flag that said a part of `--executor`."""

    def __init__(self, option_strings: Sequence[str], dest: str, key: str) -> None:
        super().__init__(option_strings, dest)
        self._key = key

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        self._say(option_string, f"--executor FAMILY,{self._key}={values}")
        fields = {**namespace.executor_fields, self._key: values}  # a copy: defaults are shared
        namespace.executor_fields = fields
