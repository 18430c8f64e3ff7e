"""`prompter segment` about rasters that lie on a map, of any size: flags, files and what is said.

    prompter segment scene.tif "every roof" -o roofs --policy runs/mine/policy --executor mobile-sam
    prompter segment scene.tif "every field" -o fields --policy … --bands nir,red,green --band-map nir=4
    prompter segment scene.tif "every roof" -o roofs --prompts detections.gpkg --simplify 2 --regularize

OUT (for several rasters OUT/NAME) then holds

    objects.gpkg       an outline for each object, with attributes, in the raster's coordinates or --dst-crs
    objects.geojson    the same in longitude and latitude
    coco.json          exact masks, as run-lengths of the raster's size
    mask.tif           a cloud-optimised GeoTIFF: 0, or the number of the object
    raster.json        what was read, how it was seen, and what came of it
    windows-*/         the run, window by window, as `prompter eval` keeps it; scale-*/ of coarser looks

See docs/rasters.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.datasets.reading.pixels.georeference import georeference_of
from envs.datasets.reading.records import blaming
from envs.rasters.bands import COMPOSITES, chosen_bands
from envs.rasters.files import Raster, open_raster
from envs.rasters.view import RasterView, view_of
from envs.rasters.windows import Grid, Rect
from eval.answerers import build_answerer
from prompter.errors import UserError
from prompter.prompt_text import read_prompt_file
from prompter.runs.files import sha256_of
from prompter.runs.values import read_options
from recipes.api.load import checkpoint_options
from recipes.commands.arguments import executors_identity, opened, parse_segmenters
from recipes.commands.output import tell
from recipes.training.quiet import quiet

FLAGS = {
    "tile_size": None, "overlap": None, "bands": None, "band_map": None, "coarse_to_fine": False,
    "bbox": None, "bbox_crs": None, "dst_crs": None, "min_area": None, "score_threshold": None,
    "simplify": None, "regularize": False, "outline_iou": None, "prompts": None,
}  # fmt: skip
"""What only rasters take -> its value where it is not given."""

RASTER_FILES = ("gpkg", "geojson", "coco", "mask")
"""What can be written of a raster; the keys of `recipes.raster.writers.WRITERS`."""

TILE_SIZE, OVERLAP, OUTLINE_IOU, POLICY_CHUNK = 1024, 128, 0.9, 4


def add_raster_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what only rasters take; any of it makes a plain TIFF a raster, too."""
    group = parser.add_argument_group("rasters (files with a place on a map; any of these makes a file one)")
    group.add_argument(
        "--tile-size", type=int, metavar="N", help=f"pixels along a side of a window (default: {TILE_SIZE})"
    )
    group.add_argument(
        "--overlap", type=int, metavar="N", help=f"pixels that windows share (default: {OVERLAP})"
    )
    group.add_argument(
        "--bands",
        metavar="R,G,B",
        help=f"bands from 1, or their names, or one of {', '.join(COMPOSITES)} (default: as the file says)",
    )
    group.add_argument("--band-map", metavar="NAME=N,…", help="names of bands, as in red=3,nir=4")
    group.add_argument(
        "--coarse-to-fine",
        action="store_true",
        help="look at an overview first, then only at windows where it shows something",
    )
    group.add_argument(
        "--bbox",
        nargs=4,
        type=float,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="only objects that meet this rectangle, in the raster's coordinates (see --bbox-crs)",
    )
    group.add_argument("--bbox-crs", metavar="CRS", help="coordinate system of --bbox, as in EPSG:4326")
    group.add_argument(
        "--dst-crs", metavar="CRS", help="coordinate system of objects.gpkg (default: the raster's)"
    )
    group.add_argument("--min-area", type=float, metavar="M2", help="least area of an object, square metres")
    group.add_argument(
        "--score-threshold",
        type=float,
        metavar="S",
        help="least score of an object, the segmenter's estimate",
    )
    group.add_argument(
        "--simplify", type=float, metavar="PIXELS", help="largest distance of a simpler outline (default: 0)"
    )
    group.add_argument(
        "--regularize", action="store_true", help="turn edges to right angles, as buildings have"
    )
    group.add_argument(
        "--outline-iou",
        type=float,
        metavar="IOU",
        help=f"an outline that agrees less with the mask is left as it was (default: {OUTLINE_IOU})",
    )
    group.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="GeoPackage or GeoJSON whose shapes (their boxes) and points are the prompts; asks no policy",
    )


def given_flags(arguments: argparse.Namespace) -> list[str]:
    """Flags for rasters that were given, as they are written."""
    return [
        "--" + name.replace("_", "-") for name, unset in FLAGS.items() if getattr(arguments, name) != unset
    ]


def is_raster(path: Path) -> bool:
    """Whether a file has a place on a map, or only pretends to be a TIFF (which is then refused)."""
    if path.suffix.lower() == ".vrt":
        return True
    with blaming(f"image {path}"):
        if georeference_of(path) is not None:
            return True
        with open(path, "rb") as handle:
            return path.suffix.lower() in (".tif", ".tiff") and handle.read(64).lstrip().startswith(b"<")


@dataclass(frozen=True)
class _Job:
    """One raster, all that can be wrong with it found before a model is loaded."""

    view: RasterView
    grid: Grid
    place: Any
    extent: Rect | None
    prompts: Sequence[Any] | None
    out: Path


def run_rasters(
    arguments: argparse.Namespace, images: Sequence[Path], queries: Sequence[str], parts: Sequence[str]
) -> int:
    """Ask about each raster and write what was found; print it. 1 if something was left out, else 0."""
    if arguments.prompts is not None and (len(queries) > 1 or arguments.coarse_to_fine):
        flag = "--also" if len(queries) > 1 else "--coarse-to-fine"
        raise UserError(f"--prompts say already where to look, for one question; leave out {flag}.")
    jobs, left_out = [], []
    for path in images:
        try:
            jobs.append(_job(arguments, path, _folder(arguments.out, path, images)))
        except UserError as error:
            if not arguments.skip_bad or len(images) == 1:
                raise
            left_out.append(str(error))
    if not jobs:
        raise UserError(f"No raster could be read; the first: {left_out[0]}")
    quiet()
    arguments.executor = [arguments.executor]
    [config] = parse_segmenters(arguments)
    done: list[dict[str, Any]] = []
    identity: dict[str, Any] = {"executors": executors_identity([config])}
    with opened([config]) as named:
        if arguments.prompts is not None:
            identity["prompts"] = sha256_of(arguments.prompts)
            done = [_segmented(arguments, job, queries, parts, None, named, identity) for job in jobs]
        else:
            given = read_prompt_file(read_options(arguments.policy_option, "--policy-option"))
            options = checkpoint_options(arguments.policy, given)
            identity |= {"policy": arguments.policy, "policy_options": options}
            with closing(build_answerer(arguments.policy, options)) as answerer:
                done = [_segmented(arguments, job, queries, parts, answerer, named, identity) for job in jobs]
    _tell(arguments, done, left_out)
    return 1 if left_out or any(one["failed"] or one["left_out"] for one in done) else 0


def _folder(out: Path, path: Path, images: Sequence[Path]) -> Path:
    if len(images) == 1:
        return out
    if sum(other.stem == path.stem for other in images) > 1:
        raise UserError(f"Two rasters are called {path.stem}, and so would their folders be; rename one.")
    return out / path.stem


def _job(arguments: argparse.Namespace, path: Path, out: Path) -> _Job:
    from recipes.raster.outlines import CleanUp, Place
    from recipes.raster.prompts import read_prompts

    raster = open_raster(path)
    grid = Grid(
        raster.wh,
        TILE_SIZE if arguments.tile_size is None else arguments.tile_size,
        OVERLAP if arguments.overlap is None else arguments.overlap,
    )
    CleanUp(arguments.simplify or 0.0, arguments.regularize, _outline_iou(arguments))
    place = Place(raster, arguments.dst_crs)
    if arguments.min_area is not None and place.geodetic is None:
        raise UserError(
            f"--min-area counts square metres, but {path} has no place on the Earth; leave it out."
        )
    bands = chosen_bands(raster, arguments.bands, arguments.band_map)
    extent = None if arguments.bbox is None else _extent(arguments, raster, place)
    prompts = None if arguments.prompts is None else read_prompts(arguments.prompts, place)
    stretch = None if arguments.stretch == "refuse" else arguments.stretch
    return _Job(view_of(raster, bands, stretch), grid, place, extent, prompts, out)


def _chunk(arguments: argparse.Namespace) -> int:
    """Windows answered together; all masks of all of them are in memory at one time."""
    if arguments.chunk is not None:
        return int(arguments.chunk)
    return POLICY_CHUNK if arguments.prompts is None else 1


def _outline_iou(arguments: argparse.Namespace) -> float:
    return OUTLINE_IOU if arguments.outline_iou is None else float(arguments.outline_iou)


def _extent(arguments: argparse.Namespace, raster: Raster, place: Any) -> Rect:
    """--bbox as whole pixels of the raster, all that it touches."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import CRSError, ProjError
    from shapely.geometry import box

    x0, y0, x1, y1 = arguments.bbox
    if not (math.isfinite(x0 + y0 + x1 + y1) and x0 < x1 and y0 < y1):
        raise UserError(f"--bbox must be X0 Y0 X1 Y1 with X0 < X1 and Y0 < Y1, but is {arguments.bbox}.")
    if arguments.bbox_crs is not None:
        if place.crs is None:
            raise UserError(f"--bbox-crs: {raster.path} has no coordinate system; leave it out.")
        try:
            source = CRS.from_user_input(arguments.bbox_crs)
            transformer = Transformer.from_crs(source, place.crs, always_xy=True)
            x0, y0, x1, y1 = transformer.transform_bounds(x0, y0, x1, y1)
        except (CRSError, ProjError) as error:
            raise UserError(f"--bbox-crs {arguments.bbox_crs}: {str(error).splitlines()[0]}") from None
    bounds = place.to_pixels(box(x0, y0, x1, y1)).bounds
    width, height = raster.wh
    if not (bounds[0] < width and bounds[1] < height and bounds[2] > 0 and bounds[3] > 0):
        raise UserError(f"--bbox does not meet {raster.path}; is it in the raster's own coordinates?")
    left, top = max(0, math.floor(bounds[0])), max(0, math.floor(bounds[1]))
    return (left, top, min(width, math.ceil(bounds[2])), min(height, math.ceil(bounds[3])))


def _segmented(
    arguments: argparse.Namespace,
    job: _Job,
    queries: Sequence[str],
    parts: Sequence[str],
    answerer: Any,
    named: Any,
    identity: dict[str, Any],
) -> dict[str, Any]:
    """Ask about one raster and write what was found; what came of it, JSON-ready."""
    from recipes.raster.asking import Asking
    from recipes.raster.features import Describe, Keep
    from recipes.raster.outlines import CleanUp
    from recipes.raster.prompts import PromptedWindows
    from recipes.raster.run import Looking, look, run_id, write, write_summary

    raster = job.view.raster
    settings: dict[str, Any] = {
        "command": "segment raster",
        "raster": {
            "name": Path(raster.path).name,
            "bytes": Path(raster.path).stat().st_size,
            "wh": list(raster.wh),
        },
        "bands": list(job.view.bands),
        "ranges": [list(one) for one in job.view.ranges],
        "questions": list(queries),
        "tile_size": job.grid.side,
        "overlap": job.grid.overlap,
        "coarse_to_fine": arguments.coarse_to_fine,
        **identity,
    }
    prompted = None if job.prompts is None else PromptedWindows(job.prompts, job.grid)
    looking = Looking(
        job.grid, job.extent, arguments.coarse_to_fine, None if prompted is None else prompted.windows
    )
    asking = Asking(
        job.view,
        queries,
        prompted if prompted is not None else answerer,
        named,
        job.out,
        {**settings, "extent": job.extent and list(job.extent), "skip_bad": arguments.skip_bad},
        _chunk(arguments),
        skip_bad=arguments.skip_bad,
        progress=sys.stderr.isatty(),
    )
    stages = look(asking, looking)
    clean_up = CleanUp(arguments.simplify or 0.0, arguments.regularize, _outline_iou(arguments))
    written = {
        "simplify": clean_up.simplify,
        "regularize": clean_up.right_angles,
        "outline_iou": clean_up.least_iou,
        "min_area": arguments.min_area,
        "score_threshold": arguments.score_threshold,
        "dst_crs": arguments.dst_crs,
    }
    identifier = run_id({**settings, **written})
    keep = Keep(arguments.score_threshold, arguments.min_area, job.extent)
    policy = arguments.policy if prompted is None else f"prompts:{arguments.prompts.name}"
    [executor] = named
    describe = Describe(job.place, clean_up, keep, queries, policy, executor, identifier)
    came = write(
        stages,
        job.view,
        job.place,
        looking,
        describe,
        job.out,
        parts,
        skip_bad=arguments.skip_bad,
        progress=sys.stderr.isatty(),
    )
    summary = {
        "run_id": identifier,
        "windows": {"grid": sum(1 for _ in job.grid), "asked": sum(len(stage.windows) for stage in stages)},
        "objects": came.objects,
        "on_seams": came.on_seams,
        "empty": came.tally.empty,
        "unreadable": came.tally.unreadable,
        "failed": came.tally.failed,
        "left_out": [sentence for stage in stages for sentence in stage.left_out],
        "prompts_outside": prompted.outside if prompted is not None else 0,
        "notes": list(raster.notes),
        "settings": {**settings, **written, "extent": job.extent and list(job.extent)},
    }
    write_summary(job.out, summary)
    return {"out": str(job.out), **summary}


def _tell(arguments: argparse.Namespace, done: Sequence[dict[str, Any]], left_out: Sequence[str]) -> None:
    tell(out=arguments.out, rasters=done, left_out=left_out)
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    for one in done:
        for sentence in (*one["left_out"], *one["failed"]):
            print(f"left out: {sentence}", file=sys.stderr)
        for note in one["notes"]:
            print(f"note: {note}", file=sys.stderr)
        if one["prompts_outside"]:
            print(f"note: {one['prompts_outside']} prompts lie outside the raster", file=sys.stderr)
        windows = one["windows"]
        print(
            f"{sum(one['objects'].values())} objects, {one['on_seams']} of them seen in several windows; "
            f"{windows['asked']} of {windows['grid']} windows asked about, {len(one['unreadable'])} answers "
            f"could not be read\n{one['out']}"
        )
