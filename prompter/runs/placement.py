"""On which nodes of a Ray cluster the actors of a pool go: the key `placement` of every pool's section."""

from __future__ import annotations

from typing import Any, Literal

from prompter.errors import UserError

Placement = Literal["pack", "spread", "this-node", "other-nodes"]
"""`pack` is Ray's own rule, which fills half of a node before the next. `spread` takes as many nodes as there
are. `this-node` is the one on which the process that opens the pool runs (of a training run, the trainer),
`other-nodes` are all but that one."""

_NODE = "ray.io/node-id"
"""The label that Ray itself puts on each node."""


def placement_options(placement: Placement, members: str, section: str) -> dict[str, Any]:
    """Options for `ray.remote` that put an actor where a config says. Ray must be running.

    Args:
        placement: see `Placement`.
        members, section: what a message calls the actors, and their section of the config.

    Raises:
        UserError: if actors should go to other nodes, but this machine's Ray has no other.
    """
    if placement == "pack":
        return {}
    if placement == "spread":
        return {"scheduling_strategy": "SPREAD"}
    import ray

    here = ray.get_runtime_context().get_node_id()
    if placement == "this-node":
        return {"label_selector": {_NODE: here}}
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    # A cluster of several machines may grow; one on 127.0.0.1 alone does not.
    if not others and ray.util.get_node_ip_address() == "127.0.0.1":
        raise UserError(
            f"{section}.placement is other-nodes, but Ray has this node alone: the {members} would wait for "
            f"ever. Join a cluster (ray.address), or leave {section}.placement out"
        )
    return {"label_selector": {_NODE: f"!{here}"}}
