"""One window through TRL's seam and through the page that explains it: advantages, loss and gradient agree.

`recipes.grpo_loop` shares no code with TRL, with the packed forward pass of
`recipes.training.shared_prompts` or with the shared vision tower, so it is an independent yardstick
of them all. TRL's own loop trains two steps on one window; what it sampled is handed to the page,
which says what should have come out.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from envs.executors.base import ExecutorFailure, Segmentation
from envs.executors.families.box import BoxSegmenter
from envs.executors.serving.local import LocalExecutor
from prompter.chat import SamplingRequest
from prompter.checkpoint import Checkpoint, load_weights
from prompter.runs.run_folder import RunFolder
from prompter.sampling import open_sampler
from prompter.sampling.base import Sampler, SamplingSettings
from prompter.sampling.token_sampler import suppressed_ids
from prompter.types import Completion
from recipes import grpo_loop
from recipes.config import TRAINER_DEFAULTS, TrainConfig, load_config
from recipes.grpo import with_adapters
from recipes.shipped import shipped_recipes
from recipes.training.checks import grpo_arguments
from recipes.training.log import TrainingLog
from recipes.training.phases import PhaseTimes
from recipes.training.scoring import RolloutScorer
from recipes.training.trl_trainer import SegmentationGRPOTrainer
from recipes.training.window import Window, WindowCollector
from rewards.registry import build_reward
from tests.fixtures.formatted_policy import save_formatted_policy
from tests.fixtures.toy_task import Squares

GROUP_SIZE, PROMPTS, QUESTIONS, UPDATES = 4, 8, 16, 2
LARGEST_DIFFERENCE = 1e-4
# Those that repeat somebody else's published settings do not say what the page does.
CONFIGS = [path for name, path in shipped_recipes().items() if not name.startswith("think2seg-rs-")]


def configured(key: str) -> set[Any]:
    """The values that a trainer's key has in the shipped configs."""
    return {load_config(path).trainer[key] for path in CONFIGS} | {TRAINER_DEFAULTS[key]}


class Unsure(Sampler):
    """Reports log-probabilities that are off, as an engine in another dtype does, only more so."""

    def __init__(self, inner: Sampler) -> None:
        self.inner, self.rng = inner, np.random.default_rng(0)

    def sample(
        self, requests: Sequence[SamplingRequest], settings: SamplingSettings, *, logprobs: bool = False
    ) -> list[list[Completion]]:
        """See `Sampler.sample`."""
        return [
            [replace(one, logprobs=tuple(self._off(one))) for one in group]
            for group in self.inner.sample(requests, settings, logprobs=True)
        ]

    def _off(self, one: Completion) -> Iterator[float]:
        for value in one.logprobs or ():
            yield value + float(self.rng.normal(0.0, 0.7))

    def sync_adapter(self, adapter: Path, version: int) -> None:
        """See `Sampler.sync_adapter`."""
        self.version = version


class Recorded(Sampler):
    """Gives what was sampled before."""

    def __init__(self, completions: list[list[Completion]]) -> None:
        self.completions = completions

    def sample(
        self, requests: Sequence[SamplingRequest], settings: SamplingSettings, *, logprobs: bool = False
    ) -> list[list[Completion]]:
        """See `Sampler.sample`."""
        assert len(requests) == len(self.completions)
        return self.completions

    def sync_adapter(self, adapter: Path, version: int) -> None:
        """See `Sampler.sync_adapter`."""


class Failing(LocalExecutor):
    """Fills boxes, but cannot serve the third prompt set of a call and every seventh after it."""

    def segment(self, *args: Any, **options: Any) -> list[Segmentation | ExecutorFailure]:
        """See `LocalExecutor.segment`."""
        results = super().segment(*args, **options)
        return [ExecutorFailure("out of order") if i % 7 == 2 else one for i, one in enumerate(results)]


def open_failing() -> Failing:
    return Failing(BoxSegmenter(), name="box")


@dataclass
class Recording(TrainerCallback):
    """What TRL's loop did with one window, step by step."""

    trainer: SegmentationGRPOTrainer
    config: TrainConfig
    windows: list[Window] = field(default_factory=list)
    advantages: Tensor = field(default_factory=lambda: torch.empty(0))
    losses: list[float] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)

    def on_step_begin(self, *args: Any, **options: Any) -> None:
        """Keep the weights that a step starts from."""
        self.weights.append({name: one.detach().clone() for name, one in self._model().state_dict().items()})
        self.losses.append(0.0)

    def on_pre_optimizer_step(self, *args: Any, **options: Any) -> None:
        """Keep the gradient that the optimiser is given."""
        self.gradients.append(gradients_of(self._model()))

    def run(self) -> None:
        """Train, noting what passes."""
        trainer: Any = self.trainer
        collect, step, score = (
            trainer.collector.collect,
            trainer.training_step,
            trainer._generate_and_score_completions,
        )

        def collecting(*args: Any) -> Window:
            self.windows.append(collect(*args))
            return self.windows[-1]

        def scoring(rows: Any) -> Any:
            batch = score(rows)
            self.advantages = batch["advantages"].clone()
            return batch

        def stepping(*args: Any) -> Any:
            loss = step(*args)
            self.losses[-1] += float(loss)
            return loss

        trainer.collector.collect, trainer._generate_and_score_completions = collecting, scoring
        trainer.training_step = stepping
        trainer.add_callback(self)
        trainer.train()

    def _model(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model)


def gradients_of(model: Any) -> dict[str, Tensor]:
    return {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_formatted_policy(tmp_path_factory.mktemp("policy"))


def record(policy: Checkpoint, folder: Path, *, parts: int, lora: bool, **trainer_keys: Any) -> Recording:
    """Train `UPDATES` steps on one window the way `prompter train` does, in `parts` micro-batches a step."""
    config = TrainConfig.model_validate(
        {
            "run_dir": str(folder),
            "policy": {"model": policy.source, "lora": {"r": 4, "alpha": 8} if lora else None},
            "dataset": {"name": "squares"},
            "sampler": {"backend": "hf"},
            "trainer": {
                "use_cpu": True,
                "bf16": False,
                "gradient_checkpointing": False,
                "per_device_train_batch_size": PROMPTS * GROUP_SIZE // parts,
                "gradient_accumulation_steps": parts,
                "num_generations": GROUP_SIZE,
                "num_iterations": UPDATES,
                "max_steps": UPDATES,
                "learning_rate": 0.1 if lora else 0.005,  # far enough for the clip to bite
                "max_grad_norm": 0.0,  # the gradient as it is
                "temperature": grpo_loop.TEMPERATURE,
                "save_strategy": "no",
                **trainer_keys,
            },
        }
    )
    arguments = grpo_arguments(config, policy.settings.max_new_tokens)
    torch.manual_seed(0)
    model = with_adapters(load_weights(policy, dtype=torch.float32), config)
    sampler = Unsure(open_sampler(policy, config.sampler, model=model))
    settings = SamplingSettings(arguments.max_completion_length, arguments.temperature, n=GROUP_SIZE)
    scorer = RolloutScorer(policy, {"box": open_failing()}, build_reward({"mask_iou": 1.0}))
    collector = WindowCollector(
        *(policy, sampler, scorer, Squares(QUESTIONS), config.group, settings, 0, PhaseTimes())
    )
    log = TrainingLog(RunFolder.create(config.run_dir), UPDATES)
    trainer = SegmentationGRPOTrainer(
        model=model, args=arguments, processor=policy.processor, collector=collector, log=log
    )
    recording = Recording(trainer, config)
    recording.run()
    trainer.close()
    return recording


def differences(recording: Recording, policy: Checkpoint) -> dict[str, float]:
    """Recompute the recorded steps with the page's functions; return by how much TRL's are off.

    Advantages absolutely, losses and gradients relative to their size (of a gradient: its norm).
    """
    config, (window,) = recording.config, recording.windows
    samples_P = [window.samples[group.index] for group in window.all_groups]
    how = SamplingSettings(policy.settings.max_new_tokens)
    given = Recorded([list(group.completions) for group in window.all_groups])
    groups_P, rewards_P_G = grpo_loop.collect(policy, given, open_failing(), samples_P, how)
    scored = np.array([group.rewards for group in window.all_groups], dtype=np.float32)
    np.testing.assert_array_equal(rewards_P_G.numpy(), scored)
    kept = grpo_loop.with_spread(rewards_P_G)
    assert [window.all_groups[p].index for p in kept] == [group.index for group in window.groups]
    failed = rewards_P_G.isnan()
    assert 2 <= len(kept) < PROMPTS, "some groups are dropped, some are not"
    assert failed[kept].any() and not failed.all(), "and some rewards of those kept are unknown"

    advantages_P_G = grpo_loop.advantages(rewards_P_G[kept], config.trainer["scale_rewards"])
    assert advantages_P_G.abs().max() > 0.01
    inputs, real_P_G_T, drawn_P_G_T = grpo_loop.tokenise(policy, [groups_P[p] for p in kept])
    found = {"advantages": float((recording.advantages.view(len(kept), -1) - advantages_P_G).abs().max())}
    model = with_adapters(load_weights(policy, dtype=torch.float32), config)
    grpo_loop.suppress_tokens(model, suppressed_ids(policy.processor.tokenizer))
    for update in range(UPDATES):
        model.load_state_dict(recording.weights[update])
        model.zero_grad()
        now_P_G_T = grpo_loop.token_logprobs(model, inputs, real_P_G_T.shape)
        if update == 0:
            # What stands where a completion is padded must not matter.
            old_P_G_T = now_P_G_T.detach().masked_fill(~real_P_G_T, 0.0)
            assert ((old_P_G_T - drawn_P_G_T).exp()[real_P_G_T] > grpo_loop.LARGEST_CORRECTION).any()
        loss = grpo_loop.grpo_loss(
            now_P_G_T,
            old_P_G_T,
            drawn_P_G_T,
            real_P_G_T,
            advantages_P_G,
            config.trainer["loss_type"],
            policy.settings.max_new_tokens,
        )
        loss.backward()
        if update == 1:
            better_P_G_T = (advantages_P_G[:, :, None] > 0) & real_P_G_T
            worse_P_G_T = (advantages_P_G[:, :, None] < 0) & real_P_G_T
            ratio_P_G_T = (now_P_G_T - old_P_G_T).exp()
            assert (ratio_P_G_T[better_P_G_T] > 1 + grpo_loop.EPSILON_HIGH).any(), "clipped above"
            assert (ratio_P_G_T[worse_P_G_T] < 1 - grpo_loop.EPSILON_LOW).any(), "clipped below"
        mine, theirs = gradients_of(model), recording.gradients[update]
        assert mine.keys() == theirs.keys()
        size = torch.cat([one.flatten() for one in mine.values()]).norm()
        apart = torch.cat([(mine[name] - theirs[name]).flatten() for name in mine]).norm()
        assert size > 1e-3
        found[f"loss {update}"] = abs(recording.losses[update] / float(loss.detach()) - 1)
        found[f"gradient {update}"] = float(apart / size)
    return found


CASES = [
    *[
        pytest.param(loss, scale, parts, False, id=f"{loss}-{scale}-{parts}")
        for loss in sorted(configured("loss_type"))
        for scale in sorted(configured("scale_rewards"))
        for parts in (1, 4)
    ],
    pytest.param("grpo", "group", 1, False, id="grpo-group-1"),
    pytest.param("dr_grpo", "none", 4, False, id="dr_grpo-none-4"),
    pytest.param("dapo", "group", 1, True, id="dapo-group-1-lora"),
]


@pytest.mark.parametrize(("loss_type", "scale_rewards", "parts", "lora"), CASES)
def test_trl_and_the_page_agree_on_advantages_loss_and_gradient(
    loss_type: str, scale_rewards: str, parts: int, lora: bool, policy: Checkpoint, tmp_path: Path
) -> None:
    keys = {"loss_type": loss_type, "scale_rewards": scale_rewards}
    recording = record(policy, tmp_path / "run", parts=parts, lora=lora, **keys)
    found = differences(recording, policy)
    print(*(f"{name}: {value:.1e}" for name, value in found.items()), sep=", ")
    assert all(value < LARGEST_DIFFERENCE for value in found.values()), found


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_page_says_what_the_shipped_configs_do(path: Path) -> None:
    trainer = load_config(path).trainer
    assert (trainer["epsilon"], trainer["epsilon_high"]) == (grpo_loop.EPSILON_LOW, grpo_loop.EPSILON_HIGH)
    assert trainer["vllm_importance_sampling_correction"] is True
    assert trainer["vllm_importance_sampling_mode"] == "token_truncate"
    assert trainer["vllm_importance_sampling_clip_max"] == grpo_loop.LARGEST_CORRECTION
    assert trainer["beta"] == 0.0, "no reference model on the page"


def test_the_page_stays_one_page() -> None:
    text = Path(grpo_loop.__file__).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    imported = re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE)
    assert "torch" in imported and not {"trl", "ray", "vllm", "peft"} & set(imported)


def run_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What `python -m recipes.grpo_loop WORDS` prints, wall times left out."""
    monkeypatch.setattr(sys, "argv", ["grpo_loop", *words])
    monkeypatch.delitem(sys.modules, "recipes.grpo_loop", raising=False)
    runpy.run_module("recipes.grpo_loop", run_name="__main__")
    return [re.sub(r", [0-9.]+ s$", "", line) for line in capsys.readouterr().out.splitlines()]


def test_the_page_runs_from_the_command_line_and_trains(
    policy: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = "--every 60 --steps 2 --prompts 4 --group-size 4 --executor box".split()
    words = ["--policy", policy.source, *sizes, "--learning-rate"]
    trained = run_page(monkeypatch, capsys, *words, "1e-2")
    assert [line.split(":")[0] for line in trained] == [
        "held out, after 0 steps",
        "step   1",
        "step   2",
        "held out, after 2 steps",
    ]
    still = run_page(monkeypatch, capsys, *words, "0")
    assert trained[:2] == still[:2], "determined by the seed"
    assert trained[2] != still[2], "the second window is sampled from a policy that moved"
    assert still[0].split(":")[1] == still[3].split(":")[1], "which it does not without a learning rate"


def test_a_mistake_on_the_command_line_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_page(monkeypatch, capsys, "--policy", "shipped:smal-policy")
    assert ended.value.code == 2
    assert "Did you mean 'small-policy'?" in capsys.readouterr().err
