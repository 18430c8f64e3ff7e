"""Policies that read another's dialect: what is asked, what is kept of it, what a checkpoint may say."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from prompter.action import ActionSpace
from prompter.checkpoint import SETTINGS_FILE, SHIPPED, Checkpoint, load_policy
from prompter.dialects import DIALECTS, Dialect
from prompter.errors import UserError
from prompter.policy import ImageSettings, Policy, PolicySettings
from prompter.prompt_text import check_prompt, fill_prompt
from prompter.types import Completion, Instance, PromptSet
from recipes.config import PolicyConfig

OWN = replace(DIALECTS["qwen"], name="own", frame="thousandths", side=64)
"""A dialect of somebody's own, found as "tests.unit.prompter.test_dialects:OWN"."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3-VL checkpoint as the hub has it: no settings of ours, and the special tokens of boxes."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("hub") / "model"
    unwanted = shutil.ignore_patterns("*.safetensors", SETTINGS_FILE)
    shutil.copytree(SHIPPED / "small-policy", folder, ignore=unwanted)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(sorted(DIALECTS["box-tokens"].special_tokens), special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


def user_text(policy: Policy, query: str) -> str:
    parts = policy.messages(query)[-1]["content"]
    assert [part["type"] for part in parts] == ["image", "text"]
    return str(parts[1]["text"])


def test_every_dialect_says_where_it_is_from_and_how_it_asks() -> None:
    for name, dialect in DIALECTS.items():
        assert dialect.name == name and dialect.source
        assert bool(dialect.prompt) is (name != "prompter")
        if dialect.prompt:
            check_prompt(dialect.prompt)
    own = {one.name for one in fields(Dialect)}
    assert {"prompt", "frame", "side", "action_space", "special_tokens"} <= own


@pytest.mark.parametrize("name", [name for name in DIALECTS if name != "prompter"])
def test_a_dialect_brings_its_defaults_and_what_is_given_wins(hub: Path, name: str) -> None:
    dialect = DIALECTS[name]
    factor = 16  # of this checkpoint: 840 is no multiple of it
    overrides: dict[str, Any] = {"reads": name}
    if dialect.side:
        with pytest.raises(UserError, match=f"side {dialect.side} must be a multiple of {factor}"):
            load_policy(hub, overrides)
        overrides["image"] = {"side": 832}
    policy = load_policy(hub, overrides)
    assert policy.frame_kind == (dialect.frame or "thousandths")
    assert policy.settings.action_space == dialect.action_space
    assert policy.settings.out_of_frame == "clip" and policy.settings.swapped_corners == "sort"
    assert policy.system == "" and len(policy.messages("roof")) == 1
    asked = {"visionreasoner": '"the two red roofs"', "seg-zero": "'the two red roofs?'"}
    assert asked.get(name, "The two red roofs?.") in user_text(policy, "The two red roofs?.")
    given = load_policy(
        hub, {**overrides, "frame": "absolute", "action_space": {"kind": "box"}, "out_of_frame": "refuse"}
    )
    assert given.frame_kind == "absolute" and given.settings.action_space == ActionSpace(kind="box")
    assert given.settings.out_of_frame == "refuse"


def test_settings_of_ours_stay_what_they_were(hub: Path) -> None:
    assert load_policy(hub).settings == PolicySettings()
    policy = load_policy("shipped:small-policy")
    assert (policy.prompt, policy.settings.reads, policy.settings.out_of_frame) == ("", "prompter", "refuse")
    assert policy.thought_opened is False
    assert len(policy.messages("roof")) == 2


def test_one_answer_is_read_in_its_dialects_frame(hub: Path) -> None:
    policy = load_policy(hub, {"reads": "visionreasoner", "image": {"side": 832}})
    text = '<think>no</think><answer>[{"bbox_2d":[0,0,416,836],"point_2d":["208","416"]}]</answer>'
    answer = policy.read(Completion(text, (1,), None, "stop"), (1664, 832))
    assert answer.reading == PromptSet((Instance((0.0, 0.0, 832.0, 832.0), ((416.0, 416.0),)),))
    assert isinstance(answer.reading, PromptSet) and answer.reading.clipped == 1
    with pytest.raises(UserError, match="reads 'visionreasoner'"):
        policy.write_answer(answer.reading, (1664, 832))


def test_the_text_of_a_prompt_file_is_kept_and_not_its_path(hub: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(
        '\ufeff[system]\nYou segment.\n[user]\nFind {Question}. Say {"a": 1}.\n', encoding="utf-8"
    )
    policy = load_policy(hub, {"prompt_file": str(path), "reads": "qwen"})
    assert policy.settings.prompt_file is None and "You segment." in (policy.settings.prompt or "")
    system, user = policy.messages("a {query} of \\1")
    assert system["content"][0]["text"] == "You segment."
    assert user["content"][1]["text"] == 'Find a {query} of \\1. Say {"a": 1}.'
    policy.save_protocol(tmp_path / "saved")
    shutil.copy(hub / "config.json", tmp_path / "saved")
    path.unlink()
    again = load_policy(tmp_path / "saved")
    assert again.describe() == policy.describe() and again.messages("x") == policy.messages("x")
    # A training config keeps the text, too.
    path.write_text("Find {query}", encoding="utf-8")
    config = PolicyConfig.model_validate({"model": "x", "settings": {"prompt_file": str(path)}})
    assert config.setting_overrides() == {"prompt": "Find {query}"}
    assert config.model_dump(mode="json")["settings"] == {"prompt": "Find {query}"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Find it.", "no {query}"),
        ("[system]\n{query}\n[user]\nFind it.", "no {query}"),
        ("Find {Question}: {Answer}", "{Answer}, which nothing fills"),
        ('Find {query}: [{{"a": 1}}]', "single braces"),
        ("[user]\nFind {query}.", "marks turns"),
        ("[user]\nFind {query}.\n[system]\nBe brief.", "marks turns"),
        ("[System]\nBe brief.\n[User]\nFind {query}.", "marks turns"),
    ],
)
def test_a_prompt_that_would_ask_wrongly_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PolicySettings(prompt=text)
    assert message in str(caught.value)


def test_a_prompt_file_that_cannot_be_read_is_one_sentence(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe{query}")
    for name, message in (("nothing", "cannot be read"), ("bytes", "not text in UTF-8")):
        with pytest.raises(UserError, match=message) as caught:
            load_policy(hub, {"prompt_file": str(tmp_path / name)})
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_prompt_without_turns_is_the_users() -> None:
    assert fill_prompt("Find {query}!", "x") == ("", "Find x!")
    assert fill_prompt(" [system] \nA\n[user]\nFind {question}", "x") == ("A", "Find x")


def test_a_checkpoint_may_not_reach_out(hub: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    shutil.copytree(hub, folder)
    secret = tmp_path / "secret"
    secret.write_text("key {query}", encoding="utf-8")
    (folder / SETTINGS_FILE).write_text(json.dumps({"prompt_file": str(secret)}))
    with pytest.raises(UserError, match="names a prompt_file"):
        load_policy(folder)
    own = "tests.unit.prompter.test_dialects:OWN"
    (folder / SETTINGS_FILE).write_text(json.dumps({"reads": own}))
    with pytest.raises(UserError, match="which is code"):
        load_policy(folder)
    assert load_policy(folder, {"reads": own}).dialect is OWN


def test_a_dialect_of_ones_own(hub: Path) -> None:
    policy = load_policy(hub, {"reads": "tests.unit.prompter.test_dialects:OWN"})
    assert policy.dialect is OWN and policy.settings.image == ImageSettings(side=64)
    for name, message in (
        ("tests.unit.prompter.test_dialects:hub", "should be a Dialect"),
        ("visionreason", "Did you mean 'visionreasoner'?"),
    ):
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            load_policy(hub, {"reads": name})


def test_special_tokens_that_carry_the_answer_survive_decoding(hub: Path) -> None:
    policy = load_policy(hub, {"reads": "box-tokens"})
    tokenizer = policy.processor.tokenizer
    marked = "<|object_ref_start|>roof<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>"
    ids = (*tokenizer(marked)["input_ids"], tokenizer.convert_tokens_to_ids("<|im_end|>"))
    stripped = tokenizer.decode(ids, skip_special_tokens=True)
    assert "<|" not in stripped
    completion = Completion(stripped, ids, None, "stop")
    answer = policy.read(completion, (1000, 1000))
    assert answer.text.replace(" ", "") == marked and answer.tokens == len(ids)
    box = PromptSet((Instance((100.0, 200.0, 300.0, 400.0)),))
    assert answer.reading == box
    # Where they are lost, as at most endpoints, the text is enough.
    assert Policy.read(policy, replace(completion, token_ids=(0,)), (1000, 1000)).reading == box
    # A dialect that does not read them sees what it always saw.
    assert load_policy(hub).text_of(completion) == stripped


def test_a_chat_template_may_open_the_thought(hub: Path, tmp_path: Path) -> None:
    folder = tmp_path / "thinking"
    shutil.copytree(hub, folder)
    template = folder / "chat_template.jinja"
    opening = template.read_text().rstrip().removesuffix("{% endif %}") + "<think>\n{% endif %}"
    template.write_text(opening)
    policy: Checkpoint = load_policy(folder, {"action_space": {"kind": "box"}})
    draft = 'perhaps [{"bbox_2d":[0,0,10,10]}]'
    assert policy.thought_opened
    assert not isinstance(policy.parse(draft, (100, 100)), PromptSet)
    box = PromptSet((Instance((0.0, 0.0, 2.0, 2.0)),))
    assert policy.parse(f'{draft}</think>[{{"bbox_2d":[0,0,20,20]}}]', (100, 100)) == box
    told = load_policy(folder, {"thought_opened": False, "action_space": {"kind": "box"}})
    assert isinstance(told.parse(draft, (100, 100)), PromptSet)
    assert policy.describe()["thought_opened"] is True
