"""Measure a policy on benchmarks, with any segmenters and under any protocols; or score a run again.

    prompter eval --benchmark earthreason:test --policy Qwen/Qwen2.5-VL-3B-Instruct \\
        --executor mobile-sam --protocol strict,think2seg --out runs/earthreason
    prompter eval --benchmark synthetic-aerial:test --policy baseline:oracle-box --executor box --out runs/top
    prompter eval --benchmark reasonseg:val --policy openai:http://127.0.0.1:8000/v1#qwen \\
        --executor mobile-sam --out runs/served
    prompter eval --rescore --protocol lisa,rela --out runs/earthreason

A killed run is resumed by running the same command again. Policies: a checkpoint folder or hub id,
baseline:NAME, openai:URL#MODEL, sam3:FOLDER_OR_ID (which brings its own masks: --executor own-masks).
Segmenters: FAMILY[:MODEL][,key=value…], repeated for several in one pass.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from envs.datasets.registry import open_dataset, split_name
from envs.executors import open_executors, resolve_dtype
from envs.executors.config import ExecutorConfig
from envs.segmentation import Segmenter
from eval.answerers import build_answerer
from eval.own_masks import NAME as OWN_MASKS
from eval.own_masks import OwnMasks
from eval.protocols import PROTOCOLS, get_protocols
from eval.report import ReportInput, write_report
from eval.results import rescore, results_text
from eval.runner import EvaluationRun, evaluate
from prompter.config_files import describe_validation_error
from prompter.errors import UserError
from prompter.memory import peak_memory_mb
from prompter.run_folder import RunFolder

RESULT_FIELDS = ("family", "model", "revision", "dtype", "multimask", "mask_threshold", "cache_dtype")
"""Fields of an executor's config that change its masks, and so belong to a run's identity."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME:SPLIT",
        help="see `prompter data ls`; repeatable",
    )
    parser.add_argument(
        "--policy", help="checkpoint folder or hub id, baseline:NAME, openai:URL#MODEL, sam3:ID"
    )
    parser.add_argument(
        "--policy-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="dotted, as in image.side=840",
    )
    parser.add_argument(
        "--executor", action="append", default=[], metavar="FAMILY[:MODEL][,KEY=VALUE…]", help="repeatable"
    )
    parser.add_argument(
        "--protocol", default="strict", metavar="A,B,…", help=f"of {', '.join(PROTOCOLS)} (default: strict)"
    )
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--limit", type=int, help="only the first so many samples")
    parser.add_argument("--chunk", type=int, default=32, help="samples per batch (default: 32)")
    parser.add_argument("--dataset-option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--root", type=Path, help="where the dataset's files are")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out records that do not load; count them"
    )
    parser.add_argument("--keep-instances", action="store_true", help="store one mask per predicted instance")
    parser.add_argument("--label", help="name of the policy in leaderboards")
    parser.add_argument("--training", choices=("trained-on", "zero-shot", "unstated"), default="unstated")
    parser.add_argument("--rescore", action="store_true", help="score the rollouts in --out again; no model")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate or re-score; print tables and, last, the path of each report. Return 0."""
    protocols = [name.strip() for name in arguments.protocol.split(",") if name.strip()]
    get_protocols(protocols)  # refuses unknown names before anything is loaded
    if arguments.rescore:
        for found in _evaluations(arguments.out):
            print(f"{found.path}\n{results_text(rescore(found, protocols))}")
        return 0
    for name in ("benchmark", "policy", "executor"):
        if not getattr(arguments, name):
            raise UserError(f"Give --{name}; `prompter eval --help` shows examples.")
    if arguments.chunk < 1:
        raise UserError(f"--chunk must be at least 1, but is {arguments.chunk}.")
    segmenters = [parse_executor(text) for text in arguments.executor]
    targets = [(text, _folder(arguments, text)) for text in dict.fromkeys(arguments.benchmark)]
    sources = [(open_benchmark(arguments, text), text, folder) for text, folder in targets]
    options = parse_options(arguments.policy_option)
    reports = []
    with closing(build_answerer(arguments.policy, options)) as answerer, opened(segmenters) as named:
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
            )
            reports.append(_finish(done, source, text, protocols))
    print(f"peak memory {peak_memory_mb():.0f} MB, scoring and report included")
    for report in reports:
        print(report)
    return 0


def _finish(done: EvaluationRun, source: Any, benchmark: str, protocols: Sequence[str]) -> Path:
    """Score a finished run, print its tables, write its report with pictures of the first segmenter."""
    results = rescore(done.folder, protocols)
    print(f"{benchmark}\n{results_text(results)}")
    skipped = list(getattr(source, "skipped", ()))
    if skipped:
        print(f"  {len(skipped)} records left out; the first: {skipped[0]}")
    config = done.folder.read_config()
    executor, rollouts = next(iter(done.rollouts.items()))
    return write_report(
        done.folder,
        ReportInput(
            title=f"Evaluation on {benchmark}",
            note=f"Policy {config.get('label') or config['policy']}; first figures and pictures: {executor}.",
            after=rollouts,
            samples=source,
            results=results,
            config=config,
        ),
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


def open_benchmark(arguments: argparse.Namespace, text: str) -> Any:
    """Open `NAME:SPLIT` with the command's dataset options.

    Raises:
        UserError: if the split is missing, or the dataset cannot be opened.
    """
    name, split = split_name(text)
    if not split:
        raise UserError(f"Give the split as well, as in --benchmark {name}:test.")
    options: dict[str, Any] = dict(parse_options(arguments.dataset_option))
    if arguments.root is not None:
        options["root"] = arguments.root
    if arguments.skip_bad:
        options["skip_bad"] = True
    return open_dataset(name, split, **options)


def run_identity(
    arguments: argparse.Namespace,
    benchmark: str,
    policy: str,
    policy_options: Mapping[str, Any],
    segmenters: Sequence[ExecutorConfig | None],
) -> dict[str, Any]:
    """What makes a run this run, JSON-ready; a folder that holds another is not resumed."""
    return {
        "benchmark": benchmark,
        "dataset_options": parse_options(arguments.dataset_option),
        "policy": policy,
        "policy_options": dict(policy_options),
        "executors": {
            executor_name(config): {}
            if config is None
            else config.model_dump(mode="json", include=set(RESULT_FIELDS))
            for config in segmenters
        },
        "limit": arguments.limit,
        "skip_bad": arguments.skip_bad,
    }


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Read `dotted.key=value` texts into nested dicts; values are YAML (numbers, true, lists, text).

    Raises:
        UserError: if a text has no `=`, its value is not YAML, or a key is given twice.
    """
    result: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"An option is written KEY=VALUE, but {text!r} is not.")
        *path, last = key.split(".")
        place = result
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UserError(f"The option {key!r} is given as a value and as a section.")
        if last in place:
            raise UserError(f"The option {key!r} is given twice.")
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"The value of option {key!r} cannot be read: {value!r}.") from None
    return result


@contextmanager
def opened(segmenters: Sequence[ExecutorConfig | None]) -> Iterator[Mapping[str, Segmenter | OwnMasks]]:
    """Open segmenters by name and close them afterwards; None is `own-masks`."""
    configs = [config for config in segmenters if config is not None]
    executors = iter(open_executors(configs))
    named = {executor_name(one): OwnMasks() if one is None else next(executors) for one in segmenters}
    try:
        yield named
    finally:
        for segmenter in named.values():
            segmenter.close()


def parse_executor(text: str) -> ExecutorConfig | None:
    """Read `FAMILY[:MODEL][,key=value…]`, such as `sam2:facebook/sam2.1-hiera-small,device=cpu`.

    Returns:
        None for `own-masks`. `dtype=auto` is answered here, so that the type becomes part of the run's
        identity; a Ray pool answers it where its actors run.

    Raises:
        UserError: if the family or a key is unknown, or a value is bad.
    """
    if text == OWN_MASKS:
        return None
    head, *options = text.split(",")
    family, colon, model = head.partition(":")
    given: dict[str, Any] = {
        "family": family,
        **({"model": model} if colon else {}),
        **parse_options(options),
    }
    try:
        config = ExecutorConfig.model_validate(given)
    except ValidationError as error:
        raise UserError(f"--executor {text}: {describe_validation_error(error)}") from None
    return config if config.pool == "ray" else resolve_dtype(config)


def executor_name(config: ExecutorConfig | None) -> str:
    """Name of a segmenter in files and tables: family, model, and what else changes its masks."""
    if config is None:
        return OWN_MASKS
    plain = ExecutorConfig(family=config.family, model=config.model)
    changed = [
        f",{name}={getattr(config, name)}"
        for name in RESULT_FIELDS[2:]
        if getattr(config, name) != getattr(plain, name)
    ]
    return config.name + "".join(changed)
