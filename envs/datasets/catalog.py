"""The table of datasets: names, splits, published sizes, where they come from and how they lie on disk."""

from __future__ import annotations

from collections.abc import Mapping

from envs.datasets.registry import DatasetInfo

_SETS = (
    DatasetInfo(
        name="synthetic-aerial",
        title="procedural overhead scenes with exact masks, drawn from a seed",
        factory="envs.datasets.synthetic:SyntheticAerial",
        splits=("train", "val", "test"),
        source="made by this project",
        licence="Apache-2.0",
        needs_files=False,
        split_options={
            "train": {"scenes": 4000, "queries_per_scene": 6},
            "val": {"scenes": 200, "queries_per_scene": 6},
            "test": {"scenes": 200, "queries_per_scene": 6},
        },
    ),
    DatasetInfo(
        name="aerial-buildings",
        title="real 0.35 m orthophoto windows, buildings asked about by their geometry",
        factory="envs.datasets.aerial_buildings:open_aerial_buildings",
        splits=("train", "val", "test"),
        source="test data of the Python package pytorch-segmentation-models-trainer 1.4.0, fetched by name",
        licence="GPL-2.0 package, imagery without a licence of its own: do not redistribute",
        needs_files=False,
        split_options={"train": {"stride": 64}},
    ),
    DatasetInfo(
        name="manifest",
        title="your own data: one JSONL file, one question a line",
        factory="envs.datasets.manifest:open_manifest",
        splits=(),
        source="your own data",
        licence="your own",
        layout="""a JSONL file given as the option `path`, with paths relative to it; one object a line:
{"image": "a.jpg", "query": "the red roof", "mask": RLE | polygons | "mask.png" | null}
and optionally "instances", "boxes", "ignore", "tags" and "id".""",
    ),
)

CATALOG: Mapping[str, DatasetInfo] = {info.name: info for info in _SETS}
