"""The policy of a planned run: its parameters, counted on a model without weights, and its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from prompter.chat import render_chat
from prompter.checkpoint import load_policy, resolve_source
from prompter.coords import fit_size, largest_area
from prompter.errors import UserError
from prompter.families import POLICY_FAMILIES, carries_state, lora_targets
from prompter.policy import Policy
from recipes.config import TrainConfig
from recipes.planning.shapes import SHAPES, known_config, shape_name

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by the name of its type."""

CHARACTERS_PER_TOKEN = 4.0
"""Of English instructions, where no tokenizer is at hand."""

_QUERY = "the large rectangular building next to the parking lot in the upper left part of the image"
"""A question of a usual length."""


@dataclass(frozen=True)
class ModelShape:
    """A model without weights.

    Args:
        source: as the config names it.
        config: the transformers config.
        model: built on the meta device; names and shapes are the real ones.
        from_table: the id in `recipes.planning.shapes` that the numbers are from, or None where the
            checkpoint's own config was read.
        saved_dtype: type in which the checkpoint's weights are.
    """

    source: str
    config: Any
    model: Any
    from_table: str | None
    saved_dtype: str

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def vision_parameters(self) -> int:
        """Those of the vision tower."""
        return sum(parameter.numel() for parameter in self.model.model.visual.parameters())

    @property
    def text(self) -> Any:
        """The language model's config."""
        return self.config.get_text_config()

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding's matrix."""
        return bool(self.model.lm_head.weight is self.model.get_input_embeddings().weight)

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        text = self.text
        return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)

    @property
    def layer_kinds(self) -> dict[str, int]:
        """Kind of a layer of the language model -> how many there are."""
        kinds = getattr(self.text, "layer_types", None) or ["full_attention"] * self.text.num_hidden_layers
        return {kind: list(kinds).count(kind) for kind in dict.fromkeys(kinds)}

    @property
    def recurrent(self) -> bool:
        """Whether a layer carries a state from token to token, so that prompts cannot be shared."""
        return carries_state(self.config)

    @property
    def linear_parameters(self) -> int:
        """Weights of the language model's linear layers: what QLoRA quantises."""
        import torch

        return sum(
            module.weight.numel()
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Linear) and "language_model" in name.split(".")
        )

    @property
    def pixel_values(self) -> int:
        """Numbers of one patch, as the image processor hands it to the tower."""
        vision = self.config.vision_config
        return int(3 * vision.temporal_patch_size * vision.patch_size**2)

    def kv_bytes(self, dtype: str) -> int:
        """Bytes of keys and values for one token, over all attention layers."""
        attention = sum(count for kind, count in self.layer_kinds.items() if kind != "linear_attention")
        return int(2 * attention * self.text.num_key_value_heads * self.head_dim * BYTES[dtype])

    def state_bytes(self) -> int:
        """Bytes of the recurrent layers' states for one sequence (float32), 0 without such layers."""
        text = self.text
        if not self.recurrent:
            return 0
        state = text.linear_num_value_heads * text.linear_key_head_dim * text.linear_value_head_dim
        keys = text.linear_num_key_heads * text.linear_key_head_dim
        values = text.linear_num_value_heads * text.linear_value_head_dim
        window = (2 * keys + values) * text.linear_conv_kernel_dim
        return int(4 * (state + window) * self.layer_kinds["linear_attention"])

    def adapted(self, target_modules: str | list[str] | None) -> list[str]:
        """Names of the modules that LoRA adapts."""
        from recipes.training.checks import _matching

        return _matching(
            target_modules or lora_targets(self.config.model_type), dict(self.model.named_modules())
        )

    def adapter_parameters(self, rank: int, target_modules: str | list[str] | None = None) -> int:
        """Parameters of the adapters of this rank."""
        modules = dict(self.model.named_modules())
        return sum(
            rank * (modules[name].in_features + modules[name].out_features)
            for name in self.adapted(target_modules)
            if hasattr(modules[name], "in_features")
        )


@lru_cache(maxsize=8)
def open_shape(source: str) -> ModelShape:
    """Read a model's shape: from the checkpoint where it is on this machine, else from the table of known
    shapes, else from the hub.

    Raises:
        UserError: if it is none of these.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    name = resolve_source(source)
    table = None
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError):
        table = None if Path(name).is_dir() else shape_name(name)
        try:
            config = AutoConfig.from_pretrained(name) if table is None else known_config(table)
        except (OSError, ValueError) as error:
            raise UserError(
                f"policy.model {source!r} cannot be planned: it is neither a checkpoint on this machine nor "
                f"one that the hub could give ({str(error).strip().splitlines()[0]}), and its shape is "
                f"not among those known here: {', '.join(SHAPES)}"
            ) from None
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    saved = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return ModelShape(source, config, model, table, str(saved or "bfloat16").removeprefix("torch."))


@dataclass(frozen=True)
class PromptTokens:
    """Tokens of a prompt.

    Args:
        image: of the largest image.
        text: of the instructions, a question and the chat's own signs.
        counted: whether `text` was counted with the checkpoint's tokenizer, and not estimated.
        patches: that the vision tower sees of that image.
        image_wh: its size as the model sees it, in pixels; None where only the area is bounded.
    """

    image: int
    text: int
    counted: bool
    patches: int
    image_wh: tuple[int, int] | None

    @property
    def total(self) -> int:
        """Of the whole prompt."""
        return self.image + self.text


def prompt_tokens(
    config: TrainConfig, shape: ModelShape, image_wh: tuple[int, int] | None = None
) -> tuple[PromptTokens, Policy]:
    """Count a prompt's tokens, with the policy's own rule for image sizes.

    Args:
        config: the run.
        shape: its model.
        image_wh: size of the data's images (width, height) in pixels; None takes the largest that the
            settings allow.
    """
    policy, tokenizer = _policy(config, shape)
    limits, factor = policy.settings.image, policy.factor
    seen: tuple[int, int] | None = None
    if limits.side is not None:
        seen = (limits.side, limits.side)
    elif image_wh is not None:
        seen = fit_size(image_wh, factor=factor, min_pixels=limits.min_pixels, max_pixels=limits.max_pixels)
    else:
        root = int(limits.max_pixels**0.5)
        seen = fit_size(
            (root, root), factor=factor, min_pixels=limits.min_pixels, max_pixels=limits.max_pixels
        )
    patch = int(shape.config.vision_config.patch_size)
    patches = (seen[0] // patch) * (seen[1] // patch)
    messages = policy.messages(_QUERY)
    if tokenizer is not None:
        text = render_chat(tokenizer, messages, policy.settings.template_options)
        words = len(tokenizer.tokenizer(text)["input_ids"]) - 1
    else:
        characters = sum(len(part) for message in messages for part in _texts(message["content"]))
        words = round(characters / CHARACTERS_PER_TOKEN) + 12
    merged = int(shape.config.vision_config.spatial_merge_size) ** 2
    return PromptTokens(patches // merged, words, tokenizer is not None, patches, seen), policy


def engine_context(policy: Policy) -> int:
    """Tokens of prompt and answer that an engine is built for where `sampler.max_model_len` is null."""
    limits = policy.settings.image
    area = (
        limits.side**2
        if limits.side is not None
        else largest_area(factor=policy.factor, min_pixels=limits.min_pixels, max_pixels=limits.max_pixels)
    )
    return area // policy.factor**2 + 1024 + policy.settings.max_new_tokens


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content if "text" in part]


def _policy(config: TrainConfig, shape: ModelShape) -> tuple[Policy, Any]:
    """The policy, with its processor where the checkpoint is on this machine."""
    source = resolve_source(config.policy.model)
    if shape.from_table is None:
        policy = load_policy(source, config.policy.setting_overrides())
        return policy, policy.processor
    vision = shape.config.vision_config
    settings = config.policy.settings.resolved()
    frame = settings.frame or POLICY_FAMILIES[shape.config.model_type].frame
    return Policy(settings, frame, int(vision.patch_size * vision.spatial_merge_size)), None
