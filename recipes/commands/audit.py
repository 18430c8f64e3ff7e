"""Find labels that are probably wrong: where predictions agree with each other and not with the label.

    prompter audit runs/policy-a runs/policy-b --executor mobile-sam --out audits/first
    prompter audit --apply decisions.json --out audits/first
    prompter audit runs/policy-a runs/policy-b --executor mobile-sam --plant 0.05 --rounds 20

The first writes a queue of all queries, the most suspicious label first (`queue.jsonl`), and a page to go
through its head by keyboard (`audit.html`). The page exports `decisions.json`. The second carries those out:
a repaired split as a manifest, and every run scored on both sets of labels. The third spoils that share of
the labels itself and says how many of them such a queue would have shown: what this audit is worth with these
runs on this benchmark.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompter.errors import UserError
from prompter.runs.tables import text_table
from recipes.commands import flags
from recipes.commands.output import tell

if TYPE_CHECKING:
    from envs.executors.base import Executor
    from envs.sample import Sample
    from eval.audit.evidence import Evidence
    from eval.audit.queue import Queue
    from eval.runner import Samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="evaluations of one benchmark, by several policies"
    )
    flags.add_out(parser, "folder of the audit")
    flags.add_executor(parser)
    parser.add_argument(
        "--page", type=int, default=100, metavar="N", help="labels to show on the page (default: 100)"
    )
    parser.add_argument(
        "--order",
        choices=("both", "predictions", "segmenter"),
        default="both",
        help="what the queue is ordered by; --plant tells which finds most (default: both)",
    )
    parser.add_argument("--apply", type=Path, metavar="FILE", help="decisions, as the page exports them")
    parser.add_argument(
        "--plant", type=float, metavar="SHARE", help="spoil this share of the labels, and count what is found"
    )
    parser.add_argument(
        "--rounds", type=int, default=20, metavar="N", help="how often to plant anew (default: 20)"
    )
    flags.add_seed(parser, "the planted faults")
    flags.add_trust(parser)


def run(arguments: argparse.Namespace) -> int:
    """Audit, apply or plant, as asked; print tables and, last, what was written. Return 0."""
    if arguments.apply is not None:
        if arguments.runs or arguments.plant is not None:
            raise UserError("--apply takes the runs from the audit in --out; give neither runs nor --plant.")
        if arguments.out is None:
            raise UserError("Give --out, the folder of the audit whose page exported the decisions.")
        return _apply(arguments)
    if not arguments.runs:
        raise UserError("Name the runs to compare, as in prompter audit runs/a runs/b --out audits/first.")
    if arguments.page < 1 or arguments.rounds < 1:
        raise UserError("--page and --rounds must be at least 1.")
    if arguments.plant is not None and not 0 < arguments.plant <= 0.5:
        raise UserError(f"--plant is a share of the labels, above 0 and up to 0.5, but is {arguments.plant}.")
    if arguments.order == "segmenter" and arguments.executor is None:
        raise UserError("--order segmenter needs a segmenter: give --executor.")
    if arguments.plant is None and arguments.out is None:
        raise UserError("Give --out, a folder for the queue and the page.")
    return _audit(arguments)


def _audit(arguments: argparse.Namespace) -> int:
    from eval.audit.evidence import gather
    from eval.audit.predictors import aligned, open_runs, shortest
    from eval.audit.ranking import build_queue
    from eval.audit.redraw import redraw
    from recipes.commands.arguments import executor_name, open_as_run, opened_executors, parse_executor

    audited = open_runs(arguments.runs)
    fewest, most = shortest(audited.predictors)
    if fewest < most:
        print(f"The first {fewest} queries are audited: the runs hold {fewest} to {most}.")
    evidence = list(gather(aligned(audited.predictors), audited.predictors, len(audited.policies)))
    if not evidence:
        raise UserError("The runs share no query; evaluate them on the same benchmark.")
    source = open_as_run(audited.asked, trust=arguments.trust)
    if source is None and arguments.executor is not None:
        raise UserError("A segmenter needs the images of the benchmark; add --trust if you know its code.")
    samples = _ById([] if source is None else source, [one.sample_id for one in evidence])
    named = arguments.executor
    config = None if named is None else parse_executor(named, **arguments.executor_fields)
    with opened_executors([] if config is None else [config]) as executors:
        executor = next(iter(executors.values()), None)
        if executor is not None:
            evidence = list(redraw(evidence, samples, executor))
        if arguments.plant is not None:
            return _plant(arguments, evidence, samples, executor)
    queue = build_queue(
        audited,
        [run.resolve() for run in arguments.runs],
        evidence,
        None if config is None else executor_name(config),
        arguments.order,
    )
    _write(queue, samples, arguments)
    return 0


def _write(queue: Queue, samples: Mapping[str, Sample], arguments: argparse.Namespace) -> None:
    """Write the queue and the page, and print what was found."""
    from eval.audit.page import render_page
    from eval.audit.queue import write_queue
    from prompter.runs.files import atomic_write

    write_queue(arguments.out, queue)
    page = arguments.out / "audit.html"
    with atomic_write(page) as handle:
        handle.write(render_page(queue, queue.entries[: arguments.page], samples))
    tell(out=arguments.out, page=page, audit=queue.key, queries=len(queue.entries))
    print(_summary(queue))
    print(page)


def _summary(queue: Queue) -> str:
    from eval.figures import percent

    facts = queue.facts
    rows = [["predictor", "policy", "gIoU"]]
    for one in facts["predictors"]:
        rows.append([one["name"], facts["policies"][one["policy"]], percent(one["gIoU"])])
    lines = [
        f"{facts['benchmark']}: {facts['queries']} queries",
        *text_table(rows),
        "",
        "first in the queue:",
    ]
    rows = [["", "suspicion", "because of", "kind", "sample", "query"]]
    for entry in queue.entries[:10]:
        rows.append(
            [
                str(entry.rank),
                f"{entry.suspicion:.2f}",
                entry.because,
                entry.kind,
                entry.sample_id,
                entry.query if len(entry.query) <= 50 else entry.query[:49] + "…",
            ]
        )
    lines += text_table(rows)
    if len(facts["policies"]) == 1:
        lines.append(
            "Only one policy: segmenters that are asked alike agree alike; add runs of other policies."
        )
    return "\n".join(lines)


def _plant(
    arguments: argparse.Namespace,
    evidence: Sequence[Evidence],
    samples: Mapping[str, Sample],
    executor: Executor | None,
) -> int:
    """Measure the queue on planted faults; print the table, and write `planted.json` if there is a folder."""
    from eval.audit.ranking import measure_planted
    from eval.figures import percent
    from prompter.runs.files import atomic_write

    seeds = range(arguments.seed, arguments.seed + arguments.rounds)
    found = measure_planted(evidence, arguments.plant, seeds, samples, executor)
    rows = [["planted fault", "planted", f"in the first {found['head']}", "share"]]
    for kind, counts in [*found["kinds"].items(), ("all", _added(found["kinds"].values()))]:
        share = f"{100 * counts['found'] / counts['planted']:.0f} %" if counts["planted"] else "-"
        rows.append([kind, str(counts["planted"]), str(counts["found"]), share])
    tell(out=arguments.out, share=arguments.plant, seed=arguments.seed, planted=found)
    print("\n".join(text_table(rows, numbers=True)))
    rows = [["ordered by", "found"], *([name, percent(one)] for name, one in found["orders"].items())]
    print("\n".join(["", *text_table(rows, numbers=True), ""]))
    print(
        f"{len(evidence)} queries, {found['rounds']} rounds of {100 * arguments.plant:g} % spoilt labels each"
    )
    if arguments.out is not None:
        path = arguments.out / "planted.json"
        with atomic_write(path) as handle:
            json.dump({"share": arguments.plant, "seed": arguments.seed, **found}, handle, indent=1)
            handle.write("\n")
        print(path)
    return 0


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    several = list(counts)
    return {name: sum(one[name] for one in several) for name in ("planted", "found")}


def _apply(arguments: argparse.Namespace) -> int:
    from eval.audit.both_scores import both_scores_text, score_both
    from eval.audit.decisions import read_decisions
    from eval.audit.predictors import open_runs
    from eval.audit.queue import read_queue
    from eval.audit.repair import MANIFEST, repair_of, write_repaired
    from prompter.runs.files import atomic_write
    from recipes.commands.arguments import open_as_run

    queue = read_queue(arguments.out)
    decisions = read_decisions(arguments.apply, queue.key)
    entries = {entry.sample_id: entry for entry in queue.entries}
    repair = repair_of(entries, decisions)
    audited = open_runs([Path(run) for run in queue.facts["runs"]])
    samples = open_as_run(audited.asked, trust=arguments.trust)
    if samples is None:
        raise UserError(
            "A repaired split needs the images of the benchmark; add --trust if you know its code."
        )
    folder = arguments.out / "repaired"
    counts = write_repaired(
        samples,
        entries,
        decisions,
        folder,
        audit=queue.key,
        benchmark=audited.benchmark,
        predictors=tuple(one.name for one in audited.predictors),
    )
    print(", ".join(f"{verdict} {count}" for verdict, count in counts.items()))
    scores = score_both(audited.predictors, entries, decisions, repair)
    tell(out=arguments.out, audit=queue.key, decisions=counts, predictors=scores, manifest=folder / MANIFEST)
    print(both_scores_text(scores))
    with atomic_write(arguments.out / "scores.json") as handle:
        json.dump({"audit": queue.key, "decisions": counts, "predictors": scores}, handle, indent=1)
        handle.write("\n")
    print(arguments.out / "scores.json")
    print(folder / MANIFEST)
    return 0


class _ById(Mapping[str, Any]):
    """The samples of a source by id, each made when it is asked for.

    Args:
        source: the split, in the order of `names`; those beyond its end are missing.
        names: sample ids in the order of the rollouts.
    """

    def __init__(self, source: Samples, names: Sequence[str]) -> None:
        self._source = source
        self._places = {name: place for place, name in enumerate(names[: len(source)])}

    def __getitem__(self, name: str) -> Sample:
        sample = self._source[self._places[name]]
        if sample.sample_id != name:
            raise UserError(
                f"The runs ask about sample {name!r} where the benchmark now holds {sample.sample_id!r}; "
                f"was it changed since they were evaluated?"
            )
        return sample

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
