"""Who answers in an evaluation: checkpoints, endpoints, baselines, text-prompted segmenters.

The runner knows only `Answerer`. `build_answerer` makes one from what a user types:

    baseline:NAME             a trivial or oracle baseline (`eval.answerers.baselines`)
    openai:URL#MODEL          any OpenAI-compatible endpoint (`eval.answerers.endpoint`)
    sam3:FOLDER_OR_ID         SAM 3 asked with the question as text, no policy (`eval.answerers.sam3`)
    seg-token:FOLDER          a checkpoint of `prompter seg-token` (`eval.answerers.seg_token`)
    elisa:FOLDER              chooses among proposed masks, brings its own (`eval.answerers.elisa`)
    MODULE:CALLABLE[:REST]    one of your own, called like those in `ANSWERERS`
    a folder or hub id        a checkpoint of ours or of Qwen-VL (`eval.answerers.checkpoint`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eval.answerers.base import Answerer
from prompter.coords import FrameKind
from prompter.errors import UserError
from prompter.registry import Entry, Registry, is_import, split_head

ANSWERERS: Registry[Callable[[str, Mapping[str, Any]], Answerer]] = Registry(
    "answerer",
    {
        "baseline": Entry("eval.answerers.baselines:build_baseline", "baseline:NAME"),
        "openai": Entry("eval.answerers.endpoint:build_endpoint", "openai:URL#MODEL"),
        "sam3": Entry("eval.answerers.sam3:build_sam3", "sam3:FOLDER_OR_ID"),
        "seg-token": Entry("eval.answerers.seg_token:build_seg_token", "seg-token:FOLDER"),
        "elisa": Entry("eval.answerers.elisa:build_elisa_answerer", "elisa:FOLDER"),
    },
)
"""What stands before the first colon of `--policy` -> called with what follows it, and the options."""


def build_answerer(
    policy: str, options: Mapping[str, Any] | None = None, *, assumed_frame: FrameKind | None = None
) -> Answerer:
    """Make the answerer a user names.

    Args:
        policy: see the module's docstring. A folder of that name wins over MODULE:CALLABLE.
        options: for an endpoint, the fields of `eval.answerers.endpoint.EndpointSettings`; for SAM 3,
            those of `eval.answerers.sam3.TextSegmenterSettings`; for seg-token those of
            `eval.answerers.seg_token.SegTokenAnswererSettings` and of `PolicySettings`; for ELISA those of
            `eval.answerers.elisa.ElisaOptions`; for a checkpoint, overrides of
            `prompter.policy.PolicySettings`, `sampler` (a `SamplerConfig` as a dict) and `adapter` (folder of
            a LoRA adapter, or shipped:NAME); none for a baseline.
        assumed_frame: see `prompter.checkpoint.load_policy`; for `prompter probe`.

    Raises:
        UserError: if the name or an option is unknown.
    """
    name, rest = split_head(policy, {*ANSWERERS, "shipped"})
    if is_checkpoint(policy):
        from eval.answerers.checkpoint import open_checkpoint

        return open_checkpoint(policy, dict(options or {}), assumed_frame=assumed_frame)
    answerer = ANSWERERS.resolve(name)(rest or "", dict(options or {}))
    if not callable(getattr(answerer, "answer", None)) or not callable(getattr(answerer, "close", None)):
        raise UserError(
            f"answerer {name!r} should make an eval.answerers.base.Answerer, with `answer` and `close`, "
            f"but made a {type(answerer).__name__}."
        )
    return answerer


def is_checkpoint(policy: str) -> bool:
    """Whether a text names a checkpoint, which a sampler of ours draws from; see `build_answerer`."""
    name, rest = split_head(policy, {*ANSWERERS, "shipped"})
    is_own = is_import(name) and not Path(policy).exists()
    return not is_own and (name not in ANSWERERS or rest is None)
