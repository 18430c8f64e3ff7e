"""`visionreasoner`: VisionReasoner, `[{"bbox_2d": [x1, y1, x2, y2], "point_2d": [x, y]}]` in `<answer>`.

Pixels of the image squashed to 840 x 840; its public code asks in lower case, without the question's
closing marks, and has no system prompt of its own.
"""

from prompter.dialects.base import FREE
from prompter.dialects.json_dialect import JsonDialect

VISIONREASONER = JsonDialect(
    name="visionreasoner",
    source=(
        "github.com/JIA-Lab-research/VisionReasoner, vision_reasoner/models/vision_reasoner_model.py "
        "(DETECTION_TEMPLATE, resize_size = 840, extract_bbox_points_think)"
    ),
    prompt=(
        'Find "{query}". Compare the objects that come into question, between <think> and </think>. Then '
        "give those that fit, between <answer> and </answer>, as a JSON list of objects with "
        '"bbox_2d": [x1, y1, x2, y2] and "point_2d": [x, y], a point inside.'
    ),
    frame="absolute",
    side=840,
    action_space=FREE,
    max_new_tokens=2048,
    lower=True,
    strip='."?!',
    out_of_frame="clip",
    swapped_corners="sort",
    tell=r'<answer>[^<]*"bbox_2d"[^{}<]*"point_2d"',
    boxes=("bbox_2d",),
    positive=("point_2d",),
    negative=(),
    text_numbers=True,
)
