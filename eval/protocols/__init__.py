"""Evaluation protocols by name: ours and those of the reference code bases.

`docs/protocols.md` sets them side by side, case by case.
"""

from __future__ import annotations

from collections.abc import Iterable

from eval.bootstrap import Ratio
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


def apply(protocol: ScoringProtocol, table: QueryTable) -> dict[str, Ratio]:
    """Compute a protocol's metrics over the queries it covers.

    Queries whose segmenter failed are left out under every protocol; those without a target mask
    (box-only sets) under all but `strict`.

    Raises:
        ValueError: if the table was built without the protocol's view.
    """
    if protocol.view not in table.areas:
        raise ValueError(f"the table was built without the view {protocol.view}, which {protocol.name} needs")
    return protocol.metrics(covered(protocol, table))


def covered(protocol: ScoringProtocol, table: QueryTable) -> QueryTable:
    """Return the queries a protocol looks at, in the order of the table."""
    answered = table.answered()
    return answered if protocol.name == "strict" else answered.select(answered.has_mask)
