"""Recipes go by their name, each has a card, and published settings are those that were published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prompter.errors import UserError
from prompter.runs.config import load_config_model
from recipes.cli import main
from recipes.config import load_config
from recipes.planning.trainer import group_size, window_prompts, window_rows, window_updates
from recipes.seg_token.config import SegTokenConfig
from recipes.seg_token.study import planned
from recipes.shipped import FOLDER, config_path, shipped_recipes
from recipes.study.config import load_study, planned_runs
from recipes.systems.config import is_of_systems, load_systems
from recipes.systems.run import planned_systems

ROOT = Path(__file__).resolve().parents[3]
CARDS = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
OVERVIEW = CARDS.partition("\n## ")[0]
NEEDED = {
    *("think2seg-rs-3b", "think2seg-rs-7b", "ours-3b", "lora-24gb", "qwen3-vl-4b", "qwen3.5-4b-sam3"),
    *("multi-node", "reasonseg", "refcoco"),
}


def card(name: str) -> str:
    found = re.search(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", CARDS, re.MULTILINE | re.DOTALL)
    assert found, f"docs/recipes.md has no section ## {name}"
    return found[1]


def test_the_recipes_that_were_asked_for_are_there() -> None:
    assert NEEDED <= shipped_recipes().keys()
    assert not [name for name in shipped_recipes() if name.startswith("cold-start")]


@pytest.mark.parametrize("name", shipped_recipes())
def test_each_recipe_has_a_card_that_says_how_where_and_what_was_run(name: str) -> None:
    text, config = card(name), load_config(name)
    assert f"prompter train {name}" in text
    # Where the numbers are from, and what was run by us or came out of it.
    assert re.search(r"^- numbers: |\| number \| from \|", text, re.MULTILINE)
    assert re.search(r"run by us: |^- result: ", text, re.MULTILINE | re.IGNORECASE)
    row = re.search(rf"^\| \[{re.escape(name)}\]\(#[\w-]+\) \|(.*)$", OVERVIEW, re.MULTILINE)
    assert row, f"the overview does not list {name}"
    assert ("all weights" if config.policy.lora is None else "adapters") in row[1]


@pytest.mark.parametrize(
    ("name", "prompts", "group", "epochs"), [("think2seg-rs-3b", 4, 16, 5), ("think2seg-rs-7b", 8, 12, 8)]
)
def test_the_published_settings_are_those_published(name: str, prompts: int, group: int, epochs: int) -> None:
    config = load_config(name)
    trainer = config.trainer
    assert config.policy.lora is None and config.rewards == {"mask_iou": 1.0}
    assert config.policy.settings.resolved().image.side == 840
    assert config.policy.settings.max_new_tokens == 1024
    assert trainer["num_generations"] == group
    rows = (
        trainer["per_device_train_batch_size"] * trainer["gradient_accumulation_steps"] * config.ranks.count
    )
    assert rows == prompts * group
    assert abs(trainer["max_steps"] - epochs * 2371 / prompts) < 5
    assert (trainer["beta"], trainer["learning_rate"], trainer["epsilon_high"]) == (0.001, 1e-6, 0.2)
    # What the released code adds to the paper's reward is there, and is a comment.
    text = config_path(name).read_text(encoding="utf-8")
    assert "  # mask_iou: 2.0\n  # valid_answer: 1.0\n  # tag_format: 1.0\n" in text


def test_a_file_wins_over_a_name_and_a_path_is_never_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_path("ours-3b") == shipped_recipes()["ours-3b"]
    (tmp_path / "ours-3b").write_text(
        "run_dir: here\npolicy: {model: x}\ndataset: {name: synthetic-aerial}\n"
    )
    assert config_path("ours-3b") == Path("ours-3b") and load_config("ours-3b").run_dir == "here"
    for path in ("nowhere/ours-3b", "refcoco.yaml"):
        assert config_path(path) == Path(path)
        with pytest.raises(UserError, match="cannot be read"):
            load_config(path)
    with pytest.raises(UserError, match=r"neither a file nor a recipe .* Did you mean 'think2seg-rs-3b'\?"):
        load_config("think2seg-3b")
    assert main(["train", "refcoco", "--print-config"]) == 0
    assert "name: refcocog" in capsys.readouterr().out


FOLDER_OF_STUDIES = ROOT / "recipes" / "configs" / "studies"
SYSTEMS, ROUNDS, LONGER = (FOLDER_OF_STUDIES / f"{name}.yaml" for name in ("systems", "rounds", "longer"))
STUDIES = [path for path in sorted(FOLDER_OF_STUDIES.glob("*.yaml")) if not is_of_systems(path)]
GRPO = [path for path in STUDIES if load_study(path).trains == "grpo"]


@pytest.mark.parametrize("path", GRPO, ids=lambda path: path.stem)
def test_the_arms_of_each_study_are_configs_of_equal_completions(path: Path, tmp_path: Path) -> None:
    runs = planned_runs(load_study(path), tmp_path)
    assert len({run.completions for run in runs}) == 1
    distinct = {run.config.model_copy(update={"run_dir": ""}).model_dump_json() for run in runs}
    assert len(distinct) == len(runs), "two arms are the same"
    for run in runs:
        config = run.config
        assert config.trainer["save_steps"] % window_updates(config) == 0
        assert window_prompts(config) * group_size(config) == window_rows(config), "groups divide a window"


@pytest.mark.parametrize("path", sorted(set(STUDIES) - set(GRPO)), ids=lambda path: path.stem)
def test_the_arms_of_each_seg_token_study_see_equally_many_questions(path: Path, tmp_path: Path) -> None:
    study = load_study(path)
    runs = planned(study.model_copy(update={"base": str(ROOT / study.base)}), tmp_path, [])
    assert len({run.samples for run in runs}) == 1 and len(runs) == len(study.arms) * len(study.seeds)
    distinct = {run.config.model_copy(update={"output_dir": ""}).model_dump_json() for run in runs}
    assert len(distinct) == len(runs), "two arms are the same"


def test_the_systems_learn_and_answer_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_systems(SYSTEMS)
    runs = {run.arm: run for run in planned_systems(study, tmp_path)}
    assert list(runs) == list(study.arms) and study.compared_with == "grpo"
    distinct = {(run.command, str(run.settings)) for run in runs.values()}
    assert len(distinct) == len(runs), "two arms are the same"
    grpo, boxes = (runs[name].config for name in ("grpo", "box-grpo"))
    assert boxes.model_copy(update={"rewards": grpo.rewards, "run_dir": grpo.run_dir}) == grpo
    assert {run.questions for name, run in runs.items() if study.arms[name].equal == "questions"} == {
        runs["grpo"].questions
    }
    for name in ("seg-token", "elisa"):
        longer, equal = runs[name], runs[f"{name}-equal"]
        assert longer.questions >= equal.questions


def test_rounds_are_the_long_study_its_answers_and_half_as_much_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    grpo, told, again = planned_systems(load_systems(ROUNDS), tmp_path)[:3]
    longest = planned_runs(load_study(LONGER), tmp_path, ["trainer.max_steps=576"], only=["group-8"])
    (long,) = (run.config for run in longest if (run.arm, run.seed) == ("group-8", 0))
    for key in (
        "policy",
        "dataset",
        "trainer",
        "group",
        "rewards",
        "order",
        "average",
        "sampler",
        "executor",
    ):
        assert getattr(grpo.config, key) == getattr(long, key), key
    assert grpo.config.held_out.model_copy(update={"samples": None}) == long.held_out
    assert told.config.init == "shipped:small-policy" and told.needs == (grpo,)
    assert again.config.policy.model == str(told.policy)
    assert {**again.config.trainer, "max_steps": 576} == grpo.config.trainer
    assert again.line == (grpo, told, again)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("seg-token*.yaml")), ids=lambda path: path.stem)
def test_each_config_of_seg_token_is_read(path: Path) -> None:
    assert load_config_model(SegTokenConfig, path).output_dir == f"runs/{path.stem}"
