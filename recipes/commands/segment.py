"""Ask a policy about images, and write masks, outlines and pictures of what it points at.

    prompter segment photo.jpg "where could a helicopter land?" -o answers --policy runs/mine/policy
    prompter segment photos "every car" -o answers --policy Qwen/Qwen2.5-VL-3B-Instruct \\
        --executor sam2:facebook/sam2.1-hiera-small --also "a place to park"
    prompter segment photo.jpg "the red roofs" -o answers --policy shipped:small-policy --executor box --json
    prompter segment photos "every car" -o answers --policy runs/mine/policy --samples 16

Images are files or folders; the question is the last word before the flags. OUT then holds:

    results.jsonl          one line for each image and question: prompts, objects, masks as run-lengths
    masks/NAME.png         0 and 255
    overlays/NAME.jpg      the image with masks and prompts
    geojson/NAME.geojson   an outline for each object, in pixels of the image, y down
    coco.json              all objects as a COCO dataset
    config.yaml, completions.jsonl, rollouts/    the run, as `prompter eval` keeps it; looks/ of --samples

A killed run is resumed by running the same command again. Files with a place on a map (GeoTIFF) are looked
at window by window, and what is found becomes polygons on the map: see `recipes.commands.segment_rasters`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from envs.datasets.reading.pixels.georeference import georeference_of
from envs.datasets.reading.rules import PILLOW_LIMIT, ReadingRules, applied
from eval.answerers import build_answerer
from eval.looks.combining import combine_run
from eval.runner import Samples, evaluate
from prompter.errors import UserError, did_you_mean
from prompter.prompt_text import read_prompt_file
from prompter.runs.values import read_options
from recipes.api.batch import (
    WRITTEN,
    Tally,
    digest_of,
    find_images,
    open_questions,
    questions_about,
    shared_folder,
    write_answers,
)
from recipes.api.load import checkpoint_options, thought_is_opened
from recipes.api.looks import Looks, with_objects
from recipes.api.result import Result
from recipes.commands import flags
from recipes.commands.arguments import executor_name, executors_identity, opened, parse_segmenters
from recipes.commands.looks import add_look_flags, combination, look_settings
from recipes.commands.output import tell
from recipes.commands.segment_rasters import (
    RASTER_FILES,
    add_raster_arguments,
    given_flags,
    is_raster,
    run_rasters,
)
from recipes.training.quiet import quiet
from rewards.replay import read_rollouts

CHUNK = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="an image file, or a folder of them"
    )
    parser.add_argument("question", metavar="QUESTION", help="what to look for")
    parser.add_argument(
        "--also", action="append", default=[], metavar="QUESTION", help="a further question; repeatable"
    )
    flags.add_out(parser, "folder of the answers", required=True)
    parser.add_argument(
        "--policy", help="checkpoint folder or hub id, shipped:NAME, openai:URL#MODEL, sam3:ID"
    )
    flags.add_policy_option(parser)
    flags.add_executor(parser, default="mobile-sam")
    parser.add_argument(
        "--write",
        metavar="A,B,…",
        help=f"which files besides results.jsonl: {','.join(WRITTEN)}; of rasters {','.join(RASTER_FILES)} "
        f"(default: all)",
    )
    parser.add_argument(
        "--stretch",
        default="refuse",
        metavar="RULE",
        help="how 16 bits or floats are seen: percentile, minmax, full, range:LOW:HIGH (default: refuse; "
        "of rasters percentile, for the whole file at once)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=PILLOW_LIMIT,
        metavar="N",
        help=f"larger images are refused (default: {PILLOW_LIMIT:,})",
    )
    flags.add_chunk(parser)
    parser.set_defaults(chunk=None)  # 32 for images; rasters have large windows, and many objects in them
    flags.add_skip_bad(parser)
    add_look_flags(parser, scored=False)
    add_raster_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask, segment and write; print what came of it and the folder. 1 if a segmenter failed, else 0."""
    if arguments.chunk is not None and arguments.chunk < 1:
        raise UserError(f"--chunk must be at least 1, but is {arguments.chunk}.")
    if (arguments.policy is None) == (arguments.prompts is None):
        raise UserError(
            "Name who answers: --policy, or --prompts for boxes and points of your own; not both."
        )
    queries = list(dict.fromkeys([arguments.question, *arguments.also]))
    for query in queries:
        if not query.strip():
            raise UserError("A question must not be empty.")
        if Path(query).is_file():
            raise UserError(f"The last word is the question, but {query!r} is a file; add what to look for.")
    images = find_images(arguments.images, leave_out=arguments.out)
    looks = _looks(arguments)
    if _are_rasters(arguments, images):
        if looks is not None:
            raise UserError("--samples is for plain images; the windows of a map are looked at once.")
        return run_rasters(arguments, images, queries, _parts(arguments.write, RASTER_FILES))
    parts = _parts(arguments.write, WRITTEN)
    questions = questions_about(images, queries)
    rules = ReadingRules(stretch=arguments.stretch, max_pixels=arguments.max_pixels)
    with applied(rules):
        source = open_questions(questions, skip_bad=arguments.skip_bad)
    identity = {
        "command": "segment",
        "folder": str(shared_folder(images)),
        "images": {"count": len(images), "digest": digest_of(questions)},
        "questions": queries,
        "stretch": arguments.stretch,
        "max_pixels": arguments.max_pixels,
        "skip_bad": arguments.skip_bad,
    }
    if looks is not None:
        identity["combination"] = asdict(looks.how)
    tally = _answered(arguments, source, identity, parts, looks)
    done = {"out": str(arguments.out), **asdict(tally), "left_out": source.skipped}
    tell(**done)
    for sentence in source.skipped:
        print(f"left out: {sentence}", file=sys.stderr)
    print(
        f"{done['answers']} answers: {done['objects']} objects; {done['refused']} say there is nothing, "
        f"{done['unreadable']} could not be read, {done['failed']} not segmented\n{arguments.out}"
    )
    return 1 if done["failed"] else 0


def _are_rasters(arguments: argparse.Namespace, images: Sequence[Path]) -> bool:
    """Whether the images are rasters; a flag that only rasters take makes them so."""
    if given_flags(arguments):
        return True
    rasters = [path for path in images if is_raster(path)]
    if rasters and len(rasters) < len(images):
        plain = next(path for path in images if path not in rasters)
        raise UserError(
            f"{rasters[0]} has a place on a map ({georeference_of(rasters[0])}), {plain} has none; ask about "
            f"maps and about plain images apart."
        )
    return bool(rasters)


def _parts(text: str | None, known: Sequence[str]) -> list[str]:
    parts = list(known) if text is None else [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if part not in known:
            raise UserError(f"--write: there is no {part!r}.{did_you_mean(part, known)}")
    return parts


def _looks(arguments: argparse.Namespace) -> Looks | None:
    """How often to look at each question, and what to make of it; None for once."""
    settings = look_settings(arguments)
    return None if settings is None else Looks.of(settings, combination(arguments))


def _answered(
    arguments: argparse.Namespace,
    source: Samples,
    identity: dict[str, Any],
    parts: list[str],
    looks: Looks | None,
) -> Tally:
    """Have every question answered, and write the files; what came of it."""
    quiet()
    arguments.executor = [arguments.executor]
    (config,) = parse_segmenters(arguments)
    if looks is not None:
        looks.calibration_of(executor_name(config))  # refused here, before anything is asked
    given = read_prompt_file(read_options(arguments.policy_option, "--policy-option"))
    options = checkpoint_options(arguments.policy, given)
    identity = {
        **identity,
        "policy": arguments.policy,
        "policy_options": options,
        "executors": executors_identity([config]),
    }
    with closing(build_answerer(arguments.policy, options)) as answerer, opened([config]) as named:
        done = evaluate(
            source,
            answerer,
            named,
            arguments.out,
            config=identity,
            chunk=CHUNK if arguments.chunk is None else arguments.chunk,
            keep_instances=True,
            progress=sys.stderr.isatty(),
            looks=None if looks is None else looks.settings,
        )
        opened_thought = thought_is_opened(answerer)
    file = done.folder.rollouts_path(executor_name(config))
    if looks is not None:
        combine_run(done.folder, looks.how)

    def results() -> Iterator[Result]:
        for number, rollout in enumerate(map(with_objects, read_rollouts(file))):
            yield Result(rollout, source[number].load_image, arguments.policy, thought_opened=opened_thought)

    return write_answers(results, arguments.out, parts)
