"""Typed configuration of a frozen executor. Imports no torch, so that a config is checked at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from prompter.errors import UserError
from prompter.registry import Entry, Registry, split_head
from prompter.runs.config import StrictModel
from prompter.runs.placement import Placement
from prompter.runs.values import read_options

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

RESULT_FIELDS = ("family", "model", "revision", "dtype", "multimask", "mask_threshold", "cache_dtype")
"""Fields of an executor's config that change its masks, and so belong to a run's identity."""


class ExecutorConfig(StrictModel):
    """Which frozen segmenter, where it runs, and what it keeps."""

    renamed: ClassVar[Mapping[str, str]] = {"pool": "backend"}

    family: str = Field(default="mobile-sam", examples=list(SEGMENTER_FAMILIES))
    """Family of the segmenter, or one of your own as "module:callable"."""

    model: str | None = None
    """Hub id, local file or local folder (see the family's module); null takes the family's own default
    where it has one."""

    revision: str | None = None
    """Revision of a hub id."""

    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1` and so on."""

    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Type of weights and activations. float32 is exact; bfloat16 is faster and moves masks a little
    (MobileSAM's agree with float32's to IoU 0.997 on drawn scenes); `auto` is bfloat16 where the
    processor or GPU computes in it, else float32."""

    multimask: Literal["single", "best"] = "single"
    """`single` takes SAM's one mask, `best` the one of three with the highest predicted IoU."""

    mask_threshold: float = 0.0
    """A pixel is foreground where its logit is greater."""

    encode_batch: int = Field(default=1, ge=1)
    """Images per forward pass of the image encoder."""

    onnx_decoder: Literal["weights", "graph"] = "weights"
    """For family onnx: `weights` runs the decoder file's weights in PyTorch (see its module), `graph` the
    file as it is."""

    backend: Literal["local", "ray"] = "local"
    """`local` runs in this process, `ray` in actors."""

    actors: int = Field(default=1, ge=1)
    """Number of actors in a pool."""

    num_cpus: float = Field(default=1.0, ge=0)
    """CPU cores that Ray reserves per actor; fractions share a core."""

    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs that Ray reserves per actor; fractions share a GPU."""

    placement: Placement = "pack"
    """Where a pool's actors go on a cluster: `pack` (Ray's own rule), `spread` over as many nodes as there
    are, `this-node` (the trainer's) or `other-nodes` (all but that)."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads of each actor; null takes max(1, num_cpus)."""

    cache_memory_mb: float = Field(default=2048.0, ge=0)
    """Megabytes for embeddings in memory, per process."""

    cache_disk_mb: float = Field(default=0.0, ge=0)
    """Megabytes for embeddings on disk; 0 keeps none."""

    cache_dir: Path | None = None
    """Folder of the disk cache; null takes `embeddings` in the cache folder."""

    cache_dtype: Literal["float32", "float16", "int8"] = "float32"
    """How embeddings are kept. What is decoded is always what would be kept, so that a cold and a warm
    cache give the same masks."""

    timeout_seconds: float = Field(default=300.0, gt=0)
    """Longest that an actor may take for one request, in seconds."""

    retries: int = Field(default=2, ge=0)
    """How often a failed request is tried again, on another actor where there is one."""

    max_restarts: int = Field(default=3, ge=0)
    """How often actors may be replaced over the pool's life, all actors together."""

    queue_depth: int = Field(default=4, ge=1)
    """Requests in flight per actor."""

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
        """Read `FAMILY[:MODEL][,KEY=VALUE…]`, such as `sam2:facebook/sam2.1-hiera-small,device=cpu`.

        A family of your own is `MODULE:CALLABLE`, with a model `MODULE:CALLABLE:MODEL`.

        Args:
            text: as the command line gives it.
            fields: what is not in the text.

        Raises:
            UserError: if a part is not `KEY=VALUE`, or a key is given twice.
            pydantic.ValidationError: if the family or a key is unknown, or a value is bad.
        """
        head, *options = text.split(",")
        family, model = split_head(head, SEGMENTER_FAMILIES)
        given: dict[str, Any] = {"model": model} if model else {}
        given.update(read_options(options, f"an option of --executor {head}"))
        return cls.model_validate({**fields, "family": family, **given})

    @property
    def name(self) -> str:
        """A short name for tables and rollouts, such as "mobile-sam" or "sam2:sam2.1-hiera-small"."""
        return self.family if self.model is None else f"{self.family}:{Path(self.model).name}"
