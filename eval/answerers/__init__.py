"""Who answers in an evaluation: checkpoints, endpoints, baselines, text-prompted segmenters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.answerers.base import Answerer
from eval.answerers.baselines import BASELINES, BaselineAnswerer
from eval.answerers.checkpoint import SamplerAnswerer, open_checkpoint
from prompter.errors import UserError, did_you_mean


def build_answerer(policy: str, options: Mapping[str, Any] | None = None) -> Answerer:
    """Make the answerer a user names.

    Args:
        policy: see the module's docstring.
        options: for an endpoint, the fields of `eval.answerers.endpoint.EndpointSettings`; for SAM 3,
            those of `eval.answerers.sam3.TextSegmenterSettings`; for a checkpoint,
            overrides of `prompter.policy.PolicySettings`, `sampler` (a `SamplerConfig` as a dict) and
            `adapter` (folder of a LoRA adapter, or shipped:NAME); none for a baseline.

    Raises:
        UserError: if the name or an option is unknown.
    """
    scheme, colon, rest = policy.partition(":")
    if colon and scheme == "baseline":
        if rest not in BASELINES:
            raise UserError(f"There is no baseline {rest!r}.{did_you_mean(rest, BASELINES)}")
        if options:
            raise UserError(f"A baseline takes no options, but got {', '.join(options)}.")
        return BaselineAnswerer(BASELINES[rest])
    if colon and scheme == "openai":
        from eval.answerers.endpoint import build_endpoint

        return SamplerAnswerer(*build_endpoint(rest, options or {}))
    if colon and scheme == "sam3":
        from eval.answerers.sam3 import build_sam3

        return build_sam3(rest, options or {})
    return open_checkpoint(policy, dict(options or {}))
