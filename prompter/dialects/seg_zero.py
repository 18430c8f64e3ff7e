"""`seg-zero`: Seg-Zero, one object `{"bbox": […], "points_1": [x, y], "points_2": [x, y]}` in `<answer>`.

Its public code takes any key with "bbox" in it, and its prompt shows the object in single quotes, so
`bbox_2d` and single quotes are read as well. Pixels of the image squashed to 840 x 840; it asks in lower
case and has no way to say that there is no target.
"""

from prompter.dialects.base import FREE
from prompter.dialects.json_dialect import JsonDialect

SEG_ZERO = JsonDialect(
    name="seg-zero",
    source=(
        "Seg-Zero (arXiv 2503.06520), inference_scripts/infer.py (QUESTION_TEMPLATE, resize_size = 840, "
        "extract_bbox_points_think), read in the public copy github.com/Se0ngYe0l/Seg-Zero"
    ),
    prompt=(
        "Find '{query}'. Compare the objects that come into question, between <think> and </think>. Then "
        "give the one that fits best, between <answer> and </answer>, as a JSON object with "
        '"bbox": [x1, y1, x2, y2] and "points_1": [x, y], "points_2": [x, y], two points inside.'
    ),
    frame="absolute",
    side=840,
    action_space=FREE,
    max_new_tokens=1024,
    lower=True,
    strip=".",
    out_of_frame="clip",
    swapped_corners="sort",
    tell=r"points_[12]",
    boxes=("bbox", "bbox_2d"),
    positive=("points_1", "points_2"),
    negative=(),
    text_numbers=True,
    single_quotes=True,
)
