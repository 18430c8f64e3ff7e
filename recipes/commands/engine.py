"""Make a data set from images: masks by a frozen segmenter, filtered; questions about them; people's review.

    prompter engine tiles -o set --boxes boxes.jsonl --executor mobile-sam
    prompter engine tiles -o set --boxes boxes.jsonl --executor mobile-sam --inside \\
        --reference aerial-buildings:train --reference-category building --rule deviations=3
    prompter engine tiles -o set --ask http://127.0.0.1:8000/v1#MODEL --categories "building,tree,car"
    prompter engine -o set --review
    prompter engine -o set --reviewed

A killed engine goes on when the same command is run again, and gives the same set. It opens as
`manifest:NAME` (--dataset-option path=set/manifest.jsonl) and as `lasers:train` (--root set).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompter.errors import UserError
from recipes.commands import flags
from recipes.commands.output import tell

if TYPE_CHECKING:
    from recipes.engine.settings import EngineSettings
    from recipes.engine.shapes import Reference
    from recipes.engine.store import EngineFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("images", nargs="?", type=Path, help="folder of images, also those below it")
    flags.add_out(parser, "folder of the set", required=True)
    flags.add_limit(parser, "images")
    flags.add_executor(parser, default="mobile-sam")
    masks = parser.add_argument_group("masks")
    masks.add_argument("--boxes", type=Path, metavar="FILE", help="detections: COCO .json, .csv or .jsonl")
    masks.add_argument(
        "--grid", type=int, default=4, help="points a side over an image; 0: none (default: 4)"
    )
    masks.add_argument("--inside", action="store_true", help="also a grid inside each box, for parts")
    masks.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a filter's bound, as in stability=0.95; repeatable",
    )
    masks.add_argument("--reference", metavar="NAME:SPLIT", help="set whose masks bound the shapes")
    masks.add_argument("--reference-category", default="", help="category of a reference without categories")
    asking = parser.add_argument_group("questions")
    asking.add_argument("--unique", action="store_true", help="only of categories an image shows one of")
    asking.add_argument(
        "--questions", type=int, default=8, help="most targets asked about in an image (default: 8)"
    )
    asking.add_argument("--rephrasings", type=int, default=3, help="wordings of each, 1 to 3 (default: 3)")
    asking.add_argument("--ask", metavar="URL#MODEL", help="an OpenAI-compatible model that names and asks")
    asking.add_argument(
        "--ask-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how it is reached, as in concurrency=8; repeatable",
    )
    asking.add_argument(
        "--categories", default="", metavar="A,B,…", help="what the model may name other masks"
    )
    asking.add_argument(
        "--test-share", type=float, default=0.0, help="share of the images held out (default: 0)"
    )
    flags.add_seed(asking, "what is asked")
    review = parser.add_argument_group("review")
    review.add_argument("--review", action="store_true", help="open the page in which people judge the set")
    review.add_argument("--port", type=int, default=8765, help="of that page on this machine (default: 8765)")
    review.add_argument("--reviewed", action="store_true", help="keep only what passed the review")


def run(arguments: argparse.Namespace) -> int:
    """Work, or open the page of the review; print the summary. Return 0."""
    from recipes.engine.assemble import assemble, worked_on
    from recipes.engine.review import read_verdicts, serve
    from recipes.engine.store import EngineFolder

    folder = EngineFolder(arguments.out)
    if arguments.review:
        folder.settings()
        serve(folder, worked_on(folder), arguments.port)
        return 0
    if arguments.images is None:
        folder.settings()
        names = worked_on(folder)
    else:
        names = _work(arguments, folder)
    verdicts = read_verdicts(folder)
    summary = assemble(folder, arguments.images, names, verdicts, reviewed=arguments.reviewed)
    tell(out=folder.path, summary=summary)
    print("\n".join(summary_lines(summary)))
    print(folder.path)
    return 0


def _work(arguments: argparse.Namespace, folder: EngineFolder) -> list[str]:
    """Propose, filter and ask; return the names of the images."""
    from tqdm import tqdm

    from envs.executors import open_executor
    from prompter.runs.values import read_options
    from recipes.commands.arguments import parse_executor
    from recipes.engine.ask import Model
    from recipes.engine.detections import of_image, read_detections
    from recipes.engine.run import Engine, image_names

    names = image_names(arguments.images)[: arguments.limit]
    config = parse_executor(arguments.executor, **arguments.executor_fields)
    detections = {} if arguments.boxes is None else read_detections(arguments.boxes)
    if detections and not any(of_image(detections, name) for name in names):
        raise UserError(
            f"{arguments.boxes} names none of the images in {arguments.images}, such as {names[0]}; "
            f"its first is {next(iter(detections))!r}."
        )
    settings = _settings(arguments, config, read_options(arguments.ask_option, "--ask-option"))
    if not detections and not (settings.ask and settings.categories):
        raise UserError(
            "Nothing would be asked: categories come from --boxes, or from --ask with --categories."
        )
    folder.begin(settings)
    model = None
    if settings.ask is not None:
        model = Model(settings.ask, settings.ask_options, folder.path / "work/replies", settings.seed)
    engine = Engine(
        folder,
        arguments.images,
        settings,
        detections,
        _references(arguments),
        lambda: open_executor(config),
        model,
    )
    try:
        engine.work(names, lambda names: tqdm(names, unit="image", disable=not sys.stderr.isatty()))
    finally:
        if model is not None:
            model.close()
    return names


def _settings(arguments: argparse.Namespace, executor: Any, ask_options: dict[str, Any]) -> EngineSettings:
    from prompter.runs.files import sha256_of
    from prompter.runs.values import read_options
    from recipes.commands.arguments import executors_identity
    from recipes.engine.settings import EngineSettings

    (identity,) = executors_identity([executor]).values()
    return EngineSettings.model_validate(
        {
            "executor": identity,
            "grid": arguments.grid,
            "inside": arguments.inside,
            "boxes": None if arguments.boxes is None else sha256_of(arguments.boxes),
            "rules": read_options(arguments.rule, "--rule"),
            "reference": arguments.reference,
            "reference_category": arguments.reference_category,
            "unique": arguments.unique,
            "ask": arguments.ask,
            "ask_options": ask_options,
            "categories": [one.strip() for one in arguments.categories.split(",") if one.strip()],
            "questions": arguments.questions,
            "rephrasings": arguments.rephrasings,
            "test_share": arguments.test_share,
            "seed": arguments.seed,
        }
    )


def _references(arguments: argparse.Namespace) -> dict[str, Reference]:
    if arguments.reference is None:
        return {}
    from envs.datasets.registry import open_dataset, split_name
    from recipes.engine.shapes import references

    name, split = split_name(arguments.reference)
    if not split:
        raise UserError(f"--reference {arguments.reference} names no split, as in {name}:train.")
    return references(open_dataset(name, split), arguments.reference_category)


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """The summary as lines: what was proposed, removed by each rule, kept, asked and reviewed."""
    masks, questions, review = summary["masks"], summary["questions"], summary["review"]

    def counts(found: dict[str, int]) -> str:
        return ", ".join(f"{count} {name}" for name, count in found.items() if count) or "none"

    proposed = {name: count for name, count in masks["proposed"].items() if name != "empty"}
    total = sum(masks["proposed"].values())
    shape = f" (shape by {counts(masks['shape'])})" if masks["shape"] else ""
    lines = [
        f"{summary['images']} images, {total} prompts: {counts(proposed)}",
        f"removed: {counts(masks['removed'])}{shape}",
        f"kept: {masks['kept']} masks, {masks['with a category']} with a category",
        f"samples: {questions['samples']} on {questions['images']} images",
        *(f"  {axis}: {counts(found)}" for axis, found in questions["axes"].items()),
    ]
    if questions["replies not used"]:
        lines.append(f"replies not used: {json.dumps(questions['replies not used'], ensure_ascii=False)}")
    if review["reviewed"]:
        lines.append(f"reviewed: {review['reviewed']} of {review['samples']}, passed {review['passed']}")
    return lines
