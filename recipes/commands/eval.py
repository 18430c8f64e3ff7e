"""Measure a policy on benchmarks, with any segmenters and under any protocols; or score a run again.

    prompter eval --benchmark earthreason:test --policy Qwen/Qwen2.5-VL-3B-Instruct \\
        --executor mobile-sam --protocol strict,think2seg --out runs/earthreason
    prompter eval --benchmark synthetic-aerial:test --policy baseline:oracle-box --executor box --out runs/top
    prompter eval --benchmark reasonseg:val --policy openai:http://127.0.0.1:8000/v1#qwen \\
        --executor mobile-sam --out runs/served
    prompter eval --rescore --protocol lisa,rela --out runs/earthreason
    prompter eval --benchmark synthetic-aerial:test --policy shipped:small-policy --executor mobile-sam \\
        --samples 16 --combine consensus --out runs/looks
    prompter eval --invariance --benchmark synthetic-aerial:test --policy shipped:small-policy \\
        --executor mobile-sam --limit 240 --out runs/invariance

A killed run is resumed by running the same command again. Policies: a checkpoint folder or hub id,
baseline:NAME, openai:URL#MODEL, sam3:FOLDER_OR_ID (which brings its own masks: --executor own-masks).
Segmenters: FAMILY[:MODEL][,key=value…], repeated for several in one pass. Wherever a name is taken,
MODULE:CALLABLE is taken as well: see docs/extending.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from envs.datasets import split_name
from envs.datasets.reading.records import told
from envs.executors.config import SEGMENTER_FAMILIES
from eval.answerers import build_answerer
from eval.answerers.base import Answerer
from eval.answerers.baselines import BASELINES
from eval.looks.combining import check_calibration
from eval.looks.records import looks_files
from eval.looks.rules import RULES
from eval.probe.run import PROBE_FILE, is_known, policy_of, probe, verdict_sentence
from eval.protocols import PROTOCOLS, get_protocols
from eval.report.run_page import ReportInput, write_report
from eval.results import evaluation_files, read_results, rescore, results_text, unfinished_sentence
from eval.runner import EvaluationRun, evaluate
from eval.viewer.groups import MOST_ROLLOUTS, Shown, joined, look_groups, question_groups
from prompter.dialects import DIALECTS
from prompter.errors import UserError
from prompter.prompt_text import read_prompt_file
from prompter.runs.memory import peak_memory_mb
from prompter.runs.run_folder import RunFolder
from prompter.runs.values import read_options
from recipes.commands import flags
from recipes.commands.arguments import (
    executor_name,
    open_as_run,
    open_benchmark,
    opened,
    parse_segmenters,
    run_identity,
)
from recipes.commands.compare import by_segmenter, print_pairs
from recipes.commands.invariance import run_invariance
from recipes.commands.looks import add_look_flags, combination, combine_looks, look_settings
from recipes.commands.output import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    flags.add_benchmark(parser, several=True)
    parser.add_argument(
        "--policy", help="checkpoint folder or hub id, baseline:NAME, openai:URL#MODEL, sam3:ID"
    )
    flags.add_policy_option(parser)
    flags.add_executor(parser, several=True)
    parser.add_argument(
        "--protocol", default="strict", metavar="A,B,…", help=f"of {', '.join(PROTOCOLS)} (default: strict)"
    )
    flags.add_out(parser, "run folder", required=True)
    flags.add_limit(parser)
    flags.add_chunk(parser)
    flags.add_dataset_flags(parser)
    parser.add_argument("--keep-instances", action="store_true", help="store one mask per predicted instance")
    parser.add_argument("--label", help="name of the policy in leaderboards")
    parser.add_argument("--training", choices=("trained-on", "zero-shot", "unstated"), default="unstated")
    parser.add_argument(
        "--invariance",
        action="store_true",
        help="evaluate at batch 1, 8 and 32, shuffled, by hf and vllm; list what differs (exit code 1)",
    )
    parser.add_argument(
        "--no-probe",
        action="store_true",
        help="do not ask a policy of unknown frame or dialect for squares first (see `prompter probe`)",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="RUN",
        help="compare with this evaluation of the same questions (see `prompter compare`), also on the page",
    )
    parser.add_argument("--rescore", action="store_true", help="score the rollouts in --out again; no model")
    add_look_flags(parser)
    parser.epilog = (
        f"families:\n{SEGMENTER_FAMILIES.listing()}\n\nbaselines:\n{BASELINES.listing()}\n\n"
        f"dialects (--policy-option reads=NAME):\n{DIALECTS.listing()}\n\n"
        f"rules (--combine):\n{RULES.listing()}"
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate or re-score; print tables and, last, the path of each report. Return 0."""
    protocols = [name.strip() for name in arguments.protocol.split(",") if name.strip()]
    get_protocols(protocols)  # refuses unknown names before anything is loaded
    looks = look_settings(arguments)
    if arguments.rescore:
        for found in _evaluations(arguments.out):
            combine_looks(arguments, found)
            results = rescore(found, protocols)
            tell(**{str(found.path): {"run": found.path, "results": results}})
            print(f"{found.path}\n{results_text(results)}")
        return 0
    for name in ("benchmark", "policy", "executor"):
        if not getattr(arguments, name):
            raise UserError(f"Give --{name}; `prompter eval --help` shows examples.")
    if arguments.chunk < 1:
        raise UserError(f"--chunk must be at least 1, but is {arguments.chunk}.")
    segmenters = parse_segmenters(arguments)
    if looks is not None:
        check_calibration(combination(arguments), looks.samples, list(map(executor_name, segmenters)))
    against = None if arguments.against is None else _other(arguments)
    targets = [(text, _folder(arguments, text)) for text in dict.fromkeys(arguments.benchmark)]
    sources = [(open_benchmark(arguments, text), text, folder) for text, folder in targets]
    options = read_prompt_file(read_options(arguments.policy_option, "--policy-option"))
    if arguments.invariance:
        return run_invariance(arguments, sources, segmenters, options)
    reports = []
    with closing(build_answerer(arguments.policy, options)) as answerer, opened(segmenters) as named:
        notes = _probed(answerer, options, [folder for _, _, folder in sources], skip=arguments.no_probe)
        for source, text, folder in sources:
            identity = {
                **run_identity(arguments, text, arguments.policy, options, segmenters),
                "label": arguments.label,
                "training": arguments.training,
            }
            done = evaluate(
                source,
                answerer,
                named,
                folder,
                config=identity,
                limit=arguments.limit,
                chunk=arguments.chunk,
                keep_instances=arguments.keep_instances,
                notes=notes,
                looks=looks,
            )
            if looks is not None:
                combine_looks(arguments, done.folder)
            reports.append(_finish(done, source, text, protocols, against))
    print(f"peak memory {peak_memory_mb():.0f} MB, scoring and report included")
    for report in reports:
        print(report)
    return 0


def _probed(
    answerer: Answerer, options: Mapping[str, Any], folders: Sequence[Path], *, skip: bool
) -> dict[str, dict[str, Any]]:
    """Probe a policy whose frame or dialect nobody stated, once; warn where it contradicts its settings.

    Returns:
        What to keep beside each evaluation; nothing if the policy is known or all of them are resumed.
    """
    policy = policy_of(answerer)
    if skip or policy is None or is_known(policy, options):
        return {}
    if all(RunFolder(folder).config_path.exists() for folder in folders):
        return {}
    report = probe(answerer)
    print(f"probe: {verdict_sentence(report)}", file=sys.stderr)
    for sentence in report.contradictions:
        print(f"warning: {sentence}; the evaluation goes on as it is set.", file=sys.stderr)
    return {PROBE_FILE: report.to_json()}


def _other(arguments: argparse.Namespace) -> RunFolder:
    """The run to compare with, before anything is asked.

    Raises:
        UserError: if it is no evaluation, or there are several benchmarks to compare with one run.
    """
    if len(set(arguments.benchmark)) > 1:
        raise UserError("--against names one run, so give one --benchmark; or use `prompter compare` later.")
    other = RunFolder.open(arguments.against)
    evaluation_files(other)
    return other


def _finish(
    done: EvaluationRun, source: Any, benchmark: str, protocols: Sequence[str], against: RunFolder | None
) -> Path:
    """Score a finished run, print its tables, write its report with pictures of the first segmenter."""
    results = rescore(done.folder, protocols)
    print(f"{benchmark}\n{results_text(results)}")
    for line in told(source):
        print(f"  {line}")
    if against is not None:
        print_pairs(by_segmenter(f"{against.path} -> {done.folder.path}", against, done.folder))
    page = write_evaluation_report(done.folder, samples=source, against=against)
    tell(**{benchmark: {"run": done.folder.path, "report": page, "results": results}})
    return page


def write_evaluation_report(
    folder: RunFolder,
    title: str = "",
    *,
    samples: Any = None,
    trust: bool = False,
    against: RunFolder | None = None,
    beside: RunFolder | None = None,
    most: int = MOST_ROLLOUTS,
) -> Path:
    """Write `report.html` of a scored evaluation, with pictures of its first segmenter; return its path.

    Args:
        folder: as `prompter eval` leaves it.
        title: heading; "" names the benchmark.
        samples: the benchmark, if it is open; None opens it as the run's config says.
        trust: import the benchmark if the run's config names it as "module:callable"; without it, the
            pictures of such a run are drawn on grey.
        against: an evaluation of the same questions, shown as what was before.
        beside: a run whose configuration is set beside this one's; None for `against`.
        most: rollouts to leaf through.

    Raises:
        UserError: if the folder is no scored evaluation, or the benchmark cannot be opened.
    """
    results, config = read_results(folder), folder.read_config()
    benchmark = str(config.get("benchmark", ""))
    if not split_name(benchmark)[1]:
        raise UserError(f"{folder.config_path} names no benchmark; was it written by `prompter eval`?")
    if samples is None:
        samples = open_as_run(config, trust=trust)
    other = beside or against
    executor = next(iter(config.get("executors") or ()), None)
    rollouts = evaluation_files(folder)[0] if executor is None else folder.rollouts_path(executor)
    said = unfinished_sentence(results.get(rollouts.stem, {}))
    unfinished = f"{said}. " if said else ""
    return write_report(
        folder,
        ReportInput(
            title=title or f"Evaluation on {benchmark}",
            note=unfinished + f"Policy {config.get('label') or config['policy']}; "
            f"first figures and pictures: {rollouts.stem}.{_probe_note(folder.path)}"
            + ("" if against is None else f" Before: {against.path}."),
            after=rollouts,
            before=None if against is None else _before(against, folder, rollouts),
            samples=samples,
            results=results,
            config=config,
            rollouts=_leafed(folder, rollouts, samples, against, most=most),
            beside=None if other is None else (str(other.path), other.read_config()),
        ),
    )


def _before(against: RunFolder, folder: RunFolder, rollouts: Path) -> Path:
    """The other run's rollouts that belong beside some of this one's.

    Raises:
        UserError: if the other run was not made with this segmenter.
    """
    for pair in by_segmenter("", against, folder):
        if pair.after == rollouts:
            return pair.before
    raise UserError(f"{against.path} holds no rollouts of {rollouts.stem} to compare with.")


def _leafed(
    folder: RunFolder, rollouts: Path, samples: Any, against: RunFolder | None, *, most: int
) -> Shown:
    """All there is to leaf through: looks where there are any, else the answers of every segmenter."""
    if against is None and (every := looks_files(folder)):
        return joined(look_groups(path, path.stem, samples, most=most // len(every)) for path in every)
    if against is not None:
        runs = {"before": _before(against, folder, rollouts), "after": rollouts}
        return question_groups(runs, rollouts.stem, samples, most=most)
    return question_groups(
        {path.stem: path for path in evaluation_files(folder)}, "evaluation", samples, most=most
    )


def _probe_note(folder: Path) -> str:
    """What the probe of an evaluation found, for its page; "" if there was none."""
    path = folder / PROBE_FILE
    if not path.exists():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    return " ".join(
        [" The probe found", str(found["verdict"]), *(f"But {one}." for one in found["contradictions"])]
    )


def _evaluations(out: Path) -> list[RunFolder]:
    """The evaluation in a folder, or those in its subfolders (several benchmarks in one command)."""
    if (out / "config.yaml").exists() or not out.is_dir():
        return [RunFolder.open(out)]
    found = [RunFolder.open(path.parent) for path in sorted(out.glob("*/config.yaml"))]
    if not found:
        raise UserError(f"{out} holds no evaluation to score again.")
    return found


def _folder(arguments: argparse.Namespace, benchmark: str) -> Path:
    """Run folder of a benchmark: `--out` itself, or a subfolder of it when there are several."""
    several = len(set(arguments.benchmark)) > 1
    return arguments.out / benchmark.replace(":", "-") if several else arguments.out
