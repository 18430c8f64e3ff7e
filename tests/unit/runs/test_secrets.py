"""A config holds no key and no password, and what only looks like one is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prompter.errors import UserError
from prompter.runs.secrets import refuse_secrets
from prompter.runs.values import read_options
from recipes.cold_start.config import ColdStartConfig
from recipes.config import TrainConfig, load_config
from tests.unit.recipes.test_train_config import SMALLEST

WANDB = "0123456789abcdef" * 2 + "01234567"
HUB = "hf_" + "aB3" * 12


@pytest.mark.parametrize(
    ("key", "value", "variable"),
    [
        ("trainer.hub_token", HUB, "HF_TOKEN"),
        ("trainer.hub_token", "anything", "HF_TOKEN"),
        ("trainer.wandb_api_key", WANDB, "WANDB_API_KEY"),
        ("trainer.WANDB-API-KEY", "$WANDB_API_KEY", "WANDB_API_KEY"),
        ("trainer.run_name", WANDB, "the variable"),
        ("trainer.comet_api_key", "x", "COMET_API_KEY"),
        ("trainer.model_init_kwargs.token", "x", "the variable"),
        ("dataset.options.password", "x", "the variable"),
        ("dataset.options.root", "https://me:secret@example.org/data", "the variable"),
        ("dataset.options.headers.Authorization", "Bearer x", "the variable"),
        ("dataset.options.note", "sk-" + "a1B2" * 8, "the variable"),
        ("dataset.options.list", ["plain", "ghp_" + "a1B2" * 9], "the variable"),
        ("ray.env_vars.HF_TOKEN", "anything", "HF_TOKEN"),
        ("ray.env_vars.WANDB_API_KEY", WANDB, "WANDB_API_KEY"),
        ("ray.env_vars.AWS_SECRET_ACCESS_KEY", "anything", "AWS_SECRET_ACCESS_KEY"),
        ("ray.env_vars.GITHUB_TOKEN", "anything", "GITHUB_TOKEN"),
        ("ray.env_vars.NETRC", "https://me:secret@example.org/", "the variable"),
        ("ray.env_vars.MY_REGISTRY_PASS", "anything", "MY_REGISTRY_PASS"),
    ],
)
def test_a_key_is_refused_by_name_or_form_and_never_printed(
    tmp_path: Path, key: str, value: Any, variable: str
) -> None:
    text = value if isinstance(value, str) else value[-1]
    section: Any = value
    for part in reversed(key.split(".")):
        section = {part: section}
    with pytest.raises(UserError) as caught:
        refuse_secrets(section, "train.yaml")
    said = str(caught.value)
    assert said.startswith(f"train.yaml: {key}") and f"set {variable}" in said
    assert len(text) < 9 or text not in said
    # By a flag of `prompter train` as well, which would be written to the run folder all the same.
    path = tmp_path / "train.yaml"
    path.write_text(SMALLEST)
    flag = f"{key}=[plain, {text}]" if isinstance(value, list) else f"{key}={text}"
    with pytest.raises(UserError, match="holds a key or a password") as caught:
        load_config(path, [flag])
    assert len(text) < 9 or text not in str(caught.value)
    with pytest.raises(UserError, match="holds a key or a password"):
        read_options([flag], "--policy-option")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.pad_token", "<|endoftext|>"),
        ("trainer.eos_token", "<|im_end|>"),
        ("trainer.hub_token", None),
        ("trainer.vllm_importance_sampling_mode", "token_truncate"),
        ("policy.settings.max_new_tokens", 512),
        ("api_key_env", "MY_KEY"),
        ("executor.revision", WANDB),
        ("dataset.options.commit_id", WANDB),
        ("dataset.options.root", "https://example.org/a:b/data@2"),
        ("dataset.options.token", True),
        ("policy.model", "Qwen/Qwen2.5-VL-3B-Instruct"),
        ("run_dir", "runs/monkey-keyboard"),
        ("ray.env_vars.NCCL_SOCKET_IFNAME", "eth0"),
        ("ray.env_vars.HF_HOME", "/shared/hub"),
        ("ray.env_vars.TOKENIZERS_PARALLELISM", "false"),
        ("ray.env_vars.PROMPTER_CACHE", "/shared/cache"),
    ],
)
def test_what_is_no_key_is_left_alone(key: str, value: Any) -> None:
    section: Any = value
    for part in reversed(key.split(".")):
        section = {part: section}
    refuse_secrets(section, "train.yaml")


def test_no_key_of_our_own_configs_is_taken_for_a_secret() -> None:
    for model in (TrainConfig, ColdStartConfig):
        refuse_secrets(_filled(model), "ours")


def _filled(model: Any) -> dict[str, Any]:
    """Every key of a config with some text as its value."""
    from prompter.runs.config import section_model

    return {
        name: "text" if (inner := section_model(field.annotation)) is None else _filled(inner)
        for name, field in model.model_fields.items()
    }
