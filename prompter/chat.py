"""What the policy is asked: the one definition of the system prompt and of the chat's layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from prompter.action import ActionSpace
from prompter.coords import FrameKind
from prompter.errors import UserError, did_you_mean

Instructions = Literal["full", "short"]
QuestionPosition = Literal["before", "after"]

_FRAME_TEXT: dict[str, str] = {
    "absolute": "Coordinates are whole pixels of the image as you see it, x to the right, y down.",
    "thousandths": "Coordinates are whole numbers from 0 to 1000 along each side, x to the right, y down.",
}

_SHORT_TEXT: dict[str, str] = {
    "box": "Give boxes.",
    "points": "Give points.",
    "box+points": "Give boxes and points.",
    "any": "Give boxes or points.",
}


def system_prompt(
    action_space: ActionSpace,
    frame_kind: FrameKind,
    *,
    instructions: Instructions = "full",
    think: bool = True,
) -> str:
    """Return the system prompt.

    Args:
        action_space: which prompts an answer may hold.
        frame_kind: the frame the model family speaks.
        instructions: `full` explains task, schema and frame to an instruction-tuned model; `short`
            only names the kind of prompts, for small models trained on this protocol from scratch.
        think: whether reasoning in `<think>` is asked for before the answer.
    """
    if instructions == "short":
        return _SHORT_TEXT[action_space.kind]
    form = "<think>your reasoning</think><answer>[…]</answer>" if think else "<answer>[…]</answer>"
    sentences = [
        "You point out regions of an image so that a segmentation model can outline them.",
        f"Reply as {form}.",
        f"The answer is a JSON list with one entry per target: {action_space.schema_text()}.",
        "Answer [] if the image does not show what is asked for.",
        "A bbox_2d encloses one whole target tightly; positive_points lie well inside it."
        if action_space.kind in ("box+points", "any")
        else "Each entry covers one whole target.",
        action_space.limits_text(),
        _FRAME_TEXT[frame_kind],
    ]
    return " ".join(sentence for sentence in sentences if sentence)


_LEADING_IMAGE = re.compile(r"(\s*<image>)+\s*")
_TAG = re.compile(r"<(?=[^<>\s]+>)")


def plain_question(query: str, special_tokens: Iterable[str] = ()) -> str:
    """Return a question as text that no tokenizer takes for anything else.

    `<image>` at the start, with which datasets of conversations mark the image's place, is dropped. What
    looks like a tag (`<|image_pad|>`, `</s>`, `<think>`) gets a space behind its `<`, and so does, behind
    its first character, every one of `special_tokens` that is still there. That is done in the text and
    not in the tokenizer, so that an endpoint, which tokenises what it is sent, is asked the same.

    Args:
        query: the question, as the dataset gives it. One without such things comes back unchanged.
        special_tokens: those of the policy's tokenizer, where it is known.
    """
    text = _TAG.sub("< ", without_image_mark(query))
    for token in special_tokens:
        while len(token) > 1 and token.strip() and token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def without_image_mark(text: str) -> str:
    """Drop `<image>` at the start of a text: the image's place is a part of the chat, not of a text."""
    mark = _LEADING_IMAGE.match(text)
    return text if mark is None else text[mark.end() :]


def build_messages(query: str, system: str, *, question: QuestionPosition = "after") -> list[dict[str, Any]]:
    """Return the chat for one query: a system turn, then a user turn with one image and the query.

    Args:
        query: the question, as `plain_question` gives it.
        system: `system_prompt(...)`.
        question: whether the query stands after the image (as Qwen-VL models expect) or before it
            (a small model trained from scratch then reads the image knowing what to look for).

    The image part is {"type": "image"}: the image itself travels beside the chat.
    """
    image, text = {"type": "image"}, {"type": "text", "text": query}
    parts = [image, text] if question == "after" else [text, image]
    return [
        {"role": "system", "content": [{"type": "text", "text": system}]},
        {"role": "user", "content": parts},
    ]


@dataclass(frozen=True)
class SamplingRequest:
    """One prompt.

    Args:
        messages: the chat as `prompter.chat.build_messages` makes it: a list of
            {"role", "content"} with content parts {"type": "text", "text"} or {"type": "image"}.
        image: PIL RGB image, already resized to the policy's model frame.
        image_key: identity of `image` within a call, equal exactly when the images are, so that a pool
            ships it once; "" for a pool to compare pixels.
        template_options: see `prompter.policy.PolicySettings`.
        seed: of this request's completions, whatever is sampled beside it; None takes one that follows from
            the call's seed and the request's place in it.
    """

    messages: list[dict[str, Any]]
    image: Image.Image = field(repr=False)
    image_key: str = ""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def render(self, processor: Any) -> str:
        """The text of this prompt by the policy's Hugging Face processor, see `render_chat`."""
        return render_chat(processor, self.messages, self.template_options)


def render_chat(processor: Any, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> str:
    """The text of a prompt: the one place where a processor's chat template is applied.

    Args:
        processor: the policy's Hugging Face processor.
        messages: as `build_messages` makes them.
        options: for the template, see `PolicySettings.template_options`.

    Returns:
        The prompt up to where the completion begins, one image placeholder per image.
    """
    text: str = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options)
    return text


_RENDERED_WITH = ("messages", "conversation", "add_generation_prompt", "tokenize", "tools", "chat_template")


def check_template_options(template: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a chat template does not use: it would ignore them without a word.

    Raises:
        UserError: naming the option.
    """
    used = set(re.findall(r"[A-Za-z_]\w*", template))
    for name in options:
        if name in _RENDERED_WITH:
            raise UserError(f"template_options sets {name!r}, which is set wherever a prompt is rendered")
        if name not in used:
            raise UserError(
                f"template_options sets {name!r}, which the policy's chat template does not use."
                f"{did_you_mean(name, used, listed=False)}"
            )
