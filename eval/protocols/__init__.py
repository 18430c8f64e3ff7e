"""Evaluation protocols by name: ours and those of the reference code bases.

`docs/protocols.md` sets them side by side, case by case.
"""

from __future__ import annotations

from collections.abc import Iterable

from eval.bootstrap import Ratio
from eval.box_cases import BoxJudge
from eval.mask_views import View
from eval.protocols.base import ScoringProtocol
from eval.query_table import QueryTable
from prompter.errors import UserError, did_you_mean
from prompter.registry import Entry, Registry

PROTOCOLS: Registry[ScoringProtocol] = Registry(
    "protocol",
    {
        "strict": Entry("eval.protocols.strict:PROTOCOL"),
        "lisa": Entry("eval.protocols.lisa:PROTOCOL"),
        "segearth-r1": Entry("eval.protocols.segearth_r1:PROTOCOL"),
        "rmsin": Entry("eval.protocols.rmsin:PROTOCOL"),
        "think2seg": Entry("eval.protocols.think2seg:PROTOCOL"),
        "geo-r1": Entry("eval.protocols.geo_r1:PROTOCOL"),
        "visionreasoner": Entry("eval.protocols.visionreasoner:PROTOCOL"),
        "rela": Entry("eval.protocols.rela:PROTOCOL"),
        "star": Entry("eval.protocols.star:PROTOCOL"),
        "visionreasoner-nonobj": Entry("eval.protocols.visionreasoner_nonobj:PROTOCOL"),
        "strict-boxes": Entry("eval.protocols.strict_boxes:PROTOCOL"),
        "lmms-eval-refcoco": Entry("eval.protocols.lmms_eval_refcoco:PROTOCOL"),
        "lmms-eval-groundingme": Entry("eval.protocols.lmms_eval_groundingme:PROTOCOL"),
        "lmms-eval-multihop": Entry("eval.protocols.lmms_eval_multihop:PROTOCOL"),
        "vlmevalkit-refcoco": Entry("eval.protocols.vlmevalkit_refcoco:PROTOCOL"),
        "vrsbench": Entry("eval.protocols.vrsbench:PROTOCOL"),
    },
    of=ScoringProtocol,
)
"""Every protocol by the name users type."""


def get_protocols(names: Iterable[str]) -> list[ScoringProtocol]:
    """Look protocols up by name, or by "module:object" for the user's own, each once, in the order given.

    Raises:
        UserError: if a name is unknown, there is none, or two protocols have one name.
    """
    found: dict[str, ScoringProtocol] = {}
    for text in dict.fromkeys(names):
        protocol = PROTOCOLS.resolve(text)
        if protocol.name in found or (text not in PROTOCOLS and protocol.name in PROTOCOLS):
            raise UserError(
                f"protocol {text!r} is named {protocol.name!r}, like another: give it its own name."
            )
        found[protocol.name] = protocol
    if not found:
        raise UserError(f"Name at least one protocol, for example strict.{did_you_mean('', PROTOCOLS)}")
    return list(found.values())


def needs(protocols: Iterable[ScoringProtocol]) -> tuple[list[View], dict[str, BoxJudge]]:
    """What `eval.query_table.build_table` must be told to look at for protocols: views and judges."""
    chosen = list(protocols)
    views = dict.fromkeys([View.NATIVE, *(protocol.view for protocol in chosen)])
    return list(views), {one.name: one.judge for one in chosen if one.judge is not None}


def apply(protocol: ScoringProtocol, table: QueryTable) -> dict[str, Ratio]:
    """Compute a protocol's metrics over the queries it covers.

    Queries whose segmenter failed are left out under every protocol; those without a target mask
    (box-only sets) under those that look at masks alone.

    Raises:
        ValueError: if the table was built without what `needs` says.
    """
    if protocol.view not in table.areas:
        raise ValueError(f"the table was built without the view {protocol.view}, which {protocol.name} needs")
    if protocol.judge is not None and protocol.name not in table.verdicts:
        raise ValueError(f"the table was built without the judge of {protocol.name}")
    return protocol.metrics(covered(protocol, table))


def covered(protocol: ScoringProtocol, table: QueryTable) -> QueryTable:
    """Return the queries a protocol looks at, in the order of the table."""
    answered = table.answered()
    return answered.select(answered.has_mask) if protocol.needs_masks else answered
