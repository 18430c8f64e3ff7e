"""From projected `[SEG]` embeddings to mask logits, over the embeddings of a frozen image encoder."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from envs.executors.base import Embedding
from envs.executors.decoding.package_prompts import PackagePrompts
from envs.executors.decoding.promptable import Geometry
from envs.executors.families.preprocessing import resized_hw
from prompter.errors import UserError
from prompter.types import Instance, Point


class MaskHead(nn.Module, ABC):
    """Decodes masks of one image at a time.

    `width` is that of the embeddings it takes. Parameters that are trained require grad; whatever encodes
    images is no part of it.
    """

    width: int

    @abstractmethod
    def forward(self, embedding: Embedding, prompts: Tensor) -> Tensor:
        """Decode prompts on one image.

        Args:
            embedding: from the executor's image encoder.
            prompts: [n, width], n at least 1.

        Returns:
            Logits [n, h, w], which lie on the image as `geometry` says.
        """

    @abstractmethod
    def geometry(self, embedding: Embedding) -> Geometry:
        """How the logits for this image lie on it."""

    def point_token(self, point: Point, image_wh: tuple[int, int]) -> Tensor:
        """The prompt [width] by which the segmenter's own prompt encoder writes a point on a target.

        Args:
            point: (x, y) in pixels of the image.
            image_wh: (width, height) of the image.

        Raises:
            UserError: if this head has no such prompts.
        """
        raise UserError("weights.align needs a head that takes SAM's prompts: head.kind sam.")


class SamHead(MaskHead):
    """SAM's or SAM 2's own mask decoder; a projected embedding stands for a prompt's one sparse token.

    As in LISA: no dense prompt, and the one mask (`multimask_output=False`; SAM 2's fallback to another mask
    where this one is unstable is not taken). The decoder is a copy: the executor's stays frozen.

    Args:
        decoder: of the segmenter, with the package's modules.
        train: whether the mask decoder's weights require grad. The prompt encoder's never do.
    """

    place: Tensor
    dense: Tensor

    def __init__(self, decoder: PackagePrompts, *, train: bool) -> None:
        super().__init__()
        self._decoder = decoder  # for `geometry`; no module, so its weights are not this one's
        self.mask_decoder = copy.deepcopy(decoder.mask_decoder).float().eval().requires_grad_(train)
        with torch.no_grad():
            place = decoder.prompt_encoder.get_dense_pe().detach().float()  # [1, width, rows, columns]
            dense = decoder.prompt_encoder.no_mask_embed.weight.detach().float()
        self.register_buffer("place", place.clone(), persistent=False)
        self.register_buffer("dense", dense.reshape(1, -1, 1, 1).clone(), persistent=False)
        self.width = int(place.shape[1])
        self.is_sam2 = hasattr(self.mask_decoder, "pred_obj_scores")
        if train:
            self._freeze_unread()

    def _freeze_unread(self) -> None:
        """What the one mask does not hang on gets no gradient, so it is not counted as trained."""
        mask_decoder = self.mask_decoder
        unread = [mask_decoder.iou_prediction_head, *mask_decoder.output_hypernetworks_mlps[1:]]
        for name in ("pred_obj_score_head", "conv_s0", "conv_s1"):
            part = getattr(mask_decoder, name, None)
            if isinstance(part, nn.Module):
                unread.append(part)
        for part in unread:
            part.requires_grad_(False)

    def geometry(self, embedding: Embedding) -> Geometry:
        """See `MaskHead.geometry`: as the segmenter's own logits lie."""
        return self._decoder.geometry(embedding)

    @torch.no_grad()
    def point_token(self, point: Point, image_wh: tuple[int, int]) -> Tensor:
        """See `MaskHead.point_token`; without the point that SAM pads a prompt with."""
        embedding = Embedding({}, image_wh, resized_hw(image_wh, self._decoder.side))
        tokens = self._decoder.prompt_tokens(embedding, [Instance(positive_points=(point,))])
        return tokens[0, 0].float().to(self.place.device)

    def forward(self, embedding: Embedding, prompts: Tensor) -> Tensor:
        """See `MaskHead.forward`."""
        maps = image_maps(embedding, self.place)
        options: dict[str, Any] = {}
        if self.is_sam2:
            options = {"repeat_image": True, "high_res_features": [maps["fine"], maps["coarse"]]}
        masks = self.mask_decoder.predict_masks(
            image_embeddings=maps["image"],
            image_pe=self.place,
            sparse_prompt_embeddings=prompts[:, None],
            dense_prompt_embeddings=self.dense.expand(len(prompts), -1, *self.place.shape[-2:]),
            **options,
        )[0]
        return masks[:, 0]


def image_maps(embedding: Embedding, like: Tensor) -> dict[str, Tensor]:
    """An embedding's maps by name, [1, C, h, w], of the type and on the device of `like`.

    Encoders run in inference mode, and autograd refuses tensors made there: those are copied.
    """
    maps = {}
    for name, value in embedding.tensors.items():
        tensor = torch.as_tensor(value).to(like.device, like.dtype)[None]
        maps[name] = (
            tensor.clone() if tensor.is_inference() and not torch.is_inference_mode_enabled() else tensor
        )
    return maps
