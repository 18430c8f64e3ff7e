"""Results of an evaluation: computed from rollouts alone, written once, printed as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.bootstrap import Bootstrap
from eval.choices import choice_lines, read_choices, summarise_choices
from eval.figures import with_interval
from eval.looks.records import looks_files
from eval.looks.summary import summarise_looks
from eval.looks.text import looks_lines
from eval.metrics import score_file, summarise
from eval.premises import PremiseTally, premise_lines
from eval.protocols import get_protocols
from prompter.errors import UserError
from prompter.runs.files import atomic_write
from prompter.runs.memory import give_back_memory
from prompter.runs.run_folder import RunFolder
from prompter.runs.tables import text_table

RESULTS = "results.json"


def rescore(
    folder: RunFolder, protocols: Sequence[str], bootstrap: Bootstrap | None = None
) -> dict[str, Any]:
    """Compute the results of a run from its rollout files and write them to `results.json`.

    No model is loaded. The same rollouts and settings give the same bytes. Where questions were looked at
    several times, a summary holds `looks` as well (`eval.looks.summary.summarise_looks`); where some
    questions have a false premise, `premises` (`eval.premises.PremiseTally.summary`); where masks were chosen
    among those on offer, `choice` (`eval.choices.summarise_choices`); where the run is not finished, `asked`,
    the number of its questions.

    Args:
        folder: a run folder with files of rollouts.
        protocols: names of `eval.protocols.PROTOCOLS`, or "module:object" as the user wrote it.
        bootstrap: settings of the intervals.

    Returns:
        executor -> `eval.metrics.summarise(...)`.

    Raises:
        UserError: if a protocol is unknown, or there are no rollouts.
    """
    chosen = get_protocols(protocols)
    choices = read_choices(folder)
    asked = folder.read_config().get("samples") if folder.config_path.exists() else None
    results = {}
    for path in evaluation_files(folder):
        tally = PremiseTally()
        table = score_file(path, chosen, tally.watch)
        results[path.stem] = summarise(table, chosen, bootstrap)
        if isinstance(asked, int) and len(table) < asked:
            results[path.stem]["asked"] = asked
        if (premises := tally.summary(bootstrap)) is not None:
            results[path.stem]["premises"] = premises
        if choices is not None:
            results[path.stem]["choice"] = summarise_choices(choices[: len(table)], table.images, bootstrap)
        if looks_files(folder):
            results[path.stem]["looks"] = summarise_looks(folder, path.stem, bootstrap)
        give_back_memory()
    with atomic_write(folder.path / RESULTS) as handle:
        json.dump(results, handle, indent=1, ensure_ascii=False)
        handle.write("\n")
    return results


def evaluation_files(folder: RunFolder) -> list[Path]:
    """The rollout files of an evaluation run, one per executor, by name.

    Raises:
        UserError: if there is none.
    """
    per_step = {path for _, path in folder.step_rollouts()}
    files = sorted(path for path in folder.rollouts_dir.glob("*.jsonl") if path not in per_step)
    if not files:
        raise UserError(f"{folder.path} holds no rollouts of an evaluation (rollouts/EXECUTOR.jsonl).")
    return files


def read_results(folder: RunFolder) -> dict[str, Any]:
    """Read `results.json` of a run.

    Raises:
        UserError: if it is missing or is not JSON.
    """
    path = folder.path / RESULTS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder.path} holds no {RESULTS}; evaluate it, or score it with --rescore."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); score the run again with --rescore.") from None


def unfinished_sentence(summary: Mapping[str, Any]) -> str:
    """That a run has not answered all its questions, of one segmenter's results; "" if it has."""
    if "asked" not in summary:
        return ""
    return (
        f"INCOMPLETE: {summary['queries']} of {summary['asked']} questions are answered; "
        f"the command that began this run finishes it"
    )


def results_text(results: Mapping[str, Any]) -> str:
    """The results as text tables: one row per executor and metric, a column per protocol."""
    lines = []
    for executor, summary in results.items():
        protocols = summary["protocols"]
        names = list(dict.fromkeys(name for one in protocols.values() for name in one["metrics"]))
        shown = [
            name
            for name in names
            if any(one["metrics"].get(name, {}).get("value") is not None for one in protocols.values())
        ]
        counts = f"{summary['queries']} queries on {summary['images']} images"
        if summary["no_target"]:
            counts += f", {summary['no_target']} without a target"
        lines.append(f"{executor}: {counts}")
        if said := unfinished_sentence(summary):
            lines.append(f"  {said}")
        if summary["executor_failures"]:
            lines.append(f"  INCOMPLETE: the segmenter failed on {summary['executor_failures']} queries")
        if summary["parse_failures"]:
            kinds = ", ".join(f"{kind} {count}" for kind, count in summary["parse_failures"].items())
            lines.append(f"  parse failures: {kinds}")
        if mended := summary.get("mended"):
            lines.append("  answers mended: " + ", ".join(f"{how} {count}" for how, count in mended.items()))
        rows = [["", *protocols]]
        for name in shown:
            row = [name]
            for one in protocols.values():
                row.append(with_interval(one["metrics"][name]) if name in one["metrics"] else "")
            rows.append(row)
        lines += [f"  {line}" for line in text_table(rows, numbers=True)]
        lines.append("  per cent; in brackets 95 % bootstrap intervals, drawing images")
        if "premises" in summary:
            lines += [f"  {line}" for line in premise_lines(summary["premises"])]
        if "choice" in summary:
            lines += [f"  {line}" for line in choice_lines(summary["choice"])]
        if "looks" in summary:
            lines += [f"  {line}" for line in looks_lines(summary["looks"])]
    return "\n".join(lines)
