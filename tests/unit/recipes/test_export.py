"""`prompter export`: what is exported, what is refused, and that the folder is whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from prompter.checkpoint import SHIPPED, load_policy, load_weights
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from recipes.cli import main
from recipes.config import TrainConfig
from recipes.exporting import export as exporting
from recipes.exporting.export import export
from recipes.training.checkpoints import CHECKPOINT_FILES
from tests.fixtures.tiny_policy import save_random_adapter

POLICY = "shipped:small-policy"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the shipped policy, as a run leaves it."""
    parent = tmp_path_factory.mktemp("adapter")
    return save_random_adapter(load_policy(POLICY), parent / "random", seed=0, base=POLICY)


@pytest.fixture(scope="module")
def exported(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(str(adapter), tmp_path_factory.mktemp("export") / "demo", shard_size="6MB")


def make_run(folder: Path, **policy: Any) -> RunFolder:
    """A run of the shipped policy that was stopped after two steps, with no weights in its checkpoint yet."""
    config = TrainConfig.model_validate(
        {
            "run_dir": str(folder),
            "policy": {"model": POLICY, "settings": {"max_new_tokens": 77}, **policy},
            "dataset": {"name": "synthetic-aerial", "options": {"scenes": 3}},
            "executor": {"family": "box"},
            "trainer": {"max_steps": 4, "learning_rate": 0.5},
        }
    )
    run = RunFolder.create(folder)
    run.write_config(config.model_dump(mode="json"))
    for step, value in ((0, 0.25), (2, 0.5), (4, 0.75)):
        run.log_metrics(step, {"gIoU": value, "cIoU": value / 2}, kind="eval")
    checkpoint = run.checkpoints_dir / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    for name in CHECKPOINT_FILES:
        (checkpoint / name).write_text("{}")
    return run


def test_plain_transformers_loads_it_and_gives_what_base_and_adapter_give(
    exported: Path, adapter: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    policy = load_policy(POLICY)
    asked = [policy.messages("the red roof"), policy.messages("a car")]
    processor = AutoProcessor.from_pretrained(exported)
    texts = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    from PIL import Image

    images = [[Image.new("RGB", (128, 128), colour)] for colour in ("red", "grey")]
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    model: Any = AutoModelForImageTextToText.from_pretrained(exported)
    base: Any = load_weights(policy, dtype="auto")
    adapted = PeftModel.from_pretrained(base, adapter).eval()
    with torch.no_grad():
        mine, theirs = model.eval()(**inputs).logits, adapted(**inputs).logits
        with adapted.disable_adapter():
            before = adapted(**inputs).logits
    assert (mine - theirs).abs().max() < 1e-4
    assert (mine - before).abs().max() > 1e-2, "the adapter changes nothing: nothing is compared"


def test_the_folder_holds_shards_protocol_and_card_and_no_place_of_this_machine(exported: Path) -> None:
    shards = sorted(exported.glob("*.safetensors"))
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    assert len(shards) > 1 and set(index["weight_map"].values()) == {path.name for path in shards}
    assert all(path.stat().st_size < 7e6 and path.stat().st_mode & 0o044 == 0o044 for path in shards)
    assert load_policy(exported).settings == load_policy(POLICY).settings.model_copy(
        update={"frame": "thousandths"}
    )
    texts = [path.read_text() for path in exported.glob("*") if path.suffix in (".json", ".md", ".jinja")]
    assert not any(str(SHIPPED) in text or str(exported.parent) in text for text in texts)
    card = (exported / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["pipeline_tag"] == "image-text-to-text" and "base_model" not in head
    assert "stand under its licence" in card and "merged into the base; float32" in card


def test_a_run_gives_its_newest_checkpoint_and_the_card_says_what_made_it(
    tmp_path: Path, adapter: Path
) -> None:
    run = make_run(tmp_path / "run")
    checkpoint = run.checkpoints_dir / "checkpoint-2"
    shutil.copytree(adapter, checkpoint, dirs_exist_ok=True)
    folder = export(str(run.path), tmp_path / "out", dtype="bfloat16")
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert load_policy(folder).settings.max_new_tokens == 77, "as the run asked, not as the base did"
    card = (folder / "README.md").read_text()
    assert "- optimiser steps: 2" in card and "synthetic-aerial, split train" in card
    assert "| 0 | 0.25 | 0.125 |" in card and "| 2 | 0.5 | 0.25 |" in card
    assert "0.75" not in card, "figures of later steps are not this checkpoint's"
    assert str(tmp_path) not in card
    recipe = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert TrainConfig.model_validate(recipe).trainer["learning_rate"] == 0.5
    # The checkpoint itself is the same.
    assert export(str(checkpoint), tmp_path / "again").is_dir()


def test_a_checkpoint_of_all_weights_is_asked_as_its_run_asked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", lora=None)
    checkpoint = run.checkpoints_dir / "checkpoint-2"
    model = load_weights(load_policy(POLICY))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(2)
    model.save_pretrained(checkpoint)
    folder = export(str(run.path), tmp_path / "out")
    assert load_policy(folder).settings.max_new_tokens == 77
    assert "all were trained; float32" in (folder / "README.md").read_text()
    found = load_weights(load_policy(folder)).get_input_embeddings().weight
    assert torch.equal(found, model.get_input_embeddings().weight)


def test_what_cannot_be_exported_is_said(
    tmp_path: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "foreign").mkdir()
    shutil.copytree(adapter, tmp_path / "broken")
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"no tensors")
    shutil.copytree(adapter, tmp_path / "nameless")
    (tmp_path / "nameless" / "adapter_config.json").write_text("{}")
    run = make_run(tmp_path / "run")
    shutil.rmtree(run.checkpoints_dir / "checkpoint-2")
    new = tmp_path / "new"
    for source, target, says in (
        (str(adapter), tmp_path / "there", "exists already: name a new folder"),
        (str(tmp_path / "nothing"), new, "is no folder: give a run folder"),
        (str(tmp_path / "foreign"), new, "holds neither an adapter"),
        (str(tmp_path / "broken"), new, "does not go onto its model"),
        (str(tmp_path / "nameless"), new, "does not name the model that the adapter is for"),
        (str(run.path), new, "holds no whole checkpoint yet"),
        ("shipped:nothing", new, "no adapter 'nothing' is shipped"),
    ):
        with pytest.raises(UserError, match=says):
            export(source, target)
    assert main(["export", str(adapter), "-o", str(new), "--shard-size", "5"]) == 2
    assert "--shard-size 5 should be a size" in capsys.readouterr().err
    assert not new.exists()


def test_nothing_is_left_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "model_card", full)
    with pytest.raises(OSError, match="the disk is full: README"):
        export(POLICY, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
