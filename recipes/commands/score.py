"""Score predictions that any program made, under every protocol, with intervals.

    prompter score preds.json --benchmark earthreason:test --label "My model" --out runs/mine
    prompter score masks/ --benchmark earthreason:test --out runs/mine
    prompter score --questions questions.jsonl --benchmark earthreason:test

Predictions are COCO's results (a JSON array of {"sample_id", "segmentation": RLE or polygons, "score"}), the
same as JSON Lines, a file of our rollouts, or a folder of PNG masks named after the samples. Every sample
needs one: `"segmentation": []`, or an empty mask, says that nothing is there. What does not fit is an error,
unless a flag says otherwise; then it is counted. The folder is like any evaluation's: `prompter report`,
`prompter leaderboard` and `prompter eval --rescore` take it. The forms in full: docs/submitting.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from envs.sample import first_samples
from eval.protocols import PROTOCOLS, get_protocols
from eval.results import rescore, results_text
from eval.submission.export import write_questions
from eval.submission.matching import read_id_map
from eval.submission.records import RecordRules
from eval.submission.scoring import SubmissionRules, submit
from prompter.errors import UserError
from recipes.commands import flags
from recipes.commands.arguments import OWN_MASKS, open_benchmark, run_identity
from recipes.commands.eval import write_evaluation_report
from recipes.commands.output import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "predictions", nargs="?", type=Path, help="a JSON or JSON Lines file, or a folder of PNGs"
    )
    flags.add_benchmark(parser)
    flags.add_dataset_flags(parser)
    flags.add_out(parser, "new run folder")
    parser.add_argument(
        "--protocol",
        metavar="A,B,…",
        help=f"of {', '.join(PROTOCOLS)} (default: all that the predictions can be scored by)",
    )
    flags.add_limit(parser)
    parser.add_argument("--ids", type=Path, metavar="FILE", help="a JSON object: your id -> the sample's id")
    parser.add_argument(
        "--missing",
        choices=("error", "empty", "skip"),
        default="error",
        help="samples without a prediction: refuse, count as empty answers, or leave out (default: error)",
    )
    parser.add_argument(
        "--unknown",
        choices=("error", "skip"),
        default="error",
        help="predictions for no sample of the benchmark: refuse, or leave out (default: error)",
    )
    parser.add_argument(
        "--wrong-size",
        choices=("error", "resize"),
        default="error",
        help="masks of another size than their image: refuse, or resize by nearest pixel (default: error)",
    )
    parser.add_argument(
        "--png-objects",
        choices=("files", "labels"),
        default="files",
        help="several objects of a sample: a PNG each, ID_1.png …, or values of one PNG (default: files)",
    )
    parser.add_argument(
        "--mask-values",
        metavar="RULE",
        help="values of a PNG that are the object: nonzero, above:127, 1,2 …",
    )
    parser.add_argument("--min-score", type=float, metavar="S", help="leave out objects with a lower score")
    parser.add_argument("--label", help="name in leaderboards (default: the file's name)")
    parser.add_argument("--training", choices=("trained-on", "zero-shot", "unstated"), default="unstated")
    parser.add_argument(
        "--questions", type=Path, metavar="FILE", help="only write the benchmark's questions with their ids"
    )


def run(arguments: argparse.Namespace) -> int:
    """Score and print tables, what was made an exception of, and the path of the report; return 0."""
    if not arguments.benchmark:
        raise UserError("Give --benchmark; `prompter score --help` shows examples.")
    source = open_benchmark(arguments, arguments.benchmark)
    if arguments.questions is not None:
        count = write_questions(first_samples(source, arguments.limit), arguments.questions)
        tell(questions=count, file=arguments.questions)
        print(f"{count} questions: {arguments.questions}")
        return 0
    if arguments.predictions is None or arguments.out is None:
        raise UserError("Give the predictions and --out; `prompter score --help` shows examples.")
    named = ",".join(PROTOCOLS) if arguments.protocol is None else arguments.protocol
    protocols = [name.strip() for name in named.split(",") if name.strip()]
    text_rules = [one.name for one in get_protocols(protocols) if one.reads_text]
    policy = f"predictions:{arguments.predictions.name}"
    config = {
        **run_identity(arguments, arguments.benchmark, policy, {}, [None]),
        "label": arguments.label,
        "training": arguments.training,
        **{
            name: getattr(arguments, name)
            for name in ("missing", "unknown", "wrong_size", "png_objects", "mask_values", "min_score")
        },
        "ids": None if arguments.ids is None else str(arguments.ids),
    }
    done = submit(
        arguments.predictions,
        source,
        arguments.out,
        executor=OWN_MASKS,
        config=config,
        rules=SubmissionRules(
            missing=arguments.missing,
            unknown=arguments.unknown,
            numbering=arguments.png_objects,
            reading=RecordRules(
                resize=arguments.wrong_size == "resize",
                min_score=arguments.min_score,
                mask_values=arguments.mask_values,
            ),
        ),
        id_map=None if arguments.ids is None else read_id_map(arguments.ids),
        limit=arguments.limit,
    )
    exceptions = list(done.exceptions)
    if text_rules and not done.has_text and arguments.protocol is None:
        protocols = [name for name in protocols if name not in text_rules]
        exceptions.append(f"no prediction has a `text`, which {', '.join(text_rules)} read: left out")
    results = rescore(done.folder, protocols)
    print(f"{arguments.benchmark}\n{results_text(results)}")
    for sentence in exceptions:
        print(f"  {sentence}")
    page = write_evaluation_report(done.folder, samples=source)
    tell(run=done.folder.path, report=page, results=results, exceptions=exceptions)
    print(page)
    return 0
