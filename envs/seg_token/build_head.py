"""The mask head that settings name, over an open executor's image encoder."""

from __future__ import annotations

from envs.executors.decoding.package_prompts import PackagePrompts
from envs.executors.decoding.promptable import PromptableSegmenter
from envs.executors.families.sam2 import Sam2Prompts
from envs.executors.serving.local import LocalExecutor
from envs.seg_token.heads import MaskHead, SamHead
from envs.seg_token.settings import HeadSettings
from prompter.errors import UserError


def build_head(executor: LocalExecutor, settings: HeadSettings) -> MaskHead:
    """Make a head.

    Raises:
        UserError: if the executor's segmenter is none of `segment_anything` or `sam2`.
    """
    segmenter = executor.segmenter
    decoder = segmenter.decoder if isinstance(segmenter, PromptableSegmenter) else None
    if not isinstance(decoder, PackagePrompts):
        raise UserError(
            f"a seg-token policy takes the image encoder and decoder of `segment_anything` or `sam2`, which "
            f"executor {executor.name!r} does not have: take mobile-sam, segment-anything, sam2 or onnx."
        )
    if settings.kind == "sam":
        return SamHead(decoder, train=settings.train)
    from envs.seg_token.mask2former import Mask2FormerHead

    width = int(decoder.prompt_encoder.embed_dim)
    channels = {"image": width}
    if isinstance(decoder, Sam2Prompts):
        channels |= {"coarse": width // 4, "fine": width // 8}
    return Mask2FormerHead(decoder, channels, settings.mask2former)
