"""Typed configuration of a frozen executor. Imports no torch, so that a config is checked at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from prompter.errors import UserError
from prompter.registry import Entry, Registry, split_head
from prompter.runs.config import StrictModel

if TYPE_CHECKING:
    from envs.executors.base import Segmenter

_FAMILIES = "envs.executors.families"

SEGMENTER_FAMILIES: Registry[Callable[[ExecutorConfig], Segmenter]] = Registry(
    "executor family",
    {
        "box": Entry(f"{_FAMILIES}.box:build_box", "fills boxes, and discs at points; no weights"),
        "mobile-sam": Entry(
            f"{_FAMILIES}.mobile_sam:build_mobile_sam",
            "MobileSAM (TinyViT); without `model` its published weights are fetched",
        ),
        "segment-anything": Entry(
            f"{_FAMILIES}.sam:build_segment_anything",
            "SAM ViT-B, ViT-L or ViT-H, a .pth for the `segment_anything` package",
        ),
        "sam2": Entry(
            f"{_FAMILIES}.sam2:build_sam2_package",
            "SAM 2 and 2.1, a hub id or a .pt for the `sam2` package",
        ),
        "huggingface": Entry(
            f"{_FAMILIES}.huggingface:build_huggingface",
            "SAM, SAM-HQ, SAM 2, EdgeTAM or the SAM 3 tracker, as `transformers` saves them",
        ),
        "onnx": Entry(
            f"{_FAMILIES}.onnx:build_onnx",
            "encoder and decoder in ONNX; without `model` SAM2 hiera-tiny is fetched",
        ),
    },
)
"""Segmenter families by the name used in a config: functions from the config to a segmenter."""


class ExecutorConfig(StrictModel):
    """Which frozen segmenter, where it runs, and what it keeps.

    Args:
        family: a name of `SEGMENTER_FAMILIES`, or "module:callable".
        model: hub id, local file or local folder (see the family's module); None takes the
            family's own default where it has one.
        revision: of a hub id.
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", …
        dtype: of weights and activations. float32 is exact; bfloat16 is faster and moves masks a
            little (MobileSAM's agree with float32's to IoU 0.997 on drawn scenes); `auto` is
            bfloat16 where the processor or GPU computes in it, else float32.
        multimask: "single" takes SAM's one mask, "best" the one of three with the highest
            predicted IoU.
        mask_threshold: a pixel is foreground where its logit is greater.
        encode_batch: images per forward pass of the image encoder.
        onnx_decoder: for family onnx, "weights" runs the decoder file's weights in PyTorch (see its
            module), "graph" the file as it is.
        backend: "local" runs in this process, "ray" in actors.
        actors: how many actors.
        num_cpus, num_gpus: what each actor reserves in Ray; fractions are fine.
        threads: CPU threads of each actor; None takes max(1, num_cpus).
        cache_memory_mb: budget for embeddings in memory, per process.
        cache_disk_mb: budget for embeddings on disk; 0 keeps none.
        cache_dir: folder of the disk cache; None takes `<cache folder>/embeddings`.
        cache_dtype: how embeddings are kept. What is decoded is always what would be kept, so that
            a cold and a warm cache give the same masks.
        timeout_seconds: longest that an actor may take for one request.
        retries: how often a failed request is tried again, on another actor where there is one.
        max_restarts: how often actors may be replaced over the pool's life, all actors together.
        queue_depth: requests in flight per actor.
    """

    renamed: ClassVar[Mapping[str, str]] = {"pool": "backend"}

    family: str = "mobile-sam"
    model: str | None = None
    revision: str | None = None
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    multimask: Literal["single", "best"] = "single"
    mask_threshold: float = 0.0
    encode_batch: int = Field(default=1, ge=1)
    onnx_decoder: Literal["weights", "graph"] = "weights"
    backend: Literal["local", "ray"] = "local"
    actors: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    cache_memory_mb: float = Field(default=2048.0, ge=0)
    cache_disk_mb: float = Field(default=0.0, ge=0)
    cache_dir: Path | None = None
    cache_dtype: Literal["float32", "float16", "int8"] = "float32"
    timeout_seconds: float = Field(default=300.0, gt=0)
    retries: int = Field(default=2, ge=0)
    max_restarts: int = Field(default=3, ge=0)
    queue_depth: int = Field(default=4, ge=1)

    @field_validator("family")
    @classmethod
    def _known_family(cls, family: str) -> str:
        try:
            SEGMENTER_FAMILIES.check(family)
        except UserError as error:
            raise ValueError(str(error)) from None
        return family

    @classmethod
    def from_text(cls, text: str, **fields: Any) -> ExecutorConfig:
        """Read "family" or "family:model" as the command line gives it, with other fields as they are.

        A family of your own is "module:callable", with a model "module:callable:model".
        """
        family, model = split_head(text, SEGMENTER_FAMILIES)
        return cls(family=family, model=model or None, **fields)

    @property
    def name(self) -> str:
        """A short name for tables and rollouts, such as "mobile-sam" or "sam2:sam2.1-hiera-small"."""
        return self.family if self.model is None else f"{self.family}:{Path(self.model).name}"
