"""Other teachers in the loop of GRPO: the best completion of a group, and the agreement of a group's masks.

Best-of-n is held against minus the log-likelihood of what it imitates, computed beside TRL; agreement against
the same run on other labels.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from prompter.checkpoint import Checkpoint
from prompter.runs.jsonl import read_lines, write_lines
from prompter.runs.run_folder import RunFolder
from recipes.grpo import train
from tests.contract.test_grpo_trainer import GROUP_SIZE, PROMPTS, QUESTIONS, Seam, config_of, make_seam
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.toy_task import save_manifest

BEST = {"objective": "best-of-n", "floor": 0.3}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_formatted_policy(tmp_path_factory.mktemp("policy"))


def gradients(seam: Seam, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Of TRL's loss of a batch, by adapter weight."""
    model = seam.trainer.model
    model.zero_grad()
    seam.trainer.compute_loss(model, batch).backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def test_the_loss_is_the_likelihood_of_the_best_alone_however_often_it_is_updated(
    policy: Checkpoint, tmp_path: Path
) -> None:
    seam = make_seam(policy, tmp_path, group=BEST)
    seam.trainer.current_gradient_accumulation_steps = 1
    batch = seam.window([7, 2, 11, 0])
    rows = len(batch["advantages"])
    best = batch["advantages"].nonzero()[:, 0].tolist()
    assert rows == PROMPTS * GROUP_SIZE and [row // GROUP_SIZE for row in best] == [0, 1, 2, 3]
    for row in best:
        rewards = [
            seam.scorer.reward(index, place, one.text)
            for index, group in list(seam.scorer.seen.items())[row // GROUP_SIZE :][:1]
            for place, one in enumerate(group)
        ]
        assert rewards[row % GROUP_SIZE] == max(one for one in rewards if one is not None)
    optimiser = torch.optim.SGD(seam.trainer.model.parameters(), lr=20.0)
    for _ in range(3):  # the policy soon is far from the one that was sampled: nothing is clipped
        found = gradients(seam, batch)
        seam.trainer.model.zero_grad()
        given = {name: batch[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
        logps = seam.trainer._get_per_token_logps_and_entropies(
            seam.trainer.model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
            batch["completion_ids"].shape[1],
            num_images=[1] * rows,
            **given,
        )[0]
        told = batch["completion_mask"].bool()
        likelihood = sum(logps[row][told[row]].sum() for row in best)
        (-likelihood / told.sum()).backward()
        for name, one in seam.trainer.model.named_parameters():
            if one.grad is not None:
                torch.testing.assert_close(found[name], one.grad, rtol=1e-4, atol=1e-6)
        optimiser.step()


class Runs:
    """Two updates a window, two windows, of agreement, on the true labels and on others."""

    def __init__(self, policy: Checkpoint, folder: Path) -> None:
        self.policy, self.folder = policy, folder
        self.true = save_manifest(folder / "squares", QUESTIONS)
        records = list(read_lines(self.true))
        masks = [record["mask"] for record in records]
        random.Random(1).shuffle(masks)
        self.shuffled = self.true.with_name("shuffled.jsonl")
        write_lines(self.shuffled, [{**one, "mask": mask} for one, mask in zip(records, masks, strict=True)])
        self.empty = self.true.with_name("empty.jsonl")
        write_lines(self.empty, [{**one, "mask": None} for one in records])

    def of(self, manifest: Path, **sections: Any) -> RunFolder:
        config = config_of(
            *(self.policy, self.folder / "runs" / manifest.stem, manifest),
            rewards={"agreement": 1.0},
            trainer={"num_iterations": 2, "max_steps": 4},
            **sections,
        )
        return train(config)


def trained_on(run: RunFolder) -> list[Any]:
    """What each window was trained on: questions, token ids, rewards and weights."""
    return [
        [
            (one["index"], one["rewards"], one.get("weights"), one["completions"])
            for one in list(read_lines(path))[1:]
        ]
        for _, path in sorted(run.step_windows())
    ]


def weights_of(run: RunFolder) -> dict[str, Any]:
    from safetensors.torch import load_file

    (path,) = run.path.glob("checkpoints/final/**/*.safetensors")
    return load_file(path)


@pytest.mark.parametrize(("objective", "labels"), [("grpo", "shuffled"), ("best-of-n", "empty")])
def test_a_run_on_agreement_is_the_same_whatever_the_labels_say(
    policy: Checkpoint, tmp_path: Path, objective: str, labels: str
) -> None:
    runs = Runs(policy, tmp_path)
    group = {"objective": objective, "floor": 0.1}
    true, other = runs.of(runs.true, group=group), runs.of(getattr(runs, labels), group=group)
    windows, weights = trained_on(true), weights_of(true)
    assert any(reward for window in windows for _, rewards, *_ in window for reward in rewards)
    assert trained_on(other) == windows
    again = weights_of(other)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    figures = [one for one in true.read_metrics("train") if "reward" in one]
    assert any(one["grad_norm"] > 0 for one in figures), "something was learned from"
    seen = [one["gIoU"] for one in figures]
    assert seen != [one["gIoU"] for one in other.read_metrics("train") if "reward" in one], "labels differ"
    if objective == "best-of-n":
        assert any(one["imitated"] > 0 for one in figures)
