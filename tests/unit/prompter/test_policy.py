"""Policies: the frame of each family, settings saved and overridden, images the processor leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prompter.checkpoint import SETTINGS_FILE, SHIPPED, Checkpoint, load_policy, load_weights, resolve_source
from prompter.errors import UserError
from prompter.types import Instance, PromptSet
from recipes.cold_start.small_policy import build_small_policy, number_token_ids
from tests.fixtures.tiny_policy import SIZE


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("tiny")
    return build_small_policy(folder, ["the largest building", "all ships"], size=SIZE)


@pytest.fixture(scope="module")
def qwen25(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-VL checkpoint folder as the hub has it: a processor, and no settings of ours."""
    return hub_folder(tiny, "qwen2_5_vl", tmp_path_factory.mktemp("qwen25"))


def hub_folder(tiny: Checkpoint, family: str, folder: Path) -> Path:
    from transformers import (
        AutoConfig,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    kind: Any = {"qwen2_vl": Qwen2VLProcessor, "qwen2_5_vl": Qwen2_5_VLProcessor}[family]
    processor = kind(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 12845056}),
        tokenizer=tiny.processor.tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tiny.processor.chat_template,
    )
    processor.save_pretrained(folder)
    AutoConfig.for_model(family).save_pretrained(folder)
    return folder


def test_frames_of_the_families(tiny: Checkpoint, qwen25: Path, tmp_path: Path) -> None:
    assert (tiny.family, tiny.frame((300, 200)).kind) == ("qwen3_vl", "thousandths")
    assert tiny.frame((300, 200)).model_wh == (64, 64)
    loaded = load_policy(qwen25)
    frame = loaded.frame((1000, 600))
    assert (loaded.family, frame.kind, frame.image_wh) == ("qwen2_5_vl", "absolute", (1000, 600))
    assert frame.model_wh == frame.extent == (1008, 588)
    older = load_policy(hub_folder(tiny, "qwen2_vl", tmp_path))
    assert older.frame((1000, 600)).kind == "thousandths"
    assert older.frame((1000, 600)).model_wh == frame.model_wh
    # The frame decides what an answer means.
    box = PromptSet((Instance((0.0, 0.0, 1000.0, 600.0)),))
    assert "[0,0,1008,588]" in loaded.write_answer(box, (1000, 600))
    assert "[0,0,1000,1000]" in tiny.write_answer(box, (1000, 600))
    assert loaded.parse(
        '[{"bbox_2d":[0,0,1008,588],"positive_points":[[504,294]]}]', (1000, 600)
    ) == PromptSet((Instance((0.0, 0.0, 1000.0, 600.0), ((500.0, 300.0),)),))


def test_a_hub_checkpoint_gets_the_defaults_and_a_trained_one_its_own(tiny: Checkpoint, qwen25: Path) -> None:
    from prompter.policy import PolicySettings

    assert load_policy(qwen25).settings == PolicySettings()
    reopened = load_policy(tiny.source)
    assert reopened.settings == tiny.settings
    assert tiny.settings.instructions == "short" and not tiny.settings.think
    assert tiny.settings.question == "before" and tiny.settings.image.side == 64


def test_overrides_replace_settings_by_name(tiny: Checkpoint) -> None:
    changed = load_policy(tiny.source, {"think": True, "action_space": {"kind": "box"}})
    assert changed.settings.think and changed.settings.action_space.kind == "box"
    assert changed.settings.question == tiny.settings.question
    assert changed.system != tiny.system


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"thinks": True}, "policy settings : unknown key 'thinks'. Did you mean 'think'?"),
        ({"action_space": {"knd": "box"}}, "action_space: unknown key 'knd'. Did you mean 'kind'?"),
        ({"max_new_tokens": 1}, "max_new_tokens: Input should be greater than or equal to 8"),
        ({"image": {"min_pixels": 9, "max_pixels": 8}}, "min_pixels 9 is more than max_pixels 8"),
        ({"image": {"side": 100}}, "policy image side 100 must be a multiple of 16"),
    ],
)
def test_bad_settings_are_refused_by_name(tiny: Checkpoint, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_policy(tiny.source, overrides)
    assert message in str(caught.value).replace("settings: ", "settings : ")
    assert "\n" not in str(caught.value)


def test_a_protocol_survives_saving(tiny: Checkpoint, tmp_path: Path) -> None:
    from transformers import AutoConfig

    changed = load_policy(tiny.source, {"question": "after", "image": {"side": 96}})
    changed.save_protocol(tmp_path)
    AutoConfig.from_pretrained(tiny.source).save_pretrained(tmp_path)
    reopened = load_policy(tmp_path)
    assert reopened.settings == changed.settings.model_copy(update={"frame": "thousandths"})
    assert dict(reopened.processor.image_processor.size) == dict(changed.processor.image_processor.size)
    assert reopened.messages("roof") == changed.messages("roof")
    assert [part["type"] for part in reopened.messages("roof")[1]["content"]] == ["image", "text"]


def test_a_saved_frame_wins_over_the_familys(
    tiny: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = hub_folder(tiny, "qwen2_vl", tmp_path)
    for frame in ("absolute", "thousandths"):
        load_policy(folder, {"frame": frame}).save_protocol(folder)
        assert json.loads((folder / SETTINGS_FILE).read_text())["frame"] == frame
        assert load_policy(folder).frame_kind == frame
        assert load_policy(folder, {"frame": None}).frame_kind == "thousandths"  # asked for, so the family's
    assert not caplog.records


def test_a_qwen2_vl_policy_saved_before_frames_were_still_speaks_pixels(
    tiny: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = hub_folder(tiny, "qwen2_vl", tmp_path)
    (folder / SETTINGS_FILE).write_text(json.dumps({"think": False, "frame": None}))
    assert load_policy(folder).frame_kind == "absolute"
    assert SETTINGS_FILE in caplog.text and "names no frame" in caplog.text
    assert load_policy(folder, {"frame": "thousandths"}).frame_kind == "thousandths"


def test_a_small_policy_may_be_built_for_either_frame(tmp_path: Path) -> None:
    policy = build_small_policy(tmp_path, ["a"], size=SIZE, frame="absolute")
    assert policy.frame((300, 200)).extent == (64, 64)
    assert load_policy(tmp_path).frame_kind == "absolute"


def test_unreadable_settings_name_the_file(tiny: Checkpoint, tmp_path: Path) -> None:
    from transformers import AutoConfig

    tiny.save_protocol(tmp_path)
    AutoConfig.from_pretrained(tiny.source).save_pretrained(tmp_path)
    for text in ("{", "[]", '"x"', "\xff"):
        (tmp_path / SETTINGS_FILE).write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=SETTINGS_FILE) as caught:
            load_policy(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a checkpoint folder nor a model the hub") as caught:
        load_policy(tmp_path / "nothing")
    assert str(tmp_path / "nothing") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "hint"),
    [
        ("qwen3", "Did you mean 'qwen3_5'?"),
        ("qwen3_v", "Did you mean 'qwen3_vl'?"),
        ("llava", "Known: "),
        ("qwen9_vl", "Did you mean 'qwen"),
    ],
)
def test_another_model_family_is_refused_by_name(tmp_path: Path, family: str, hint: str) -> None:
    """A folder of weights of another family: it may hold no image processor, nor be known to transformers."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(UserError) as caught:
        load_policy(tmp_path)
    assert f"model family {family!r}, which is not supported." in str(caught.value)
    assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_a_checkpoint_without_weights_is_one_sentence(tiny: Checkpoint, tmp_path: Path) -> None:
    from transformers import AutoConfig

    tiny.save_protocol(tmp_path)
    AutoConfig.from_pretrained(tiny.source).save_pretrained(tmp_path)
    policy = load_policy(tmp_path)
    for content in (None, b"", b"version https://git-lfs"):
        if content is not None:
            (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="the weights of policy") as caught:
            load_weights(policy)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_shipped_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("small-policy", "tiny"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "half").mkdir()
    monkeypatch.setattr("prompter.checkpoint.SHIPPED", tmp_path)
    assert resolve_source("shipped:tiny") == str(tmp_path / "tiny")
    for name, hint in [
        ("smallpolicy", "Did you mean 'small-policy'?"),
        ("half", "Known: small-policy, tiny."),
        ("", "Known: small-policy, tiny."),
    ]:
        with pytest.raises(UserError) as caught:
            resolve_source(f"shipped:{name}")
        assert str(caught.value) == f"no policy {name!r} is shipped. {hint}"
    (tmp_path / "half" / "adapter_config.json").write_text("{}")
    assert resolve_source("shipped:half", "adapter") == str(tmp_path / "half")
    with pytest.raises(UserError, match="no adapter 'tiny' is shipped"):
        resolve_source("shipped:tiny", "adapter")
    assert resolve_source("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert resolve_source("C:/models/x") == "C:/models/x"


def test_shipped_checkpoints_lie_in_the_package() -> None:
    import prompter

    assert SHIPPED.parent == Path(prompter.__file__).parent


@pytest.mark.parametrize(
    "limits",
    [{"min_pixels": 65536, "max_pixels": 131072}, {"min_pixels": 90000, "max_pixels": 90000}],
    ids=str,
)
def test_the_processor_leaves_a_model_image_as_it_is(qwen25: Path, limits: dict[str, int]) -> None:
    policy = load_policy(qwen25, {"image": limits})
    for size in [(20, 30), (700, 300), (256, 256), (31, 699), (401, 400)]:
        image = policy.model_image(Image.new("RGB", size))
        assert image.size == policy.frame(size).model_wh
        made = policy.processor.image_processor(images=[image], return_tensors="pt")
        _, rows, columns = made["image_grid_thw"][0].tolist()
        assert (columns * 14, rows * 14) == image.size


def test_a_square_policy_sees_squares(tiny: Checkpoint) -> None:
    for size in [(64, 64), (31, 200), (640, 480)]:
        image = tiny.model_image(Image.new("RGB", size))
        assert image.size == (64, 64)
        grid = tiny.processor.image_processor(images=[image], return_tensors="pt")["image_grid_thw"]
        assert grid.tolist() == [[1, 8, 8]]
    same = Image.new("RGB", (64, 64))
    assert tiny.model_image(same) is same


def test_an_answer_of_the_small_policy_is_short(tiny: Checkpoint) -> None:
    """Coordinates and the fixed pieces of an answer are single tokens, and decoding gives the text back."""
    tokenizer = tiny.processor.tokenizer
    prompts = PromptSet((Instance((1.0, 2.0, 250.0, 199.0), ((17.0, 33.0),)), Instance((0.0, 0.0, 9.0, 9.0))))
    text = tiny.write_answer(prompts, (300, 200))
    tokens = tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokens) == text
    assert len(tokens) <= 10 + 2 * 10
    ids = number_token_ids(tokenizer)
    assert ids is not None and len(set(ids)) == 1001
    assert tokenizer.decode([ids[0], ids[1000]]) in ("01000", "0 1000")


def test_building_twice_with_one_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for number, seed in enumerate((3, 3, 4)):
        build_small_policy(tmp_path / str(number), ["a"], size=SIZE, seed=seed)
    first, second, third = (
        (tmp_path / str(number) / "model.safetensors").read_bytes() for number in range(3)
    )
    assert first == second != third
