"""Evaluation protocols by name: ours and those of the reference code bases.

`docs/protocols.md` sets them side by side, case by case.
"""

from __future__ import annotations

from collections.abc import Iterable

from eval.bootstrap import Ratio
from eval.protocols import geo_r1, lisa, rela, rmsin, segearth_r1, strict, think2seg, visionreasoner
from eval.protocols.base import ScoringProtocol
from eval.query_table import QueryTable
from prompter.errors import UserError, did_you_mean

PROTOCOLS: dict[str, ScoringProtocol] = {
    module.PROTOCOL.name: module.PROTOCOL
    for module in (strict, lisa, segearth_r1, rmsin, think2seg, geo_r1, visionreasoner, rela)
}
"""Every protocol by the name users type."""


def get_protocols(names: Iterable[str]) -> list[ScoringProtocol]:
    """Look protocols up by name, each once, in the order given.

    Raises:
        UserError: if a name is unknown, or there is none.
    """
    found: dict[str, ScoringProtocol] = {}
    for name in names:
        if name not in PROTOCOLS:
            raise UserError(f"There is no protocol {name!r}.{did_you_mean(name, PROTOCOLS)}")
        found[name] = PROTOCOLS[name]
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
