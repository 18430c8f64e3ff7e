"""GRPO against a frozen segmenter, on one page: start here to learn the algorithm.

    python -m recipes.grpo_loop                   # the shipped policy, photographs, MobileSAM, on a CPU
    python -m recipes.grpo_loop --executor box    # fills boxes in place of a segmenter: faster

A policy (a vision-language model) answers a question about an image with boxes and points. A frozen
segmenter turns these into a mask, whose IoU with the target is the only reward: nothing ever says which
box would have been right. GRPO asks each question several times and makes those answers likelier that
beat the mean of their group:

    samples --policy--> completions --read--> prompts --segmenter--> masks --IoU--> rewards
    rewards - mean of the group --> advantages --> clipped loss --AdamW--> the next policy

`prompter train` puts TRL, adapters, vLLM, Ray, checkpoints and logs around it; a test
(tests/contract/test_grpo_loop.py) holds its advantages, loss and gradient against those of this page.

Names end in their shape. P: prompts (questions) of a step. G: completions of each. T: tokens of the longest.
[P*G] is [P, G] in one row. GRPO is arXiv:2402.03300, DAPO 2503.14476, Dr. GRPO 2503.20783.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from envs.datasets import open_dataset
from envs.executors import ExecutorConfig, open_executor
from envs.executors.base import Executor
from envs.rollouts import make_requests, make_rollouts
from envs.sample import Sample
from prompter.checkpoint import Checkpoint, load_policy, load_weights
from prompter.errors import UserError
from prompter.policy import Policy
from prompter.sampling import SamplerConfig, open_sampler
from prompter.sampling.base import Sampler, SamplingSettings
from prompter.types import Completion
from recipes.training.suppressed_tokens import suppress_tokens
from rewards.mask import mask_iou

EPSILON_LOW, EPSILON_HIGH = 0.2, 0.28  # clip-higher: what is unlikely may still grow (DAPO)
LARGEST_CORRECTION = 2.0  # for a token that the sampler gave another probability than the trainer
TEMPERATURE = 0.8  # a small policy rambles at 1
UPDATES = 2  # per window of rollouts, since sampling and segmenting take as long as an update
Group = tuple[Any, Sequence[Completion]]  # a question (SamplingRequest) and its G answers


def collect(
    policy: Policy, sampler: Sampler, executor: Executor, samples_P: Sequence[Sample], how: SamplingSettings
) -> tuple[list[Group], Tensor]:
    """Ask, draw, read, segment, compare: P groups, and their rewards [P, G], each in [0, 1] or NaN."""
    requests_P = make_requests(policy, samples_P)
    groups_P: list[Group] = list(zip(requests_P, sampler.sample(requests_P, how, logprobs=True), strict=True))
    rows = [(sample, one) for sample, (_, group) in zip(samples_P, groups_P, strict=True) for one in group]
    # An answer that cannot be read is data, no error: it scores 0, and so the format is learned.
    answers = [policy.read(completion, sample.image_wh) for sample, completion in rows]
    # Each distinct image is encoded once; all prompts of the step are decoded together.
    rewards = [mask_iou(one) for one in make_rollouts([sample for sample, _ in rows], answers, executor)]
    return groups_P, torch.from_numpy(np.array(rewards, dtype=np.float32)).view(len(samples_P), -1)


def advantages(rewards_P_G: Tensor, scale_rewards: Literal["none", "group"] = "none") -> Tensor:
    """How much better than its group each completion was, float32 [P, G]; 0 where the reward is NaN.

    The group's mean stands in for a value network (GRPO). What is left is divided by the group's standard
    deviation ("group": GRPO) or by nothing ("none": Dr. GRPO, since a group of 0.90 and 0.91 would else
    count as much as one of 0 and 1).
    """
    centred_P_G = rewards_P_G - rewards_P_G.nanmean(dim=1, keepdim=True)
    if scale_rewards == "group":
        degrees_P_1 = rewards_P_G.isfinite().sum(dim=1, keepdim=True) - 1
        deviation_P_1 = (centred_P_G.square().nansum(dim=1, keepdim=True) / degrees_P_1).sqrt()
        centred_P_G = centred_P_G / (deviation_P_1 + 1e-4)
    return centred_P_G.nan_to_num(0.0)


def with_spread(rewards_P_G: Tensor) -> list[int]:
    """Which groups can teach something: those that hold better and worse completions than their mean."""
    return (advantages(rewards_P_G).abs().amax(dim=1) > 1e-6).nonzero()[:, 0].tolist()


def tokenise(policy: Checkpoint, groups_P: Sequence[Group]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Join questions and answers to model inputs, one row per completion [P*G, …].

    Prompts are padded on the left, completions on the right. Given beside them: which tokens of the
    completions are no padding, bool [P, G, T], and the log-probability the sampler drew each with.
    """
    rows = [(request, one) for request, group in groups_P for one in group]
    texts, shown = [one.render(policy.processor) for one, _ in rows], [[one.image] for one, _ in rows]
    asked = policy.processor(text=texts, images=shown, padding=True, padding_side="left", return_tensors="pt")
    # The sampled ids, not the text tokenised again: that may give other tokens than were drawn.
    ids = pad_sequence([torch.tensor(one.token_ids) for _, one in rows], batch_first=True)
    real = pad_sequence([torch.ones(len(one.token_ids)) for _, one in rows], batch_first=True).bool()
    drawn = pad_sequence([torch.tensor(one.logprobs) for _, one in rows], batch_first=True)
    answered = {"input_ids": ids, "attention_mask": real.long(), "mm_token_type_ids": torch.zeros_like(ids)}
    joined = {name: torch.cat([asked[name], added], dim=1) for name, added in answered.items()}
    shape = (len(groups_P), -1, ids.shape[1])
    return {**asked, **joined}, real.view(shape), drawn.view(shape)


def token_logprobs(model: Any, inputs: dict[str, Tensor], shape: torch.Size) -> Tensor:
    """Log-probability of each completion token under the model as it is now, float32 [P, G, T] = `shape`."""
    # The logits at a position are those of the next token: begin one earlier, leave out the last. They are
    # divided by the temperature because the distribution that is trained is the one that is sampled.
    logits = model(**inputs, logits_to_keep=shape[-1] + 1).logits[:, :-1].float() / TEMPERATURE
    taken = inputs["input_ids"][:, -shape[-1] :, None]
    return logits.log_softmax(dim=-1).gather(-1, taken).view(shape)


def grpo_loss(
    now_P_G_T: Tensor,
    old_P_G_T: Tensor,
    drawn_P_G_T: Tensor,
    real_P_G_T: Tensor,
    advantages_P_G: Tensor,
    loss_type: Literal["dapo", "grpo", "dr_grpo"] = "dapo",
    longest: int = 1,
) -> Tensor:
    """The clipped policy-gradient loss, a scalar.

    `now`, `old` and `drawn` are log-probabilities: of the model as it is, of the model before its first
    update on these completions, and as the sampler gave them. `loss_type` says what is averaged: all tokens
    alike ("dapo"), each completion first, so that tokens of long ones count less ("grpo"), or the sum over
    P*G completions of constant length `longest`, so that lengths do not change a step's size ("dr_grpo").
    """
    ratio_P_G_T, advantages_P_G_1 = (now_P_G_T - old_P_G_T).exp(), advantages_P_G[:, :, None]
    clipped_P_G_T = ratio_P_G_T.clamp(1 - EPSILON_LOW, 1 + EPSILON_HIGH)
    # The smaller of the two: beyond the clip nothing is gained, but a step the wrong way is felt in full.
    gain_P_G_T = torch.minimum(ratio_P_G_T * advantages_P_G_1, clipped_P_G_T * advantages_P_G_1)
    # Another engine or dtype draws with slightly other probabilities than are trained: weigh each token by
    # the quotient, cut at the top so that no single token rules (truncated importance sampling).
    gain_P_G_T = gain_P_G_T * (old_P_G_T - drawn_P_G_T).exp().clamp(max=LARGEST_CORRECTION) * real_P_G_T
    if loss_type == "grpo":
        return -(gain_P_G_T.sum(dim=-1) / real_P_G_T.sum(dim=-1)).mean()
    tokens: dict[str, Any] = {"dapo": real_P_G_T.sum(), "dr_grpo": advantages_P_G.numel() * longest}
    return -gain_P_G_T.sum() / tokens[loss_type]


def train(args: argparse.Namespace) -> None:
    """Per step: collect a window of groups, drop those without spread, update the policy, print a line."""
    policy = load_policy(args.policy)
    model: Any = load_weights(policy, dtype=torch.float32)
    # The sampler draws from this very model: it is never behind, and nothing has to be sent to it.
    sampler = open_sampler(policy, SamplerConfig(backend="hf"), model=model)
    suppress_tokens(model, sampler.suppressed)  # never drawn, so they have no share in what is trained
    executor = open_executor(ExecutorConfig(family=args.executor, dtype="auto"))
    # Held out are other questions about the same photographs: on each place whole kinds of them.
    source = open_dataset("aerial-buildings", "train", questions="asked", max_targets=2, stride=48)
    rest = open_dataset("aerial-buildings", "train", questions="held-out", max_targets=2)
    held_out = list(rest)[:: args.every]
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.0)
    rng, longest = np.random.default_rng(args.seed), policy.settings.max_new_tokens
    for step in range(args.steps + 1):
        if step in (0, args.steps):
            _, rewards_P_1 = collect(policy, sampler, executor, held_out, SamplingSettings(longest, 0.0))
            print(f"held out, after {step} steps: reward {rewards_P_1.nanmean():.3f}", flush=True)
        if step == args.steps:
            return
        started = time.perf_counter()
        samples_P = [source[int(i)] for i in rng.choice(len(source), args.prompts, replace=False)]
        how = SamplingSettings(longest, TEMPERATURE, n=args.group_size, seed=int(rng.integers(2**31)))
        groups_P, rewards_P_G = collect(policy, sampler, executor, samples_P, how)
        # A group of equals has no advantages; left in, its tokens would only dilute the others' (DAPO).
        if kept := with_spread(rewards_P_G):
            # Divided by the spread: a policy that can hardly be read yet would else soon decline everything.
            advantages_P_G = advantages(rewards_P_G[kept], "group")
            inputs, real_P_G_T, drawn_P_G_T = tokenise(policy, [groups_P[p] for p in kept])
            for update in range(UPDATES):
                now_P_G_T = token_logprobs(model, inputs, real_P_G_T.shape)
                if update == 0:
                    old_P_G_T = now_P_G_T.detach()
                optimiser.zero_grad()
                grpo_loss(now_P_G_T, old_P_G_T, drawn_P_G_T, real_P_G_T, advantages_P_G).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
                optimiser.step()
        figures = f"reward {rewards_P_G.nanmean():.3f}, {len(kept)} of {len(samples_P)} groups have spread"
        print(f"step {step + 1:3d}: {figures}, {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m recipes.grpo_loop", description=__doc__)
    flag = parser.add_argument
    flag("--policy", default="shipped:small-policy", help="checkpoint: a folder, a hub id or shipped:NAME")
    flag("--executor", default="mobile-sam", choices=("mobile-sam", "box"), help="the frozen segmenter")
    flag("--every", type=int, default=2, help="ask one in so many held-out questions before and after")
    flag("--steps", type=int, default=12, help="windows of rollouts")
    flag("--prompts", type=int, default=16, help="questions a step")
    flag("--group-size", type=int, default=8, help="completions a question")
    flag("--learning-rate", type=float, default=1e-4)
    flag("--seed", type=int, default=0, help="of which questions are asked, and of the sampling")
    try:
        train(parser.parse_args())
    except UserError as error:
        parser.exit(2, f"grpo_loop: {error}\n")
