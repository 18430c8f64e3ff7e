"""The training config: defaults, strictness, and that the resolved file re-runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from envs.datasets.registry import dataset_info, opener_options, reading_options
from prompter.errors import UserError
from prompter.registry import is_import
from prompter.runs.config import load_config_model
from prompter.runs.config_keys import Section, config_sections
from prompter.runs.values import parse_yaml
from recipes.cold_start.config import ColdStartConfig
from recipes.config import TRAINER_DEFAULTS, TrainConfig, dump_config, load_config, train_sections
from recipes.config_docs import PAGE, help_of_keys, with_keys
from recipes.elisa.config import ElisaConfig
from recipes.help_texts import FOLDER
from recipes.shipped import shipped_recipes
from rewards.registry import build_reward

ROOT = Path(__file__).resolve().parents[3]
COLD_STARTS = sorted((ROOT / "recipes" / "configs").glob("cold-start*.yaml"))
CONFIGS = sorted(shipped_recipes().values())

SMALLEST = """
run_dir: runs/x
policy: {model: some/folder}
dataset: {name: synthetic-aerial}
"""


@pytest.fixture
def smallest(tmp_path: Path) -> Path:
    path = tmp_path / "smallest.yaml"
    path.write_text(SMALLEST)
    return path


def test_the_default_reward_is_mask_iou_alone(smallest: Path) -> None:
    assert load_config(smallest).rewards == {"mask_iou": 1.0}


def test_trainer_keys_stand_on_the_documented_defaults(smallest: Path) -> None:
    config = load_config(smallest, ["trainer.beta=0.01", "trainer.learning_rate=1e-4"])
    assert config.trainer == {**TRAINER_DEFAULTS, "beta": 0.01, "learning_rate": 1e-4}


def test_overrides_reach_every_section(smallest: Path) -> None:
    config = load_config(
        smallest,
        [
            "seed=7",
            "policy.lora.r=4",
            "policy.settings.action_space.kind=points",
            "sampler.backend=hf",
            "rewards.box_iou=.5",
        ],
    )
    assert config.seed == 7
    assert config.policy.lora is not None
    assert config.policy.lora.r == 4
    assert config.policy.setting_overrides()["action_space"]["kind"] == "points"
    assert config.sampler.backend == "hf"
    assert config.rewards == {"box_iou": 0.5}


def test_every_setting_of_a_policy_may_be_given_and_old_flat_keys_still_work(
    smallest: Path, tmp_path: Path
) -> None:
    config = load_config(smallest, ["policy.settings.frame=absolute", "policy.think=false"])
    assert config.policy.setting_overrides() == {"frame": "absolute", "think": False}
    (tmp_path / "again.yaml").write_text(dump_config(config), encoding="utf-8")
    assert (
        load_config(tmp_path / "again.yaml").policy.setting_overrides() == config.policy.setting_overrides()
    )


def test_settings_left_out_stay_the_checkpoints_own(smallest: Path) -> None:
    assert load_config(smallest).policy.setting_overrides() == {}
    assert load_config(smallest, ["policy.settings.think=false"]).policy.setting_overrides() == {
        "think": False
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampler.bakend=hf"], "--sampler.bakend: unknown key 'sampler.bakend'. Did you mean 'backend'?"),
        (
            ["sampler.backend=tgi"],
            "--sampler.backend: 'sampler.backend' should be 'hf', 'vllm' or 'ray', but is 'tgi'.",
        ),
        (["policy.lora.rank=4"], "--policy.lora.rank: unknown key 'policy.lora.rank'."),
        (["trainer.output_dir=x"], "'output_dir' is set elsewhere in this project: use run_dir."),
        (["trainer.use_vllm=true"], "'use_vllm' is set elsewhere in this project: use sampler.backend."),
        (["rewards={}"], "--rewards: 'rewards'"),
        (["executor.family=sma2"], "there is no executor family 'sma2'. Did you mean 'sam2'?"),
        (
            ["executor.backen=ray"],
            "--executor.backen: unknown key 'executor.backen'. Did you mean 'backend'?",
        ),
        (
            ["executor=[{family: box}]", "executor.0.backend=cloud"],
            "'executor.0.backend' should be 'local' or 'ray'",
        ),
        (["seed=-1"], "--seed: 'seed' should be greater than or equal to 0, but is -1."),
    ],
)
def test_a_mistake_is_a_sentence(smallest: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(smallest, overrides)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_must_be_given_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "empty.yaml")
    for key in ("run_dir", "policy", "dataset"):
        assert f"{tmp_path / 'empty.yaml'}: {key!r} is missing." in str(caught.value)


numbers = st.floats(1e-9, 1e9)
texts = st.text("abz019.-/e+ ", min_size=1, max_size=8)
executors = st.fixed_dictionaries(
    {"family": st.sampled_from(["box", "mobile-sam", "onnx"])},
    optional={"pool": st.sampled_from(["local", "ray"]), "cache_dir": texts, "num_gpus": numbers},
)
trainer_values = st.dictionaries(
    st.sampled_from(["learning_rate", "loss_type", "num_generations", "lr_scheduler_kwargs", "report_to"]),
    st.none() | st.booleans() | st.integers() | numbers | texts | st.lists(texts, max_size=2),
    max_size=4,
)


@given(
    st.fixed_dictionaries(
        {
            "run_dir": texts,
            "policy": st.fixed_dictionaries(
                {"model": texts},
                optional={
                    "lora": st.none()
                    | st.fixed_dictionaries({"r": st.integers(1, 512), "alpha": st.integers(1, 512)}),
                    "think": st.booleans(),
                    "action_space": st.fixed_dictionaries(
                        {"kind": st.sampled_from(["box", "points", "any"])}
                    ),
                },
            ),
            "dataset": st.fixed_dictionaries(
                {
                    "name": texts,
                    "options": st.dictionaries(texts, st.integers() | texts | numbers, max_size=3),
                }
            ),
        },
        optional={
            "seed": st.integers(0, 2**31),
            "eval": st.fixed_dictionaries({"samples": st.none() | st.integers(1, 999), "dataset": texts}),
            "sampler": st.fixed_dictionaries({"num_gpus": numbers, "kind": st.sampled_from(["hf", "ray"])}),
            "executor": executors | st.lists(executors, min_size=1, max_size=2),
            "rewards": st.dictionaries(texts, numbers, min_size=1, max_size=3),
            "trainer": trainer_values,
        },
    )
)
def test_the_resolved_config_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]
) -> None:
    config = TrainConfig.model_validate(data)
    path = tmp_path_factory.getbasetemp() / "resolved.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    again = load_config(path)
    assert again == config
    assert dump_config(again) == dump_config(config)


def test_the_resolved_config_names_every_key(smallest: Path) -> None:
    written = yaml.safe_load(dump_config(load_config(smallest)))
    assert set(written) == set(TrainConfig.model_fields)
    assert written["sampler"]["actors"] == 1
    assert written["trainer"]["epsilon_high"] == 0.28


def test_the_documentation_is_what_the_code_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_keys(text) == text, "docs/configuration.md is out of date: run `make docs`"
    keys = [*TrainConfig.model_fields, *(f"trainer.{name}" for name in TRAINER_DEFAULTS)]
    assert [key for key in keys if f"`{key}`" not in text] == []


def test_the_help_is_what_the_code_says() -> None:
    texts = help_of_keys()
    assert set(FOLDER.iterdir()) == set(texts)
    late = [path.name for path, text in texts.items() if path.read_text(encoding="utf-8") != f"{text}\n"]
    assert late == [], "recipes/help is out of date: run `make docs`"


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the markers"):
        with_keys("# Configuration")


@pytest.mark.parametrize(
    "sections", [train_sections(), config_sections(ColdStartConfig), config_sections(ElisaConfig)]
)
def test_every_key_says_what_it_means_in_sentences(sections: list[Section]) -> None:
    assert [section.name for section in sections if not section.says] == []
    texts = {key.name: key.says for section in sections for key in section.keys}
    assert [name for name, says in texts.items() if not says.endswith(".") or "MISSING" in says] == []
    assert len(texts) > 20


def test_every_key_of_a_config_is_listed(smallest: Path) -> None:
    listed = {key.name for section in train_sections() for key in section.keys}
    config = load_config(smallest).model_dump(mode="json")

    def keys(value: Any, name: str) -> Iterator[str]:
        if isinstance(value, dict) and value and name not in ("rewards", "dataset.options"):
            for key, inner in value.items():
                yield from keys(inner, f"{name}.{key}" if name else key)
        else:
            yield name

    written = set(keys(config, ""))
    assert written - listed == {"policy.settings"}  # only what was given is written of it
    settings = {name for name in listed if name.startswith("policy.settings.")}
    assert listed - written == settings
    assert len(settings) == 19


def test_the_listed_default_is_what_a_config_gets(smallest: Path) -> None:
    config = load_config(smallest)
    for section in train_sections():
        for key in section.keys:
            value: Any = config
            for part in key.name.split("."):
                value = value[part] if isinstance(value, dict) else getattr(value, part)
            if key.default is not None:
                assert parse_yaml(key.default, key.name) == value, key.name


def test_reasons_are_given_for_our_own_defaults_only(smallest: Path) -> None:
    config = load_config(smallest, ["trainer.beta=0.01", "trainer.max_steps=3"])
    (trainer,) = (section for section in train_sections(config) if section.name == "trainer")
    says = {key.name: (key.default, key.says) for key in trainer.keys}
    assert says["trainer.beta"] == ("0.01", "")
    assert says["trainer.max_steps"] == ("3", "")
    assert says["trainer.epsilon_high"][1].startswith("Clip-higher")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], ("synthetic-aerial", "val", 1200)),
        (["eval.split=test", "eval.options={scenes: 3}"], ("synthetic-aerial", "test", 18)),
        (["dataset.options={scenes: 2}"], ("synthetic-aerial", "val", 12)),
        (["dataset.options={scenes: 2}", "eval.options={}"], ("synthetic-aerial", "val", 1200)),
    ],
)
def test_the_held_out_set_is_opened_as_the_config_says(
    smallest: Path, overrides: list[str], expected: tuple[str, str, int]
) -> None:
    held_out = load_config(smallest, overrides).open_held_out()
    assert (held_out[0].dataset, held_out[0].split, len(held_out)) == expected


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_shipped_config_loads_and_names_things_that_exist(path: Path) -> None:
    config = load_config(path)
    build_reward(config.rewards)
    assert config.dataset.split in dataset_info(config.dataset.name).splits
    assert config.eval.split in dataset_info(config.eval.dataset or config.dataset.name).splits
    if config.eval.split == config.dataset.split:  # the same images, but other questions about them
        asked, held_out = (one.options["questions"] for one in (config.dataset, config.held_out))
        assert (asked, held_out) == ("asked", "held-out")
    for other in config.other_sets.values():
        assert other.split in dataset_info(other.name).splits
        assert (other.name, other.split) != (config.dataset.name, config.dataset.split)


@pytest.mark.parametrize("path", COLD_STARTS, ids=lambda path: path.stem)
def test_each_cold_start_config_loads_and_names_things_that_exist(path: Path) -> None:
    config = load_config_model(ColdStartConfig, path)
    known = opener_options(config.dataset)  # imports it
    assert config.options.keys() <= known.keys() | reading_options(config.dataset).keys()
    assert config.split in dataset_info(config.dataset).splits or is_import(config.dataset)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes" / "configs").glob("elisa*.yaml")), ids=lambda path: path.stem
)
def test_each_elisa_config_loads_and_names_things_that_exist(path: Path) -> None:
    config = load_config_model(ElisaConfig, path)
    assert config.split in dataset_info(config.dataset).splits


def test_there_are_shipped_configs() -> None:
    assert COLD_STARTS
    assert {"synthetic-aerial", "aerial-buildings"} <= {path.stem for path in CONFIGS}
