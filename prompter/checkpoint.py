"""Checkpoints of policies: where they are found, how their protocol and weights are loaded.

A checkpoint is a Hugging Face folder or hub id. If the folder holds `prompter.json`
(`PolicySettings`), that says how the checkpoint was trained to be asked; otherwise the defaults
suit the instruction-tuned Qwen-VL models.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from prompter.chat import check_template_options, render_chat
from prompter.coords import FrameKind, largest_area
from prompter.errors import UserError, did_you_mean
from prompter.families import POLICY_FAMILIES
from prompter.policy import Policy, PolicySettings
from prompter.registry import is_import
from prompter.runs.files import atomic_write
from prompter.types import Completion

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


SETTINGS_FILE = "prompter.json"
"""Where a checkpoint of ours says how it was trained to be asked (`PolicySettings`)."""

_FRAME_BEFORE: dict[str, FrameKind] = {"qwen2_vl": "absolute"}
"""What a settings file without a frame meant when it was written, where the family's table says otherwise
today. Settings are saved with their frame now (`Checkpoint.save_protocol`)."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint(Policy):
    """A policy with the checkpoint it belongs to, its processor loaded, its weights not (`load_weights`).

    Args:
        source: local folder or hub id.
        family: the checkpoint's `model_type`, see `prompter.families`.
        processor: the Hugging Face processor (tokenizer and image processor).
    """

    source: str
    family: str
    processor: Any

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """Texts that the tokenizer takes for more than text, longest first."""
        tokenizer = self.processor.tokenizer
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        return tuple(sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True))

    @cached_property
    def thought_opened(self) -> bool:
        """As the setting says, or as the chat template does."""
        given = self.settings.thought_opened
        if given is not None:
            return given
        if not getattr(self.processor, "chat_template", None):
            return False
        return self.render("").rstrip().endswith("<think>")

    def render(self, query: str) -> str:
        """The text of the prompt for a query, with one placeholder for its image."""
        return render_chat(self.processor, self.messages(query), self.settings.template_options)

    def text_of(self, completion: Completion) -> str:
        """See `Policy.text_of`: samplers drop all special tokens, so the text is decoded again if need be."""
        if not self.dialect.special_tokens:
            return completion.text
        tokenizer = self.processor.tokenizer
        added = tokenizer.added_tokens_decoder
        kept = {number for number, token in added.items() if str(token) in self.dialect.special_tokens}
        if kept.isdisjoint(completion.token_ids):
            return completion.text
        dropped = {number for number, token in added.items() if token.special} | set(
            tokenizer.all_special_ids
        )
        ids = [number for number in completion.token_ids if number in kept or number not in dropped]
        return str(tokenizer.decode(ids))

    def save_protocol(self, folder: Path | str) -> None:
        """Write processor and settings into a checkpoint folder, so that it can be asked the same way.

        The frame is written out even where it was the family's: what was trained stays what it was, whatever
        the table of families says later.
        """
        self.processor.save_pretrained(folder)
        settings = self.settings.model_copy(update={"frame": self.frame_kind})
        with atomic_write(Path(folder) / SETTINGS_FILE) as handle:
            json.dump(settings.model_dump(mode="json"), handle, indent=2)


def load_policy(
    source: str | Path,
    overrides: dict[str, Any] | None = None,
    *,
    assumed_frame: FrameKind | None = None,
) -> Checkpoint:
    """Load a checkpoint's processor and protocol from a local folder or the hub.

    Args:
        source: local folder or hub id such as `Qwen/Qwen2.5-VL-3B-Instruct`.
        overrides: settings that replace the checkpoint's own, by field name.
        assumed_frame: the frame to ask in where neither a setting nor the family tells it; None refuses.

    Raises:
        UserError: if there is no such checkpoint, its settings are bad, or it is not known in which
            coordinates it answers. A family outside `POLICY_FAMILIES` is tried if a frame is set and its
            images are cut into patches as Qwen-VL's are.
    """
    from transformers import AutoProcessor, PreTrainedConfig

    name = resolve_source(str(source))
    try:
        # The bare file: a family that this transformers does not know is refused by name, too.
        family = str(PreTrainedConfig.get_config_dict(name)[0].get("model_type"))
        settings = _load_settings(Path(name), overrides or {}, family)
        if family not in POLICY_FAMILIES and settings.frame is None and assumed_frame is not None:
            settings = settings.model_copy(update={"frame": assumed_frame})
        if family not in POLICY_FAMILIES and settings.frame is None:
            raise UserError(
                f"policy {name!r} is of model family {family!r}, which is not supported."
                f"{did_you_mean(family, POLICY_FAMILIES)} "
                f"If you know the coordinates it speaks, give its setting `frame`: absolute or thousandths; "
                f"`prompter probe` finds out which."
            )
        processor = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"policy {name!r} is neither a checkpoint folder nor a model the hub could give: "
            f"{_first_line(error)}"
        ) from None
    image_processor = getattr(processor, "image_processor", None)
    if not (hasattr(image_processor, "patch_size") and hasattr(image_processor, "merge_size")):
        raise UserError(
            f"policy {name!r} has an image processor ({type(image_processor).__name__}) without patch_size "
            f"and merge_size, so it is not known how it resizes images, and coordinates would be off."
        )
    check_template_options(str(getattr(processor, "chat_template", None) or ""), settings.template_options)
    policy = make_checkpoint(name, family, settings, processor)
    check_side(settings, policy.factor, name)
    _pin_pixel_limits(policy)
    return policy


def check_side(settings: PolicySettings, factor: int, name: str) -> None:
    """Raise UserError if images are to be squares of a side that a model, called `name`, would change."""
    side = settings.image.side
    if side is not None and side % factor:
        raise UserError(
            f"policy image side {side} must be a multiple of {factor} for {name!r}: "
            f"try {round(side / factor) * factor}"
        )


def frame_before(policy: Checkpoint) -> FrameKind:
    """The frame that this policy was asked in by versions that did not record it with a run."""
    if policy.settings.frame is None and policy.family in _FRAME_BEFORE:
        return _FRAME_BEFORE[policy.family]
    return policy.frame_kind


def make_checkpoint(source: str, family: str, settings: PolicySettings, processor: Any) -> Checkpoint:
    """Put a checkpoint's protocol together; frame and factor follow from settings, family and processor."""
    image_processor = processor.image_processor
    factor = int(image_processor.patch_size) * int(image_processor.merge_size)
    frame = settings.frame or POLICY_FAMILIES[family].frame
    return Checkpoint(settings, frame, factor, source, family, processor)


SHIPPED = Path(__file__).parent / "checkpoints"
"""Checkpoints that come with the package."""


def resolve_source(source: str, kind: Literal["policy", "adapter"] = "policy") -> str:
    """Turn `shipped:NAME` into the folder of a checkpoint that comes with the package.

    Raises:
        UserError: if there is no such checkpoint of this kind.
    """
    scheme, colon, name = source.partition(":")
    if not colon or scheme != "shipped":
        return source
    file = {"policy": "config.json", "adapter": "adapter_config.json"}[kind]
    known = [path.parent.name for path in SHIPPED.glob(f"*/{file}")]
    if name not in known:
        raise UserError(f"no {kind} {name!r} is shipped.{did_you_mean(name, known)}")
    return str(SHIPPED / name)


def _load_settings(folder: Path, overrides: dict[str, Any], family: str) -> PolicySettings:
    path = folder / SETTINGS_FILE
    saved: dict[str, Any] = {}
    if path.is_file():
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from None
        if not isinstance(saved, dict):
            raise UserError(f"{path} should be a JSON object, but is a {type(saved).__name__}")
        _refuse_reaching_out(path, saved, overrides)
        if saved.get("frame") is None and family in _FRAME_BEFORE and "frame" not in overrides:
            saved["frame"] = _FRAME_BEFORE[family]
            _LOG.warning(
                "%s names no frame: it is read as when such files were written, frame %s; "
                "give the setting `frame` if it was trained otherwise",
                path,
                saved["frame"],
            )
    try:
        return PolicySettings.model_validate({**saved, **overrides}).resolved()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"policy settings {where}: {first['msg']}") from None


def _refuse_reaching_out(path: Path, saved: dict[str, Any], overrides: dict[str, Any]) -> None:
    """A checkpoint is data: it may neither have a file of this machine read nor a module imported."""
    if saved.get("prompt_file") is not None:
        raise UserError(f"{path} names a prompt_file; a checkpoint carries its prompt's text, as `prompt`.")
    reads = saved.get("reads")
    if isinstance(reads, str) and is_import(reads) and "reads" not in overrides:
        raise UserError(
            f"{path} says that its answers are read by {reads!r}, which is code. If you trust it, give the "
            f"setting yourself: reads={reads}."
        )


def _pin_pixel_limits(policy: Checkpoint) -> None:
    """Make the processor leave an already resized image as it is.

    TRL and vLLM build pixel values from images that `Policy.model_image` resized; a processor with
    its own, narrower limits would resize them again and every coordinate would be in a wrong frame.
    """
    limits = policy.settings.image
    if limits.side is not None:
        low = high = limits.side**2
    else:
        factor = policy.factor
        low = factor**2  # a size that was rounded down may be below min_pixels, and must stay
        high = largest_area(factor=factor, min_pixels=limits.min_pixels, max_pixels=limits.max_pixels)
    image_processor = policy.processor.image_processor
    image_processor.size = {"shortest_edge": low, "longest_edge": high}
    for name, value in (("min_pixels", low), ("max_pixels", high)):
        if hasattr(image_processor, name):
            setattr(image_processor, name, value)


def load_weights(
    policy: Checkpoint,
    *,
    dtype: torch.dtype | str = "auto",
    device: str = "cpu",
    quantise: Literal["nf4"] | None = None,
) -> PreTrainedModel:
    """Load a policy's weights as a transformers image-text-to-text model on `device`.

    `quantise` "nf4" keeps 4 bits of a weight of the language model's linear layers (`prompter.quantised`).

    Raises:
        UserError: if the checkpoint holds no weights, or none that can be read; and as `check_nf4`.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        options = {}
        if quantise is not None:
            from prompter.quantised import check_nf4, nf4_options

            check_nf4(AutoConfig.from_pretrained(policy.source), policy.source)
            options = nf4_options(dtype, device)
        model: Any = AutoModelForImageTextToText.from_pretrained(policy.source, dtype=dtype, **options)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the weights of policy {policy.source!r} cannot be read: {_first_line(error)}"
        ) from None
    return model if options else model.to(device)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
