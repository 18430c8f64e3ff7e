"""Where Ray puts actors that a config places; on two nodes: tests/smoke/test_two_nodes.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from prompter.errors import UserError
from prompter.runs.placement import Placement, placement_options
from prompter.runs.ray_runtime import ensure_ray

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module", autouse=True)
def running() -> Iterator[None]:
    ensure_ray()
    yield


@ray.remote(num_cpus=0)
class Worker:
    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


@pytest.mark.parametrize("placement", ["pack", "spread", "this-node"])
def test_an_actor_starts_on_a_ray_of_one_node(placement: Placement) -> None:
    worker = Worker.options(**placement_options(placement, "actors", "executor")).remote()
    assert ray.get(worker.node.remote(), timeout=60) == ray.get_runtime_context().get_node_id()
    ray.kill(worker)


def test_other_nodes_are_refused_where_there_are_none() -> None:
    with pytest.raises(UserError, match=r"sampler\.placement is other-nodes, but Ray has this node alone"):
        placement_options("other-nodes", "engines", "sampler")
