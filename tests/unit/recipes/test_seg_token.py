"""Losses of a seg-token policy against their papers' formulas, and where its gradients go."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from envs.datasets import open_dataset
from envs.executors.decoding.promptable import Geometry
from envs.premise import FalsePremise
from envs.seg_token.model import SegTokenPolicy
from eval.premises import stated
from prompter.errors import UserError
from recipes.seg_token.attention import noted_attention
from recipes.seg_token.build import build
from recipes.seg_token.config import SegTokenConfig
from recipes.seg_token.data import SegCollator, make_example
from recipes.seg_token.learner import SegTokenLearner, target_cells, used_logits
from recipes.seg_token.losses import attention_loss, bce_loss, dice_loss, look_loss, place_loss
from recipes.seg_token.train import rate_share
from tests.fixtures.seg_token import seg_token_fields


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seg-token")


@pytest.fixture(scope="module")
def config(folder: Path) -> SegTokenConfig:
    return SegTokenConfig.model_validate(seg_token_fields(folder, weights={"attention": 0.01, "align": 0.5}))


@pytest.fixture(scope="module")
def parts(config: SegTokenConfig) -> SegTokenPolicy:
    return build(config)[0]


@pytest.fixture(scope="module")
def batch(config: SegTokenConfig, parts: SegTokenPolicy) -> dict[str, Any]:
    source = open_dataset(config.dataset, "train", **config.options)
    examples = [make_example(sample, parts.policy, config) for sample in source]
    return SegCollator(parts.policy)(examples)


def test_mask_losses_are_the_means_they_say() -> None:
    rng = np.random.default_rng(0)
    logits, wanted = rng.normal(size=(3, 5, 4)), rng.random((3, 5, 4))
    counted = np.ones((5, 4))
    counted[0] = 0
    given = [torch.tensor(one) for one in (logits, wanted, counted)]
    chances = 1 / (1 + np.exp(-logits))
    plain = -(wanted * np.log(chances) + (1 - wanted) * np.log(1 - chances))
    assert bce_loss(*given).numpy() == pytest.approx(plain[:, 1:].mean((1, 2)), rel=1e-6)
    inside = (chances * wanted)[:, 1:].sum((1, 2))
    whole = (chances + wanted)[:, 1:].sum((1, 2))
    assert dice_loss(*given).numpy() == pytest.approx(1 - 2 * inside / whole, abs=1e-3)


def test_the_attention_loss_is_the_papers_two_equations() -> None:
    rng = np.random.default_rng(1)
    attention, target = rng.random((2, 3, 3)) / 9, np.zeros((2, 3, 3), bool)
    target[0, 1, 1:], target[1, :2, 0] = True, True
    expected = []
    for grid, inside in zip(attention, target, strict=True):
        above = sum(grid[i, j] * (1 - inside[i, j]) for i in range(3) for j in range(3))
        a = above / sum(1 - inside[i, j] for i in range(3) for j in range(3))
        squares = sum((grid[i, j] - a) ** 2 * inside[i, j] for i in range(3) for j in range(3))
        expected.append(-math.log(squares / inside.sum()))
    # The image's tokens stand among others, which count neither as foreground nor as background.
    tokens = torch.full((2, 12), 0.7, dtype=torch.float64)
    tokens[:, 2:11] = torch.tensor(attention.reshape(2, 9))
    image = torch.zeros(2, 12, dtype=torch.bool)
    image[:, 2:11] = True
    foreground = torch.zeros_like(image)
    foreground[:, 2:11] = torch.tensor(target.reshape(2, 9))
    assert attention_loss(tokens, foreground, image & ~foreground).tolist() == pytest.approx(expected)


def test_noted_attention_is_the_mean_over_layers_and_heads(
    parts: SegTokenPolicy, batch: dict[str, Any]
) -> None:
    model = parts.model
    rows, positions = model.marks(batch)
    core: Any = model.policy_model.model
    with torch.no_grad():
        plain = model.states(batch)
        with noted_attention(
            core.language_model, rows[:, 0], positions[:, 0], batch["attention_mask"]
        ) as noted:
            states = model.states(batch)
        model.policy_model.set_attn_implementation("eager")
        maps: list[torch.Tensor] = []
        hooks = [
            layer.self_attn.register_forward_hook(lambda _module, _inputs, output: maps.append(output[1]))
            for layer in core.language_model.layers
        ]
        model.states(batch)
        for hook in hooks:
            hook.remove()
        model.policy_model.set_attn_implementation("sdpa")
    assert torch.equal(states, plain)
    assert noted.layers == len(maps) == 2
    whole = torch.stack(maps).mean((0, 2))  # [sequences, length, length]
    torch.testing.assert_close(noted.mean(), whole[rows[:, 0], positions[:, 0]], atol=1e-6, rtol=1e-4)
    assert torch.allclose(noted.mean().sum(1), torch.ones(len(rows)), atol=1e-5)


def test_gradients_reach_policy_projection_and_decoder_and_not_the_encoder(
    parts: SegTokenPolicy, config: SegTokenConfig, batch: dict[str, Any]
) -> None:
    learner = SegTokenLearner(parts, config.weights)
    losses = learner(batch)
    assert set(losses) == {"loss", "text", "bce", "dice", "attention", "align"}
    total = losses["text"] + 2 * losses["bce"] + 0.5 * losses["dice"]
    total = total + 0.01 * losses["attention"] + 0.5 * losses["align"]
    assert float(losses["loss"].detach()) == pytest.approx(float(total.detach()))
    learner.zero_grad()
    (2 * losses["bce"] + 0.5 * losses["dice"]).backward(retain_graph=True)
    model = parts.model
    for module in (model.projection, model.head, model.policy_model.model.language_model):
        trained = [one for one in module.parameters() if one.requires_grad]
        assert trained
        reached = [one.grad is not None and bool(one.grad.any()) for one in trained]
        assert all(reached)
    encoder: Any = parts.executor.segmenter
    assert not any(one.requires_grad or one.grad is not None for one in encoder.modules.parameters())
    assert parts.executor.counters.encodes == 2  # one for each image, eight questions


def test_a_frozen_decoder_gets_no_gradient_and_lets_it_through(folder: Path, batch: dict[str, Any]) -> None:
    config = SegTokenConfig.model_validate(seg_token_fields(folder, head={"train": False}))
    parts, _ = build(config)
    SegTokenLearner(parts, config.weights)(batch)["bce"].backward()
    assert not any(one.requires_grad for one in parts.model.head.parameters())
    assert "head" not in {name.partition(".")[0] for name in parts.model.own_state()}
    first: Any = parts.model.projection[0]
    assert first.weight.grad is not None and first.weight.grad.any()


def three_queries(folder: Path) -> tuple[SegTokenPolicy, SegTokenConfig, dict[str, Any]]:
    """A policy with three query tokens a target, its config, and a batch of four questions."""
    config = SegTokenConfig.model_validate(seg_token_fields(folder, queries=3))
    parts, _ = build(config)
    source = open_dataset(config.dataset, "train", **config.options)
    examples = [make_example(sample, parts.policy, config) for sample in list(source)[:4]]
    return parts, config, SegCollator(parts.policy)(examples)


def test_of_several_queries_the_nearest_mask_is_trained_and_chosen(folder: Path) -> None:
    parts, config, batch = three_queries(folder)
    rows, positions = parts.model.marks(batch)
    assert rows.shape == (len(batch["masks"]), 3)
    losses = SegTokenLearner(parts, config.weights)(batch)
    assert float(losses["choice"].detach()) == pytest.approx(math.log(3), abs=0.5)
    states = parts.model.states(batch)[rows, positions]
    assert set(parts.model.chosen(states).tolist()) <= {0, 1, 2}


def test_the_text_is_learned_up_to_a_targets_first_query_token(folder: Path) -> None:
    parts, config, batch = three_queries(folder)
    learner, labels = SegTokenLearner(parts, config.weights), batch["labels"]
    further = torch.isin(labels, parts.model.query_ids[1:])
    first = torch.isin(labels, parts.model.query_ids[:1])
    assert int(further.sum()) == 2 * int(first.sum()) > 0
    states = parts.model.states(batch)
    plain = learner._text_loss(states, labels)
    assert torch.equal(learner._text_loss(states, labels.masked_fill(further, -100)), plain)
    assert not torch.isclose(learner._text_loss(states, labels.masked_fill(first, -100)), plain)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_decoding_only_the_nearest_mask_again_gives_the_gradients_of_decoding_all(
    folder: Path, bfloat16: bool
) -> None:
    parts, config, batch = three_queries(folder)
    model, learner = parts.model, SegTokenLearner(parts, config.weights, bfloat16=bfloat16)
    losses = learner(batch)
    model.zero_grad()
    (2 * losses["bce"] + 0.5 * losses["dice"]).backward()
    ours = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}

    rows, positions = model.marks(batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        asked = model.states(batch)[rows, positions]
        owners = batch["image_index"][rows[:, 0]].tolist()
        embeddings = parts.embeddings(batch["images"])
        logits = model.decode(asked, owners, embeddings)
    chosen = []
    for target, one in enumerate(logits):
        mask, counted = learner._wanted(batch["masks"][target], None, embeddings[owners[target]])
        seen = one[:, : mask.shape[0], : mask.shape[1]].float()
        pair = bce_loss(seen, mask.expand_as(seen), counted), dice_loss(seen, mask.expand_as(seen), counted)
        total = 2 * pair[0] + 0.5 * pair[1]
        chosen.append(total[int(total.argmin())])
    model.zero_grad()
    torch.stack(chosen).mean().backward()
    plain = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    assert set(ours) == set(plain)
    for part in ("policy_model.", "projection.", "head."):
        names = [name for name in plain if name.startswith(part)]
        one, other = (torch.cat([grads[name].flatten() for name in names]) for grads in (ours, plain))
        assert float((one - other).norm()) < (0.05 if bfloat16 else 1e-3) * float(other.norm()), part


def test_a_target_is_never_lost_among_the_image_tokens() -> None:
    small, large = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    small[9:11, 30:34] = True
    large[16:48, 16:48] = True
    assert np.argwhere(target_cells(small, (8, 8))).tolist() == [[1, 3], [1, 4]]
    assert target_cells(large, (4, 4)).sum() == 4


def test_the_part_of_the_logits_that_holds_an_image() -> None:
    assert used_logits(Geometry((256, 256), (1024, 1024), (1024, 700))) == (256, 175)
    assert used_logits(Geometry((256, 256), (256, 256), (256, 256))) == (256, 256)


def test_attention_is_supervised_for_one_query_only(folder: Path) -> None:
    fields = seg_token_fields(folder, queries=2, weights={"attention": 0.01})
    with pytest.raises(ValidationError, match="set it to 0"):
        SegTokenConfig.model_validate(fields)


def test_new_tokens_may_start_from_texts_that_the_checkpoint_knows(
    folder: Path, parts: SegTokenPolicy
) -> None:
    text = '{"bbox_2d":['
    config = SegTokenConfig.model_validate(seg_token_fields(folder, start_from={"[SEG]": text, "[REJ]": "]"}))
    told, _ = build(config)
    near = []
    for one in (parts, told):
        weight = one.model.policy_model.get_input_embeddings().weight
        tokenizer = one.policy.processor.tokenizer
        known = [tokenizer(start)["input_ids"][0] for start in (text, "]")]
        new = [*one.model.query_ids.tolist(), tokenizer.get_vocab()["[REJ]"]]
        near.append(torch.cosine_similarity(weight[new], weight[known], dim=-1).tolist())
    assert max(near[0]) < 0.5 < 0.9 < min(near[1])


def test_a_start_of_no_token_of_the_notation_is_refused(folder: Path) -> None:
    for start, told in {("[SEGG]", "x"): "names '\\[SEGG\\]'", ("[REJ]", ""): "an empty text"}.items():
        config = SegTokenConfig.model_validate(seg_token_fields(folder, start_from=dict([start])))
        with pytest.raises(UserError, match=told):
            build(config)


def test_looking_is_the_share_of_attention_that_half_of_the_heads_give_the_target() -> None:
    attention = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.4, 0.4, 0.1, 0.1], [1, 0, 0, 0], [1, 0, 0, 0]]])
    foreground = torch.tensor([[False, True, True, False]])
    assert look_loss(attention, foreground).tolist() == pytest.approx([-math.log(0.5)], abs=1e-3)


def test_the_place_loss_reads_middle_and_size_of_the_box() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:6, 5:15] = True
    right = torch.tensor([[0.5, 0.4, 0.5, 0.4]])
    assert float(place_loss(right, [mask])) == pytest.approx(0, abs=1e-12)
    wrong = right + torch.tensor([[0.2, 0, 0, 0]])
    assert float(place_loss(wrong, [mask])) == pytest.approx(10 * (0.2 - 0.025) / 4)


def test_gradients_of_place_and_look_reach_the_language_model(folder: Path, batch: dict[str, Any]) -> None:
    config = SegTokenConfig.model_validate(seg_token_fields(folder, weights={"place": 1.0, "look": 0.2}))
    parts, _ = build(config)
    learner = SegTokenLearner(parts, config.weights)
    assert learner.place is not None
    nn.init.normal_(learner.place.weight)  # it starts from zeros
    losses = learner(batch, masks=False)
    assert set(losses) == {"loss", "text", "place", "look"}
    total = losses["text"] + losses["place"] + 0.2 * losses["look"]
    assert float(losses["loss"].detach()) == pytest.approx(float(total.detach()))
    for name in ("place", "look"):
        learner.zero_grad()
        losses[name].backward(retain_graph=True)
        layer: Any = parts.model.policy_model.model.language_model.layers[0]
        assert layer.mlp.up_proj.weight.grad.abs().sum() > 0


def test_a_false_premise_is_refused_with_what_is_there(folder: Path, parts: SegTokenPolicy) -> None:
    fields = seg_token_fields(folder, refusals=True)
    config = SegTokenConfig.model_validate(fields)
    plain = SegTokenConfig.model_validate(fields | {"refusals": False})
    options = {"scenes": 4, "queries_per_scene": 6, "false_premises": 1.0}
    source = open_dataset("synthetic-aerial", "train", **options)
    told = 0
    for sample in source:
        premise = FalsePremise.from_tags(sample.tags)
        if premise is None:
            continue
        answer = make_example(sample, parts.policy, config).answer
        assert answer == f"{premise.refusal()} [REJ]"
        assert make_example(sample, parts.policy, plain).answer == "[REJ]"
        if premise.instead:
            assert premise.instead in stated(answer)
            told += 1
    assert told


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant_with_warmup"])
def test_learning_rates_begin_anew_where_masks_begin(folder: Path, schedule: str) -> None:
    fields = seg_token_fields(folder, masks_after=40, steps=60, warmup_steps=4, schedule=schedule)
    config = SegTokenConfig.model_validate(fields)
    shares = [rate_share(config, step) for step in range(61)]
    assert all(0 <= share <= 1 for share in shares)
    assert shares[4] == shares[44] == 1 and shares[0] == shares[40] == pytest.approx(0.2)
    if schedule != "constant_with_warmup":
        assert shares[39] < 0.1 > shares[59] and shares[5:40] == sorted(shares[5:40], reverse=True)
