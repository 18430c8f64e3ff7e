"""The cold start's parts: its stream of examples, its losses, its average, and other cameras."""

from __future__ import annotations

import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from envs.datasets import open_dataset
from prompter.checkpoint import Checkpoint, load_weights
from prompter.errors import UserError
from recipes.cold_start.augment import photograph_anew
from recipes.cold_start.average import WeightAverage
from recipes.cold_start.config import AnswerForm, AuxiliaryWeights
from recipes.cold_start.data import Collator, Example, ExampleStream, OpenedAnew, form_chances
from recipes.cold_start.model import ColdStartModel
from recipes.cold_start.optimiser import MuonAndAdamW, is_layer_matrix
from tests.fixtures.aerial import build_aerial_tiles
from tests.fixtures.tiny_policy import save_tiny_policy

QUERIES = 3


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


def stream(policy: Checkpoint, **changes: object) -> ExampleStream:
    source = open_dataset("synthetic-aerial", "train", scenes=5, queries_per_scene=QUERIES, size=64)
    options: dict = {"seed": 3, "queries_per_image": QUERIES, **changes}
    return ExampleStream(source, policy, **options)


def shown(example: Example) -> tuple[str, str, str, bytes]:
    return example.image_id, example.query, example.answer, example.image.tobytes()


def test_a_stream_that_skips_images_goes_on_as_if_it_had_shown_them(policy: Checkpoint) -> None:
    whole = [shown(one) for one in islice(iter(stream(policy, augment=0.5)), 12 * QUERIES)]
    for skip in (0, 2, 5, 7):  # within the first epoch, at its end, and in the second
        rest = islice(iter(stream(policy, augment=0.5, skip=skip)), 4 * QUERIES)
        assert [shown(one) for one in rest] == whole[skip * QUERIES : (skip + 4) * QUERIES]


def test_all_questions_about_an_image_show_it_alike_and_changed_only_where_asked(policy: Checkpoint) -> None:
    plain, changed = (list(islice(iter(stream(policy, augment=share)), 4 * QUERIES)) for share in (0.0, 1.0))
    for first in range(0, 4 * QUERIES, QUERIES):
        assert len({one.image.tobytes() for one in changed[first : first + QUERIES]}) == 1
        assert changed[first].image.tobytes() != plain[first].image.tobytes()
    assert [(one.query, one.answer) for one in plain] == [(one.query, one.answer) for one in changed]


def test_a_set_that_cannot_be_sent_to_another_process_is_opened_there_again(tmp_path: Path) -> None:
    options = {"root": build_aerial_tiles(tmp_path), "window": 128, "questions": "asked"}
    here = OpenedAnew("aerial-buildings", "val", options)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(open_dataset("aerial-buildings", "val", **options))
    there = pickle.loads(pickle.dumps(here))
    assert len(there) == len(here) > 0
    assert [one.sample_id for one in there] == [one.sample_id for one in here]
    assert there[0].query == here[0].query


def test_answers_take_the_forms_that_have_weight(policy: Checkpoint) -> None:
    examples = islice(iter(stream(policy, forms={"box": 2.0})), 5 * QUERIES)
    answers = [one.answer for one in examples if len(one.coverage)]
    assert answers and all("bbox_2d" in answer and "points" not in answer for answer in answers)
    forms: tuple[AnswerForm, ...] = ("box", "points")
    assert form_chances({"points": 3, "box": 1}, forms) == [0.25, 0.75]
    for weights in ({"box": 0.0}, {"box": -1.0, "points": 2.0}, {"box+points": 1.0}):
        with pytest.raises(UserError, match="forms"):
            form_chances(weights, forms)  # type: ignore[arg-type]


def test_losses_do_not_depend_on_how_many_parts_a_batch_is_taken_in(policy: Checkpoint) -> None:
    batch = Collator(policy)(list(islice(iter(stream(policy)), 4 * QUERIES)))
    found = []
    for parts in (1, 5):
        torch.manual_seed(0)
        learner = ColdStartModel(
            load_weights(policy, dtype=torch.float32), policy, AuxiliaryWeights(), parts=parts
        )
        losses = learner(batch)
        losses["loss"].backward()
        gradient = learner.policy_model.model.visual.pos_embed.weight.grad
        assert gradient is not None
        found.append(({name: float(value.detach()) for name, value in losses.items()}, gradient))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4)
    assert min(found[0][0].values()) > 0
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-5)


def test_answers_without_a_target_weigh_as_the_config_says(policy: Checkpoint) -> None:
    examples = list(islice(iter(stream(policy)), 12 * QUERIES))
    empty = [example for example in examples if not len(example.coverage)][:2]
    named = [example for example in examples if len(example.coverage)][:2]
    assert len(empty) == len(named) == 2

    def text(chosen: list[Example], weight: float) -> float:
        torch.manual_seed(0)
        model = load_weights(policy, dtype=torch.float32)
        learner = ColdStartModel(model, policy, AuxiliaryWeights(), parts=2, no_target_weight=weight)
        return float(learner(Collator(policy)(chosen))["text"].detach())

    assert text(named, 3.0) == text(named, 1.0)
    assert text(empty, 3.0) == pytest.approx(3 * text(empty, 1.0), rel=1e-4)
    assert text(empty + named, 1.0) < text(empty + named, 3.0) < 3 * text(empty + named, 1.0)


def test_bfloat16_changes_losses_by_its_rounding_only(policy: Checkpoint) -> None:
    batch = Collator(policy)(list(islice(iter(stream(policy)), 2 * QUERIES)))
    found = []
    for bfloat16 in (False, True):
        torch.manual_seed(0)
        model = load_weights(policy, dtype=torch.float32)
        losses = ColdStartModel(model, policy, AuxiliaryWeights(), bfloat16=bfloat16)(batch)
        assert all(value.dtype == torch.float32 for value in losses.values())
        found.append({name: float(value.detach()) for name, value in losses.items()})
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert found[1] != found[0]


def test_the_average_follows_the_weights_and_soon_forgets_where_it_began() -> None:
    source = torch.nn.Linear(2, 1)
    with torch.no_grad():
        source.weight.fill_(0.0)
    average = WeightAverage(source, 0.5)
    for value in (1.0, 2.0):
        with torch.no_grad():
            source.weight.fill_(value)
        average.update()
    # Kept: a tenth, then two elevenths (the decay of 0.5 is not reached yet).
    expected = 0.9 * (2 / 11) + 2.0 * (9 / 11)
    assert average.model.weight.detach().flatten().tolist() == pytest.approx([expected] * 2)
    assert source.weight.detach().flatten().tolist() == [2.0, 2.0]
    for _ in range(60):
        average.update()
    assert average.model.weight.detach().flatten().tolist() == pytest.approx([2.0] * 2, abs=1e-6)


def test_another_camera_moves_nothing_and_leaves_colours_tellable() -> None:
    image = np.full((48, 64, 3), 90, np.uint8)
    image[10:30, 20:50] = (200, 40, 40)
    kept = image.copy()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        changed = photograph_anew(image, rng, keep_colours=True)
        assert changed.shape == image.shape and changed.dtype == np.uint8
        assert np.array_equal(image, kept)
        assert np.array_equal(changed, photograph_anew(image, np.random.default_rng(seed), keep_colours=True))
        inside, outside = changed[14:26, 24:46].reshape(-1, 3), changed[34:, :].reshape(-1, 3)
        red = (inside[:, 0].astype(int) - inside[:, 2]).mean()
        assert red > 15 + (outside[:, 0].astype(int) - outside[:, 2]).mean()
    assert any(
        not np.ptp(photograph_anew(image, np.random.default_rng(s), keep_colours=False), axis=2).any()
        or np.ptp(photograph_anew(image, np.random.default_rng(s), keep_colours=False), axis=2).mean() < 12
        for s in range(40)
    )


def test_a_state_holds_tied_weights_once_and_is_loaded_whole(policy: Checkpoint, tmp_path: Path) -> None:
    first, second = (
        ColdStartModel(load_weights(policy, dtype=torch.float32), policy, AuxiliaryWeights())
        for _ in range(2)
    )
    with torch.no_grad():
        first.policy_model.get_input_embeddings().weight.add_(1.0)
    state = first.state_dict()
    assert "policy_model.lm_head.weight" not in state
    save_file(state, tmp_path / "model.safetensors")
    second.load_heads(str(tmp_path))  # the heads alone
    assert torch.equal(second.place_head.weight, first.place_head.weight)
    tied = (second.policy_model.lm_head.weight, first.policy_model.lm_head.weight)
    assert not torch.equal(*tied)
    second.load_state_dict(state)  # strict: no name is missing
    assert torch.equal(*tied)
    with pytest.raises(UserError, match="init_heads"):
        second.load_heads(str(tmp_path / "none"))


def test_muon_takes_the_matrices_of_layers_and_one_schedule_drives_it_and_adamw(policy: Checkpoint) -> None:
    def trained(steps: int, optimiser: MuonAndAdamW | None = None) -> tuple[MuonAndAdamW, torch.nn.Module]:
        torch.manual_seed(0)
        model = load_weights(policy, dtype=torch.float32)
        made = MuonAndAdamW(model.named_parameters(), lr=1e-2, weight_decay=0.0, betas=(0.9, 0.98))
        if optimiser is not None:
            made.load_state_dict(optimiser.state_dict())
        for number in range(steps):
            for value in model.parameters():
                value.grad = torch.full_like(value, 0.1 * (number + 1)) + 0.01 * value.detach()
            made.step()
        return made, model

    optimiser, model = trained(1)
    before = load_weights(policy, dtype=torch.float32)
    names = {name for name, value in before.named_parameters() if is_layer_matrix(name, value)}
    assert "model.language_model.layers.0.mlp.up_proj.weight" in names
    assert not {name for name in names if "embed" in name or "norm" in name}
    moved = dict(model.named_parameters())
    for name, value in before.named_parameters():
        change = (moved[name] - value).detach()
        assert change.abs().max() > 0
        if name in names:  # as large a step as AdamW's, by mean square
            assert float(change.pow(2).mean().sqrt()) < 1e-2
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    kept = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimiser.step()
    assert all(torch.equal(kept[name], value) for name, value in model.named_parameters())
    resumed, _ = trained(0, optimiser)
    assert len(resumed.state_dict()["muon"]["state"]) == len(names)
    assert resumed.param_groups[0] is resumed.muon.param_groups[0]
    assert resumed.param_groups[0]["lr"] == 0.0


def test_answers_to_false_premises_say_what_is_there_only_where_asked(policy: Checkpoint) -> None:
    options: dict = {"scenes": 5, "queries_per_scene": QUERIES, "size": 64, "false_premises": 0.6}
    source = open_dataset("synthetic-aerial", "train", **options)
    told, plain = (
        list(
            islice(
                iter(ExampleStream(source, policy, seed=3, queries_per_image=QUERIES, refuse=refuse)),
                5 * QUERIES,
            )
        )
        for refuse in (True, False)
    )
    refusals = [one.answer for one in told if "<think>" in one.answer]
    assert refusals and all(
        answer.startswith("<think>there is no ") and answer.endswith("</think><answer>[]</answer>")
        for answer in refusals
    )
    assert [one.answer.split("</think>")[-1] for one in told] == [one.answer for one in plain]
    assert not any("<think>" in one.answer for one in plain)
