"""Compare runs on the questions they share: paired intervals, and where the difference in gIoU comes from.

    prompter compare runs/demo                        a training run: before and after
    prompter compare runs/first runs/second           two evaluations, or what two training runs ended in
    prompter compare runs/demo/eval/before runs/other runs/third --json comparison.json
    prompter compare runs/first runs/second --page comparison.html
    prompter compare runs/start runs/seed-0 runs/seed-1 runs/seed-2 --pool

A training run stands for its before and after, and, beside other runs, for its after. Every later run is
compared with the first. No model is loaded: whatever wrote rollouts can be compared, runs of earlier versions
too. Intervals draw whole images, single queries, and whole tiles where images were cut from such. The four
parts of a difference (form, refusal, count, localisation) are defined in docs/gain.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompter.errors import UserError
from prompter.runs.files import atomic_write
from prompter.runs.run_folder import RunFolder
from recipes.commands import flags
from recipes.commands.output import add_json_file, tell
from recipes.commands.pairs import Pair

if TYPE_CHECKING:
    from envs.rollout import Rollout
    from eval.comparison import Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of training runs or evaluations"
    )
    parser.add_argument(
        "--tiles",
        metavar="tag:NAME|image:REGEX",
        help="what is drawn as a whole: the value of a tag, or group 1 of an expression on the image id "
        "(default: the tag `tile`, or what the dataset says)",
    )
    parser.add_argument(
        "--pool",
        action="store_true",
        help="the later runs are seeds of one recipe (or all, if all are training runs): pool them, too, "
        "with intervals that draw seeds",
    )
    add_json_file(parser, "all figures")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE.html",
        help="also write a page: figures, what the configurations say differently, the runs' answers side "
        "by side",
    )
    flags.add_trust(parser)
    flags.add_rollouts(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a comparison per pair of runs and segmenter; return 0."""
    from envs.datasets.tiles import tile_of, tile_rule

    tile = tile_of if arguments.tiles is None else tile_rule(arguments.tiles)
    runs = [RunFolder.open(path) for path in arguments.runs]
    of_each, of_first = _pairs(runs)
    trained_alone = len(_trained(runs)) == len(runs)
    pools = _pools(of_each if trained_alone else of_first) if arguments.pool else {}
    compared = compare_pairs([*of_each, *of_first], tile)
    found = print_compared(compared)
    tell(comparisons=found)
    pooled = _print_pooled(pools)
    tell(pooled=pooled)
    if arguments.page is not None:
        from recipes.commands.compare_page import write_compare_page

        page = write_compare_page(
            arguments.page, runs, compared, trust=arguments.trust, most=flags.rollouts(arguments)
        )
        tell(page=page)
        print(page)
    if arguments.json is not None:
        with atomic_write(arguments.json) as handle:
            json.dump(
                {"comparisons": found, "pooled": pooled},
                handle,
                indent=1,
                ensure_ascii=False,
                allow_nan=False,
            )
            handle.write("\n")
    return 0


def print_pairs(pairs: Iterable[Pair], tile: Callable[[Rollout], str] | None = None) -> list[dict[str, Any]]:
    """Compare pairs and print what is found; return it JSON-ready.

    Args:
        pairs: what to compare.
        tile: names the tile of a rollout's image; None for what its set says (`envs.datasets.tiles.tile_of`).
    """
    return print_compared(compare_pairs(pairs, tile))


def compare_pairs(
    pairs: Iterable[Pair], tile: Callable[[Rollout], str] | None = None
) -> list[tuple[Pair, Comparison]]:
    """Compare pairs; see `print_pairs`."""
    from envs.datasets.tiles import tile_of
    from eval.comparison import compare_files

    return [(pair, compare_files(pair.before, pair.after, tile=tile or tile_of)) for pair in pairs]


def print_compared(compared: Iterable[tuple[Pair, Comparison]]) -> list[dict[str, Any]]:
    """Print what was found of pairs; return it JSON-ready."""
    from eval.comparison import comparison_text

    found = []
    for pair, comparison in compared:
        counted = f"{comparison.queries} queries on {comparison.images} images"
        if comparison.tiles is not None:
            counted += f" of {comparison.tiles} tiles"
        print(f"{pair.title}: {counted}")
        print(*(f"  {line}" for line in comparison_text(comparison)), sep="\n")
        found.append({**pair.to_json(), **comparison.to_json()})
    print("strict, per cent; 95 % bootstrap intervals of the paired difference")
    return found


def _pools(seeds: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Segmenter -> the pairs that were evaluated with it, each of a seed.

    Raises:
        UserError: if there are fewer than two.
    """
    pools: dict[str, list[Pair]] = {}
    for pair in seeds:
        pools.setdefault(pair.before.stem, []).append(pair)
    for name, pool in pools.items():
        if len(pool) < 2:
            raise UserError(
                f"--pool needs two seeds or more, and there is {len(pool)} of segmenter {name}: name the "
                f"start and the evaluations of several seeds, or several training runs."
            )
    return pools


def _print_pooled(pools: Mapping[str, Sequence[Pair]]) -> list[dict[str, Any]]:
    """Pool pairs, print what is found, and return it JSON-ready."""
    from eval.figures import percent
    from eval.study import pool_seeds, pooled_text

    found = []
    for name, pool in pools.items():
        arm = pool_seeds([(pair.before, pair.after) for pair in pool])
        print(
            f"{len(pool)} seeds pooled, {name}: gIoU {percent(arm.before)} -> {percent(arm.metrics['gIoU'])}"
        )
        print(*(f"  {line}" for line in pooled_text(arm)), sep="\n")
        found.append({"segmenter": name, **asdict(arm), "runs": [pair.to_json() for pair in pool]})
    return found


def _pairs(runs: list[RunFolder]) -> tuple[list[Pair], list[Pair]]:
    """Before and after of every training run; and the first run with every later one.

    Raises:
        UserError: if there is nothing to compare, or a training run has not been evaluated.
    """
    if len(runs) == 1 and not _trained(runs):
        raise UserError(
            f"{runs[0].path} is one evaluation, and is compared with another: name that, too. "
            f"A training run alone is compared with what it started from."
        )
    return list(_before_after(runs)), list(_with_first(runs))


def _trained(runs: list[RunFolder]) -> list[RunFolder]:
    """Those of the runs that are training runs."""
    return [run for run in runs if "trainer" in run.read_config()]


def _before_after(runs: list[RunFolder]) -> Iterator[Pair]:
    for run in _trained(runs):
        yield from by_segmenter(f"{run.path}, before -> after", *(_evaluation(run, n) for n in _SIDES))


def _with_first(runs: list[RunFolder]) -> Iterator[Pair]:
    trained = _trained(runs)
    first, *others = runs
    for other in others:
        sides = [_evaluation(run, "after") if run in trained else run for run in (first, other)]
        yield from by_segmenter(f"{first.path} -> {other.path}", *sides)


_SIDES = ("before", "after")


def _evaluation(run: RunFolder, name: str) -> RunFolder:
    """An evaluation of a training run.

    Raises:
        UserError: if it was not made.
    """
    path = run.path / "eval" / name
    if not path.is_dir():
        raise UserError(f"{run.path} holds no eval/{name}: the run has not come so far; resume it first.")
    return RunFolder.open(path)


def by_segmenter(title: str, before: RunFolder, after: RunFolder) -> Iterator[Pair]:
    """A pair per segmenter that both were evaluated with; if each has one, those two, whatever they are.

    Raises:
        UserError: if they share none.
    """
    from eval.results import evaluation_files

    first, second = ({path.stem: path for path in evaluation_files(one)} for one in (before, after))
    shared = [name for name in first if name in second]
    for name in shared:
        yield Pair(f"{title}, {name}", first[name], second[name])
    if shared:
        return
    if len(first) > 1 or len(second) > 1:
        raise UserError(
            f"{before.path} and {after.path} share no segmenter: "
            f"{', '.join(first)} in the one, {', '.join(second)} in the other."
        )
    (one, path), (other, other_path) = *first.items(), *second.items()
    yield Pair(f"{title}, {one} -> {other}", path, other_path)
