"""`qwen`: Qwen2.5-VL and Qwen3-VL as they come, `[{"bbox_2d": […], "label": "…"}]` or `"point_2d"`, fenced.

Bare boxes `[[x1, y1, x2, y2], …]` and numbers as text, which fine-tuned copies give, are read as well, and
single quotes, which the authors' own code takes (`ast.literal_eval`); it puts swapped corners in order, too.
Qwen2.5-VL speaks pixels of the image as it sees it, Qwen3-VL 0 to 1000: the frame is the family's.
"""

from prompter.dialects.base import FREE
from prompter.dialects.json_dialect import JsonDialect

QWEN = JsonDialect(
    name="qwen",
    source=(
        "github.com/QwenLM/Qwen3-VL, cookbooks/2d_grounding.ipynb (parse_json, plot_bounding_boxes), and for "
        "Qwen2.5-VL cookbooks/spatial_understanding.ipynb"
    ),
    prompt=(
        "Locate every object that this asks for, and no other: {query}\n"
        'Give a JSON list of objects with "bbox_2d": [x1, y1, x2, y2] and "label", and [] if there is none.'
    ),
    action_space=FREE,
    max_new_tokens=2048,
    out_of_frame="clip",
    swapped_corners="sort",
    tell=r'"label"',
    boxes=("bbox_2d", "bbox"),
    positive=("point_2d",),
    negative=(),
    bare_boxes=True,
    text_numbers=True,
    single_quotes=True,
)
