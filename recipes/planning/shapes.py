"""Shapes of known models, so that a run can be planned where no hub can be reached.

The numbers are those of each checkpoint's published `config.json` (facts, not text); what is left out is the
same in all of a family or does not change a size. `tests/unit/recipes/test_planning.py` holds each against
the number of parameters that its authors publish. A checkpoint that can be reached is always read itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SPECIAL = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
_SPECIAL_3_5 = {
    "image_token_id": 248056,
    "video_token_id": 248057,
    "vision_start_token_id": 248053,
    "vision_end_token_id": 248054,
}
_MROPE = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}


def _text(hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-6,
        **more,
    }


def _qwen2_vl(text: dict[str, Any], *, vocabulary: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen2_vl",
        "tie_word_embeddings": tied,
        "text_config": {
            **text,
            "vocab_size": vocabulary,
            "max_position_embeddings": 32768,
            "rope_parameters": _MROPE,
            "tie_word_embeddings": tied,
        },
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "mlp_ratio": 4,
            "num_heads": 16,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "hidden_size": text["hidden_size"],
        },
        **_SPECIAL,
    }


def _qwen2_5_vl(text: dict[str, Any], *, vocabulary: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": tied,
        "text_config": {
            **text,
            "vocab_size": vocabulary,
            "max_position_embeddings": 128000,
            "rope_parameters": _MROPE,
            "tie_word_embeddings": tied,
        },
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": text["hidden_size"],
        },
        **_SPECIAL,
    }


def _tower_16(large: bool, out: int) -> dict[str, Any]:
    """The vision tower of Qwen3-VL and Qwen3.5 in its two sizes."""
    return {
        "depth": 27 if large else 24,
        "hidden_size": 1152 if large else 1024,
        "intermediate_size": 4304 if large else 4096,
        "num_heads": 16,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "out_hidden_size": out,
    }


def _qwen3_vl(text: dict[str, Any], *, tied: bool, large: bool) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 5000000.0, "mrope_section": [24, 20, 20]}
    return {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": tied,
        "text_config": {
            **text,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 262144,
            "rope_parameters": {**rope, "mrope_interleaved": True},
            "tie_word_embeddings": tied,
        },
        "vision_config": {
            **_tower_16(large, text["hidden_size"]),
            "deepstack_visual_indexes": [8, 16, 24] if large else [5, 11, 17],
        },
        **_SPECIAL,
    }


def _qwen3_5(text: dict[str, Any], *, value_heads: int, tied: bool, large: bool) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000000.0, "mrope_section": [11, 11, 10]}
    return {
        "model_type": "qwen3_5",
        "tie_word_embeddings": tied,
        "text_config": {
            **text,
            "head_dim": 256,
            "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * (text["num_hidden_layers"] // 4),
            "linear_num_key_heads": 16,
            "linear_num_value_heads": value_heads,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4,
            "vocab_size": 248320,
            "max_position_embeddings": 262144,
            "rope_parameters": {**rope, "mrope_interleaved": True, "partial_rotary_factor": 0.25},
            "tie_word_embeddings": tied,
        },
        "vision_config": _tower_16(large, text["hidden_size"]),
        **_SPECIAL_3_5,
    }


SHAPES: Mapping[str, dict[str, Any]] = {
    "Qwen/Qwen2-VL-2B-Instruct": _qwen2_vl(_text(1536, 8960, 28, 12, 2), vocabulary=151936, tied=True),
    "Qwen/Qwen2-VL-7B-Instruct": _qwen2_vl(_text(3584, 18944, 28, 28, 4), vocabulary=152064, tied=False),
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2_5_vl(_text(2048, 11008, 36, 16, 2), vocabulary=151936, tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5_vl(_text(3584, 18944, 28, 28, 4), vocabulary=152064, tied=False),
    "Qwen/Qwen3-VL-2B-Instruct": _qwen3_vl(_text(2048, 6144, 28, 16, 8), tied=True, large=False),
    "Qwen/Qwen3-VL-4B-Instruct": _qwen3_vl(_text(2560, 9728, 36, 32, 8), tied=True, large=False),
    "Qwen/Qwen3-VL-8B-Instruct": _qwen3_vl(_text(4096, 12288, 36, 32, 8), tied=False, large=True),
    "Qwen/Qwen3.5-4B": _qwen3_5(_text(2560, 9216, 32, 16, 4), value_heads=32, tied=True, large=False),
    "Qwen/Qwen3.5-9B": _qwen3_5(_text(4096, 12288, 32, 16, 4), value_heads=32, tied=False, large=True),
}
"""Hub id -> the numbers of its `config.json`, as `known_config` reads them."""


def shape_name(source: str) -> str | None:
    """The id in `SHAPES` that a hub id or a folder's name means, or None.

    Case, owner and a trailing `-Instruct` or `-Thinking` do not matter: the sizes are the same.
    """
    wanted = _plain(source)
    return next((name for name in SHAPES if _plain(name) == wanted), None)


def known_config(source: str) -> Any:
    """The transformers config of a known shape.

    Args:
        source: a name that `shape_name` finds.

    Raises:
        KeyError: if it is not known.
    """
    from transformers import AutoConfig

    name = shape_name(source)
    if name is None:
        raise KeyError(source)
    fields = dict(SHAPES[name])
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def _plain(source: str) -> str:
    name = source.rstrip("/").rpartition("/")[2].lower()
    return name.removesuffix("-instruct").removesuffix("-thinking")
