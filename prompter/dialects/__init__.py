"""Dialects: how other people's checkpoints write answers; one small module each, chosen by `reads`."""

from prompter.dialects.base import Dialect, Entry, Found, Refused
from prompter.registry import Entry as Line
from prompter.registry import Registry

DIALECTS: Registry[Dialect] = Registry(
    "dialect",
    {
        "prompter": Line("prompter.dialects.prompter:PROMPTER", "our own: bbox_2d, positive_points"),
        "qwen": Line("prompter.dialects.qwen:QWEN", "Qwen2.5-VL, Qwen3-VL: bbox_2d or point_2d, label"),
        "visionreasoner": Line(
            "prompter.dialects.visionreasoner:VISIONREASONER", "VisionReasoner: bbox_2d, point_2d"
        ),
        "seg-zero": Line("prompter.dialects.seg_zero:SEG_ZERO", "Seg-Zero: bbox, points_1, points_2"),
        "think2seg": Line(
            "prompter.dialects.think2seg:THINK2SEG", "Think2Seg-RS: bbox_2d, positive_points, 840 x 840"
        ),
        "box-tokens": Line(
            "prompter.dialects.box_tokens:BOX_TOKENS", "Qwen2-VL: <|box_start|>(x1,y1),(x2,y2)<|box_end|>"
        ),
    },
    of=Dialect,
)
"""Name of `reads` -> the dialect; "module:NAME" gives one of your own."""

__all__ = ["DIALECTS", "Dialect", "Entry", "Found", "Refused"]
