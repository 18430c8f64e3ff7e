"""`think2seg`: Think2Seg-RS, which a Qwen2.5-VL speaks that was trained with a frozen SAM 2.

`<think>…</think><answer>` + a fenced JSON list of `bbox_2d` and `positive_points` (some variants:
`negative_points`, boxes only, points only) + `</answer>`; `[]` where there is no target. Pixels of the
image squashed to 840 x 840.
"""

from prompter.dialects.base import FREE
from prompter.dialects.json_dialect import JsonDialect

THINK2SEG = JsonDialect(
    name="think2seg",
    source=(
        "github.com/Ricardo-XZ/Think2Seg-RS, src/open-r1-multimodal/src/open_r1/dataset/"
        "EarthReason_datasets.py (SYSTEM_PROMPT, USER_PROMPT, resize_size=840), "
        "src/eval/test_think2seg-rs_qwen.py (extract_sam_json)"
    ),
    prompt=(
        "Find what this asks for: {query}\n"
        "Think first, between <think> and </think>. Then give, between <answer> and </answer>, a JSON list "
        'with one object per target: "bbox_2d", its tight box [x1, y1, x2, y2], and "positive_points", two '
        "points [x, y] inside it. Give [] if there is no target."
    ),
    frame="absolute",
    side=840,
    action_space=FREE,
    max_new_tokens=2048,
    out_of_frame="clip",
    swapped_corners="sort",
    tell=r"<answer>\s*```",
)
