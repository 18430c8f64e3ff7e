"""Image placeholders in token-id prompts: one `<|image_pad|>` per image, or one per image token.

Hugging Face processors and TRL repeat the placeholder once per token that the image takes in the
language model; vLLM wants a single placeholder and repeats it itself. Handing vLLM an expanded
prompt makes it expand again, silently, and the prompt is then a different one.
"""

from __future__ import annotations

from collections.abc import Sequence


def collapse_pads(token_ids: Sequence[int], pad_id: int) -> tuple[list[int], list[int]]:
    """Replace each run of `pad_id` by one.

    Args:
        token_ids: prompt, [tokens].
        pad_id: id of the image placeholder.

    Returns:
        the shorter prompt, and the length of each run in order (one per image, because images are
        separated by `<|vision_end|><|vision_start|>`).
    """
    collapsed: list[int] = []
    runs: list[int] = []
    for position, token in enumerate(token_ids):
        if token != pad_id:
            collapsed.append(token)
        elif position > 0 and token_ids[position - 1] == pad_id:
            runs[-1] += 1
        else:
            collapsed.append(token)
            runs.append(1)
    return collapsed, runs


def expand_pads(token_ids: Sequence[int], pad_id: int, runs: Sequence[int]) -> list[int]:
    """Repeat the single `pad_id` of each image as often as `runs` says; inverse of `collapse_pads`.

    Raises:
        ValueError: if there are not as many placeholders as runs.
    """
    if sum(token == pad_id for token in token_ids) != len(runs):
        raise ValueError(
            f"expected one image placeholder for each of {len(runs)} images, "
            f"but the prompt has {sum(token == pad_id for token in token_ids)}"
        )
    lengths = iter(runs)
    expanded: list[int] = []
    for token in token_ids:
        expanded.extend([token] * next(lengths) if token == pad_id else [token])
    return expanded


def image_token_count(processor: object, image_wh: tuple[int, int]) -> int:
    """How many language-model tokens an image of (width, height) pixels takes.

    `processor` is a Hugging Face Qwen-VL processor. The count includes the processor's own resizing,
    so it is what both the processor's expanded prompt and vLLM's must show.
    """
    image_processor = processor.image_processor  # type: ignore[attr-defined]
    width, height = image_wh
    patches = image_processor.get_number_of_image_patches(height, width, {})
    return int(patches) // int(image_processor.merge_size) ** 2
