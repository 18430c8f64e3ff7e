"""A small policy of the real Qwen3-VL architecture, to be trained from scratch on a CPU.

Three choices make localisation learnable within an hour on two cores: the vision tower's learned
positions start large (standard deviation 0.5 instead of 0.02), coordinates are single tokens whose
embeddings start as Fourier features of their value (so that neighbouring numbers are alike from the
start), and the fixed pieces of the answer are single tokens too, which keeps completions short.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompter.action import ActionSpace
from prompter.chat import system_prompt
from prompter.checkpoint import Checkpoint, load_policy, make_checkpoint
from prompter.coords import FrameKind
from prompter.families import POLICY_FAMILIES
from prompter.policy import ImageSettings, PolicySettings
from prompter.runs.config import StrictModel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

ANSWER_PIECES = (
    "<answer>[",
    "]</answer>",
    '{"bbox_2d":[',
    '{"positive_points":[[',
    '],"positive_points":[[',
    ']],"negative_points":[[',
    '],"negative_points":[[',
    "],[",
    "]]}",
    "]}",
    ",",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

LARGEST_COORDINATE = 1000


class SmallPolicySize(StrictModel):
    """Sizes of the small policy; the defaults have about 3.7 M parameters."""

    image_side: int = 128
    """Pixels of the square image the model sees."""

    patch_size: int = 8
    """Pixels of a vision patch; 2 x 2 patches become one token of the language model."""

    vision_width: int = 128
    """Width of the vision tower."""

    vision_layers: int = 4
    """Layers of the vision tower."""

    vision_heads: int = 4
    """Attention heads of the vision tower."""

    vision_hidden: int = 384
    """Width of the hidden layer in its feed-forward parts, of the vision tower."""

    text_width: int = 192
    """Width of the language model."""

    text_layers: int = 5
    """Layers of the language model."""

    text_heads: int = 6
    """Attention heads of the language model; none are grouped."""

    text_hidden: int = 448
    """Width of the hidden layer in its feed-forward parts, of the language model."""

    vocabulary: int = 600
    """Byte-pair merges for text beyond the fixed tokens."""


def build_small_policy(
    folder: Path | str,
    corpus: Iterable[str],
    *,
    size: SmallPolicySize | None = None,
    action_space: ActionSpace | None = None,
    frame: FrameKind | None = None,
    seed: int = 0,
    max_new_tokens: int = 96,
) -> Checkpoint:
    """Write a randomly initialised small Qwen3-VL policy into `folder` and open it.

    Args:
        folder: where weights (safetensors), tokenizer, processor and protocol go.
        corpus: texts (queries) the byte-pair vocabulary is learned from.
        size: sizes of the model.
        action_space: which prompts it may answer with; default: a box, a point, or both.
        frame: coordinates it will speak; None is the family's, thousandths.
        seed: seed of the initial weights.
        max_new_tokens: longest completion.
    """
    import torch
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    sizes = size or SmallPolicySize()
    settings = PolicySettings(
        action_space=action_space or ActionSpace(kind="any", positive_points=1, max_instances=8),
        image=ImageSettings(side=sizes.image_side),
        instructions="short",
        think=False,
        question="before",
        frame=frame,
        max_new_tokens=max_new_tokens,
    )
    # Every prompt holds these words, so they are worth few tokens.
    spoken = frame or POLICY_FAMILIES["qwen3_vl"].frame
    system = system_prompt(settings.action_space, spoken, instructions="short")
    frequent = [f"system\n{system}\nuser\nassistant\n"] * 5000
    tokenizer = build_tokenizer([*frequent, *corpus], sizes.vocabulary)
    pixels = {"shortest_edge": sizes.image_side**2, "longest_edge": sizes.image_side**2}
    patches: dict[str, Any] = {"patch_size": sizes.patch_size, "merge_size": 2, "temporal_patch_size": 2}
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels, **patches, **half),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=pixels, **patches, **half),
        chat_template=CHAT_TEMPLATE,
    )
    torch.manual_seed(seed)
    model = _build_model(sizes, tokenizer)
    model.save_pretrained(folder)
    make_checkpoint(str(folder), "qwen3_vl", settings, processor).save_protocol(folder)
    return load_policy(folder)


def build_tokenizer(corpus: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level tokenizer with one token per coordinate (0 to 1000) and per answer piece.

    Any text can be encoded; text that was not in `corpus` only takes more tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=256 + vocabulary,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=list(SPECIAL_TOKENS),
            show_progress=False,
        ),
    )
    numbers = [str(value) for value in range(LARGEST_COORDINATE + 1)]
    raw.add_tokens([AddedToken(text, normalized=False) for text in (*ANSWER_PIECES, *numbers)])
    return chat_tokenizer(tokenizer_object=raw)


def chat_tokenizer(**source: Any) -> PreTrainedTokenizerFast:
    """A tokenizer with Qwen's special tokens and our chat template.

    Args:
        **source: `tokenizer_object=` or `tokenizer_file=`, as transformers takes them.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        **source,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def number_token_ids(tokenizer: Any) -> list[int] | None:
    """Token ids of the coordinates 0 to 1000 in order, or None if they are not single tokens."""
    ids = [tokenizer.get_vocab().get(str(value)) for value in range(LARGEST_COORDINATE + 1)]
    return None if any(identifier is None for identifier in ids) else ids


def _build_model(sizes: SmallPolicySize, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    head = sizes.text_width // sizes.text_heads
    rotary = head // 2
    third = rotary // 3
    grid = sizes.image_side // sizes.patch_size
    identifier: Any = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": sizes.text_width,
            "intermediate_size": sizes.text_hidden,
            "num_hidden_layers": sizes.text_layers,
            "num_attention_heads": sizes.text_heads,
            "num_key_value_heads": sizes.text_heads,
            "head_dim": head,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [rotary - 2 * third, third, third],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
        },
        vision_config={
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_width,
            "intermediate_size": sizes.vision_hidden,
            "num_heads": sizes.vision_heads,
            "patch_size": sizes.patch_size,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": sizes.text_width,
            "num_position_embeddings": grid**2,
            "deepstack_visual_indexes": [max(0, sizes.vision_layers // 2 - 1)],
        },
        image_token_id=identifier("<|image_pad|>"),
        video_token_id=identifier("<|video_pad|>"),
        vision_start_token_id=identifier("<|vision_start|>"),
        vision_end_token_id=identifier("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model: Any = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        model.model.visual.pos_embed.weight.normal_(0.0, 0.5)
        embeddings = model.get_input_embeddings().weight
        ids = torch.tensor([identifier(str(value)) for value in range(LARGEST_COORDINATE + 1)])
        embeddings[ids] = 0.02 * _fourier_features(LARGEST_COORDINATE + 1, sizes.text_width)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _fourier_features(count: int, width: int) -> torch.Tensor:
    """Unit-variance features [count, width] of whole numbers, periods from 2 x count down to 16."""
    import torch

    periods = torch.logspace(math.log10(2 * count), math.log10(16), width // 2)
    phase = 2 * math.pi * torch.arange(count)[:, None] / periods[None, :]
    return math.sqrt(2) * torch.cat([phase.sin(), phase.cos()], dim=1)
