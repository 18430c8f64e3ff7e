"""`prompter export` of several policies: the mean of their weights, of policies that have one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from prompter.checkpoint import load_policy, load_weights
from prompter.errors import UserError
from prompter.sampling.weights import named_weights
from recipes.cli import main
from recipes.exporting.export import export
from tests.fixtures.tiny_policy import save_random_adapter

POLICY = "shipped:small-policy"


def weights_of(folder: Path | str) -> dict[str, torch.Tensor]:
    return {
        name: value.clone() for name, value in named_weights(load_weights(load_policy(folder), dtype="auto"))
    }


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three adapters of the shipped policy."""
    parent, policy = tmp_path_factory.mktemp("adapters"), load_policy(POLICY)
    return [save_random_adapter(policy, parent / f"seed-{seed}", seed=seed, base=POLICY) for seed in range(3)]


@pytest.fixture(scope="module")
def singles(adapters: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Each exported by itself."""
    parent = tmp_path_factory.mktemp("singles")
    return [export(str(folder), parent / folder.name) for folder in adapters]


@pytest.mark.parametrize("kind", ["adapters", "whole"])
def test_the_weights_are_the_mean(
    kind: str, adapters: list[Path], singles: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = adapters if kind == "adapters" else singles
    assert main(["export", *map(str, given), "-o", str(tmp_path / "mean")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "mean")
    mean, parts = weights_of(tmp_path / "mean"), [weights_of(one) for one in singles]
    assert any(not torch.equal(parts[0][name], parts[1][name]) for name in parts[0])
    for name, value in mean.items():
        torch.testing.assert_close(value, torch.stack([one[name] for one in parts]).mean(0))
    card = (tmp_path / "mean" / "README.md").read_text()
    assert "the mean of those of 3 policies" in card and str(tmp_path) not in card
    assert load_policy(tmp_path / "mean").settings == load_policy(POLICY).settings


def test_the_sum_is_made_in_float32(singles: list[Path], tmp_path: Path) -> None:
    halves = [export(str(one), tmp_path / one.name, dtype="bfloat16") for one in singles]
    mean = weights_of(export([str(one) for one in halves], tmp_path / "mean"))
    parts = [weights_of(one) for one in halves]
    for name, value in mean.items():
        assert value.dtype == torch.bfloat16
        exact = torch.stack([one[name].float() for one in parts]).mean(0)
        torch.testing.assert_close(value.float(), exact, rtol=2**-8, atol=1e-7)


def refused(given: list[Path | str], target: Path) -> str:
    with pytest.raises(UserError) as refusal:
        export([str(one) for one in given], target)
    assert not target.exists()
    return str(refusal.value)


def test_one_that_is_there_twice_is_refused(adapters: list[Path], tmp_path: Path) -> None:
    again = tmp_path / "link"
    again.symlink_to(adapters[0])
    assert "named twice" in refused([adapters[0], adapters[1], again], tmp_path / "mean")


def test_one_that_is_asked_otherwise_is_refused(singles: list[Path], tmp_path: Path) -> None:
    other = shutil.copytree(singles[1], tmp_path / "other")
    settings = json.loads((other / "prompter.json").read_text())
    (other / "prompter.json").write_text(json.dumps({**settings, "max_new_tokens": 50}))
    assert "is asked otherwise than" in refused([singles[0], other], tmp_path / "mean")


def test_one_that_began_as_another_policy_is_refused(
    adapters: list[Path], singles: list[Path], tmp_path: Path
) -> None:
    other = shutil.copytree(adapters[1], tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": str(singles[2])})
    )
    message = refused([adapters[0], other], tmp_path / "mean")
    assert "began as" in message and str(other) in message


def test_one_with_other_weights_is_refused(singles: list[Path], tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText

    other = shutil.copytree(singles[1], tmp_path / "other")
    config = AutoConfig.from_pretrained(other)
    config.text_config.num_hidden_layers -= 1
    AutoModelForImageTextToText.from_config(config).save_pretrained(other)
    message = refused([singles[0], other], tmp_path / "mean")
    assert "has other weights than" in message and "layers.4" in message
