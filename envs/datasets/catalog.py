"""The table of datasets: names, splits, published sizes, where they come from and how they lie on disk.

Sizes are those published. The ones marked "from memory" below could not be checked against a source
when they were written; a set that differs from them is reported by `prompter data check`, not refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a dataset before any of it is read.

    Args:
        name: what users type.
        title: one line for a listing.
        factory: "module:callable"; called as `callable(split, **options)`, imported on opening.
        splits: split names; empty when the user names the split.
        counts: published size per split, in `count_unit`s; a split that has no published size is absent.
        count_unit: what `counts` counts: "samples" (what `len` gives by default) or "images".
        source: hub id or project name, to find the set by.
        licence: as far as it is known.
        layout: the files expected below the root folder, as text to print.
        needs_files: False for a set that is drawn or fetched by itself and needs no `root`.
        split_options: split -> options that hold unless the caller gives others.
        tile: where images are windows of tiles, a regular expression that matches a whole image id, whose
            group 1 names the tile; "" where images are their own.
        copies_images: True where each question has an image file of its own, so that equal pictures are no
            fault.
        reading: the same for the rules of reading (`envs.datasets.reading.rules`), in all splits.
        as_published: code base -> options that read odd records as it does, so that its samples are those
            that are evaluated; a code base that reads as we do without options is absent.
    """

    name: str
    title: str
    factory: str
    splits: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    count_unit: str = "samples"
    source: str = ""
    licence: str = ""
    layout: str = ""
    needs_files: bool = True
    split_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    copies_images: bool = False
    as_published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tile: str = ""


_REFCOCO_LAYOUT = """\
<name>/refs(unc).p
<name>/instances.json
images/mscoco/images/train2014/             COCO's images
or as the option `root` a hub id: jxu124/refcoco-benchmark, lmms-lab/RefCOCO (plus, g); or their tables"""

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
        tile=r"(\d+)_x\d+_y\d+",
    ),
    DatasetInfo(
        name="spacenet-chip",
        title="real 0.5 m satellite windows of one wooded suburb, buildings asked about by their geometry",
        factory="envs.datasets.spacenet_chip:open_spacenet_chip",
        splits=("train", "test"),
        source="test data of the Python package solaris 0.4.0, fetched by name",
        licence="Apache-2.0 package, SpaceNet imagery CC BY-SA 4.0: do not redistribute here",
        needs_files=False,
    ),
    DatasetInfo(
        name="manifest",
        title="your own data: one JSONL file, one question a line",
        factory="envs.datasets.manifest:open_manifest",
        splits=(),
        source="your own data",
        licence="your own",
        layout="""\
a JSONL file given as the option `path`, with paths relative to it; one object a line:
{"image": "a.jpg", "query": "the red roof", "mask": RLE | polygons | "mask.png" | null}
and optionally "instances", "boxes", "ignore", "tags" and "id".""",
    ),
    DatasetInfo(
        name="earthreason",
        title="reasoning questions on satellite scenes, about six per image",
        factory="envs.datasets.earthreason:open_earthreason",
        splits=("train", "val", "test", "train_1shot", "train_5shot", "train_10shot"),
        counts={"train": 2371, "val": 1135, "test": 1928},
        count_unit="images",
        as_published={
            "SegEarth-R1": {"question": "first", "empty_answer": "label", "mask_size": "resize"},
            "Think2Seg-RS": {"question": "random:0", "empty_answer": "no_target", "mask_size": "resize"},
        },
        source="hub dataset earth-insights/EarthReason (project SegEarth-R1); as tables omlab/EarthReason-FS "
        "(train_1shot, train_5shot, train_10shot, val, test) and LCH1025/Earthreason_val, _test",
        licence="Apache-2.0 (second-hand)",
        layout="""\
{train,val,test}/images/<id>.(jpg|jpeg|png)
{train,val,test}/labels/<id>.png            non-zero is target
{train,val,test}/QAs/<id>.json              {"questions": [...], "answer": [...]}, [] for no target
or as the option `root` a hub id, or a folder of parquet, arrow or JSON lines with an image, questions
and a mask in each row; the option `columns` names columns that are not found""",
    ),
    DatasetInfo(
        name="rrsis-d",
        title="referring expressions on 800 x 800 DIOR images, 20 categories",
        factory="envs.datasets.rrsis_d:open_rrsis_d",
        splits=("train", "val", "test"),
        counts={"train": 12181, "val": 1740, "test": 3481},
        source="project RMSIN (Lsan2401/RMSIN)",
        licence="see the project; the DIOR images are for non-commercial use (second-hand)",
        layout="""\
rrsisd/refs(unc).p
rrsisd/instances.json                       "segmentation" is a list of one run-length encoding
images/rrsisd/JPEGImages/<n>.jpg""",
        as_published={
            "RMSIN": {"overlap": "reference", "mask_size": "resize"},
            "RSRefSeg2": {"mask_size": "resize"},
        },
    ),
    DatasetInfo(
        name="refsegrs",
        title="referring expressions on 512 x 512 aerial images",
        factory="envs.datasets.refsegrs:open_refsegrs",
        splits=("train", "val", "test"),
        counts={"train": 2172, "val": 431, "test": 1817},  # from memory
        source="hub dataset JessicaYuan/RefSegRS, a zip to unpack (project RRSIS of zhu-xlab)",
        licence="CC-BY-4.0 (second-hand)",
        layout="""\
images/<n>.tif
masks/<n>.tif
output_phrase_{train,val,test}.txt          lines "<n> <phrase>"
or as the option `root` a hub id, or a folder of tables with image, phrase and mask""",
    ),
    DatasetInfo(
        name="risbench",
        title="referring expressions on 512 x 512 DOTA and DIOR images",
        factory="envs.datasets.risbench:open_risbench",
        splits=("train", "val", "test"),
        counts={"train": 26300, "val": 10013, "test": 16159},
        copies_images=True,
        source="project CroBIM (HIT-SIRS/CroBIM)",
        licence="see the project",
        layout="""\
img_rgb/<f>.png                             or images/
mask/<f>.png                                or masks/
output_phrase_{train,val,test}.txt          lines "<f>.png <phrase>"; the val file names train_*.png
or as the option `root` a hub id, or a folder of tables with the columns image, mask, phrase""",
    ),
    DatasetInfo(
        name="lasers",
        title="complex instructions with several targets, tested along nine axes",
        factory="envs.datasets.lasers:open_lasers",
        splits=(
            "train",
            "short_query",
            "long_query",
            "explicit",
            "implicit",
            "single_cate",
            "multi_cate",
            "instance_level",
            "part_level",
            "semantic_level",
        ),
        as_published={"SegEarth-R2": {"masks": "first", "mask_size": "resize"}},
        source="hub dataset earth-insights/LaSeRS (project SegEarth-R2)",
        licence="Apache-2.0 (second-hand), with terms of the images' own sources",
        layout="""\
train/annotations/train_data.json           [{"id", "image_name", "description", "answer", "mask"}, ...]
                                            (train_ann.json in the competition's edition)
train/images/
test/annotations/test_<axis>.json           ("semantic" is spelled "sematic" in the file's name)
test/images/""",
    ),
    DatasetInfo(
        name="gres",
        title="reasoning questions on very small targets in xView images (LISAt)",
        factory="envs.datasets.gres:open_gres",
        splits=("train", "val", "test", "test_small", "test_large"),
        counts={"train": 7205, "val": 500, "test": 1510},
        count_unit="images",
        source="project GRES (lisat-bair/GRES); its images are cut from xView by the script there",
        licence="CC BY-NC-SA 4.0",
        layout="""\
gres_annotations/{train,val,test}/<id>.json  {"text": [...], "is_sentence", "shapes": [...]}
gres_annotations/{train,val,test}/{train,val,test}.txt
gres_images/{train,val,test}/<id>.jpg""",
    ),
    DatasetInfo(
        name="nwpu-refer",
        title="referring expressions with one, several or no target",
        factory="envs.datasets.nwpu_refer:open_nwpu_refer",
        splits=("train", "val", "test"),
        source="project NWPU-Refer",
        licence="see the project",
        layout="""\
new_refs(unc).p
new_instances.json
image/image/<f>.jpg""",
        as_published={"a loader of others": {"targets": "single"}},
    ),
    DatasetInfo(
        name="reasonseg",
        title="reasoning questions on everyday images (LISA)",
        factory="envs.datasets.reasonseg:open_reasonseg",
        splits=("train", "val", "test"),
        counts={"train": 239, "val": 200, "test": 779},
        count_unit="images",
        source="project LISA (dvlab-research/LISA); hub ports Ricky06662/ReasonSeg_val and _test",
        licence="see the project",
        split_options={"train": {"texts": "all"}},
        layout="""\
{train,val,test}/<n>.jpg
{train,val,test}/<n>.json                   {"text": [...], "is_sentence", "shapes": [{"label", "points"}]}
or a folder of parquet files, or a hub id as the option `root`""",
    ),
    DatasetInfo(
        name="refcoco",
        title="referring expressions on COCO images",
        factory="envs.datasets.refcoco:open_refcoco",
        splits=("train", "val", "test", "testA", "testB"),
        counts={"train": 120624, "val": 10834, "testA": 5657, "testB": 5095},  # unc, from memory
        source="project REFER (lichengunc/refer) and COCO's train2014 images",
        licence="see the project and COCO's terms",
        layout=_REFCOCO_LAYOUT.replace("<name>", "refcoco"),
    ),
    DatasetInfo(
        name="refcoco+",
        title="referring expressions on COCO images, without words of place",
        factory="envs.datasets.refcoco:open_refcoco_plus",
        splits=("train", "val", "test", "testA", "testB"),
        counts={"train": 120191, "val": 10758, "testA": 5726, "testB": 4889},  # unc, from memory
        source="project REFER (lichengunc/refer) and COCO's train2014 images",
        licence="see the project and COCO's terms",
        layout=_REFCOCO_LAYOUT.replace("<name>", "refcoco+"),
    ),
    DatasetInfo(
        name="refcocog",
        title="longer referring expressions on COCO images",
        factory="envs.datasets.refcoco:open_refcocog",
        splits=("train", "val", "test"),
        counts={"train": 80512, "val": 4896, "test": 9602},  # umd, from memory
        source="project REFER (lichengunc/refer) and COCO's train2014 images",
        licence="see the project and COCO's terms",
        layout=_REFCOCO_LAYOUT.replace("<name>", "refcocog").replace("(unc)", "(umd)"),
    ),
    DatasetInfo(
        name="grefcoco",
        title="expressions for one, several or no object on COCO images",
        factory="envs.datasets.refcoco:open_grefcoco",
        splits=("train", "val", "testA", "testB"),
        counts={"train": 16994, "val": 1500, "testA": 750, "testB": 750},  # from memory
        count_unit="images",
        source="hub dataset FudanCVL/gRefCOCO (project ReLA) and COCO's train2014 images",
        licence="see the project and COCO's terms",
        layout="""\
grefcoco/grefs(unc).json                    "ann_id" is a list, [-1] for no target
grefcoco/instances.json
images/mscoco/images/train2014/             COCO's images""",
        as_published={"ReLA": {"targets": "rela"}},
    ),
    DatasetInfo(
        name="muse",
        title="reasoning questions with several targets on COCO images (PixelLM)",
        factory="envs.datasets.muse:open_muse",
        splits=("train", "val", "test_less", "test_many"),
        source="project PixelLM (MaverickRen/PixelLM) and COCO's images; tables sj9909/MUSE_<split>",
        licence="see the project and COCO's terms",
        layout="""\
muse_{train,val,test_less,test_many}.json   [{"file_name" or "coco_url", "questions", "answers"}, ...]
images/mscoco/images/{train2014,train2017,val2017}/
or a table: a folder of parquet or arrow files, or a hub id as the option `root`""",
    ),
    DatasetInfo(
        name="mmr",
        title="questions about objects, parts or both, with several targets, on COCO images",
        factory="envs.datasets.mmr:open_mmr",
        splits=("train", "val", "test_mixed", "test_obj", "test_part"),
        counts={"train": 154127, "val": 8194, "test_obj": 5875},  # test_obj: by the card of StAR's table
        source="project MMR (jdg900/MMR) and COCO's 2017 images; tables sj9909/MMR_<split>",
        licence="see the project and COCO's terms",
        layout="""\
MMR/MMR_{train,val,test_mixed}.json         [{"file_name", "questions", "answers": [[{"segmentation"}]]}, ...]
MMR/MMR_test_{obj,part}_only.json
images/mscoco/images/{train2017,val2017}/   also in refer_seg/
or a table: a folder of parquet or arrow files, or a hub id as the option `root`""",
    ),
    DatasetInfo(
        name="reasonseg-r",
        title="ReasonSeg's test split with its labels repaired (StAR)",
        factory="envs.datasets.reasonseg_star:open_reasonseg_r",
        splits=("test",),
        source="hub dataset sj9909/ReasonSeg_refine (project ysj9909/StAR)",
        licence="see the project",
        layout="a hub id as the option `root`, or a folder of its parquet or arrow files",
    ),
    DatasetInfo(
        name="reasonseg-x",
        title="reasoning questions by kind of reasoning on everyday images (StAR)",
        factory="envs.datasets.reasonseg_star:open_reasonseg_x",
        splits=("train", "val", "test"),
        counts={"train": 240, "val": 156, "test": 773},
        source="hub datasets sj9909/ReasonSegX_{train,val,test} (project ysj9909/StAR)",
        licence="see the project",
        layout="a hub id as the option `root`, or a folder of its parquet or arrow files",
    ),
    DatasetInfo(
        name="drseg",
        title="reasoning questions on drone images (PixDLM)",
        factory="envs.datasets.drseg:open_drseg",
        splits=("train", "val", "test"),
        counts={"train": 3000, "val": 2000, "test": 5000},  # from the paper's 10,000 in 3:2:5
        count_unit="images",
        source="hub dataset WhynotHug/DRSeg (project XIEFOX/PixDLM)",
        licence="CC BY-NC 4.0 (second-hand)",
        layout="""\
labels/DRSeg_{train,val,test}.json          [{"id", "height", "width", "ann_list", "questions", ...}, ...]
CODrone/DR{train,val,test}/<id>.jpg""",
        as_published={"PixDLM": {"unusable": "next", "mask_size": "resize"}},
    ),
    DatasetInfo(
        name="vrsbench",
        title="referring expressions with boxes only, on aerial images",
        factory="envs.datasets.vrsbench:open_vrsbench",
        splits=("val",),
        counts={"val": 16159},
        source="hub dataset xiang709/VRSBench",
        licence="see the project",
        layout="""\
VRSBench_EVAL_referring.json                [{"image_id", "question", "ground_truth": "{<25><40><33><60>}"}]
Images_val/<f>.png""",
    ),
    DatasetInfo(
        name="dior-rsvg",
        title="referring expressions with boxes only, on 800 x 800 DIOR images",
        factory="envs.datasets.dior_rsvg:open_dior_rsvg",
        splits=("train", "val", "test"),
        counts={"train": 26991, "val": 3829, "test": 7500},
        as_published={"others than its authors": {"outside": "leave_out"}},
        source="project RSVG (ZhanYang-nwpu/RSVG-pytorch)",
        licence="see the project; the DIOR images are for non-commercial use (second-hand)",
        layout="""\
JPEGImages/<n>.jpg
Annotations/<n>.xml                         objects with <name>, <bndbox> and <description>
{train,val,test}.txt                        numbers of objects, counted through all XML files
or as the option `root` a hub id, or a folder of tables with image and objects {bbox, captions, categories};
those of danielz01/DIOR-RSVG may not be split as the official ones""",
    ),
    DatasetInfo(
        name="geoseg-bench",
        title="instructions on overhead scenes: reasoning, referring and interactive (UniGeoSeg)",
        factory="envs.datasets.geoseg_bench:open_geoseg_bench",
        splits=("reasoning", "referring", "interactive"),
        counts={"reasoning": 1711, "referring": 2311, "interactive": 2870},
        source="hub dataset nishuo1999/GeoSeg-Bench (project MiliLab/UniGeoSeg)",
        licence="Apache-2.0 (second-hand), with terms of the images' own sources",
        layout="""\
{reasoning,referring,interactive}/test.json [{"img", "mask", "json"}, ...], paths from that folder
<json>                                      {"question": [...], "reason": [...]}; not zero is target""",
    ),
)

CATALOG: Mapping[str, DatasetInfo] = {info.name: info for info in _SETS}
