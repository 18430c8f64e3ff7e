"""Parts of the user's own, given as "module:callable": how each kind is called, what a wrong one is told."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from envs.datasets import dataset_info, may_open, open_dataset, split_name
from envs.executors import open_executor
from envs.executors.config import ExecutorConfig
from envs.executors.families import build_segmenter
from envs.executors.families.box import BoxSegmenter
from envs.masks import encode_rle
from envs.rollout import Rollout
from eval.answerers import build_answerer
from eval.answerers.baselines import BaselineAnswerer
from eval.protocols import PROTOCOLS, get_protocols
from prompter.checkpoint import load_policy, resolve_source
from prompter.errors import UserError
from prompter.types import Instance, PromptSet
from recipes import cli
from recipes.commands.arguments import executor_name, parse_executor
from rewards.instances import needs_instances
from rewards.registry import build_reward

SQUARE = np.pad(np.ones((4, 4), bool), 3)


@pytest.fixture
def rollout() -> Rollout:
    """An answer that found its target, a square of 4 pixels in an image of 10."""
    return Rollout(
        sample_id="0",
        dataset="own",
        split="test",
        image_id="0",
        image_wh=(10, 10),
        query="the square",
        target=encode_rle(SQUARE),
        completion="an answer",
        reading=PromptSet((Instance(box=(3, 3, 7, 7)),)),
        prediction=encode_rle(SQUARE),
    )


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put objects into a module `own_parts` that can be imported."""
    module = ModuleType("own_parts", "Parts of a user.")
    monkeypatch.setitem(sys.modules, "own_parts", module)
    return lambda **parts: vars(module).update(parts)


class TestRewards:
    def test_it_is_weighed_and_stored_under_its_text(
        self, own: Callable[..., None], rollout: Rollout
    ) -> None:
        own(length=lambda one: float(len(one.completion)))
        breakdown = build_reward({"mask_iou": 1.0, "own_parts:length": 0.5})(rollout)
        assert breakdown.parts["own_parts:length"] == len(rollout.completion)
        assert breakdown.total == breakdown.parts["mask_iou"] + 0.5 * len(rollout.completion)

    def test_none_makes_no_score(self, own: Callable[..., None], rollout: Rollout) -> None:
        own(unknown=lambda one: None)
        assert build_reward({"own_parts:unknown": 1.0})(rollout).total is None

    def test_it_may_ask_for_instances(self, own: Callable[..., None]) -> None:
        own(plain=lambda one: 0.0, asking=needs_instances(lambda one: 0.0))
        assert not build_reward({"own_parts:plain": 1.0}).needs_instances
        assert build_reward({"own_parts:asking": 1.0}).needs_instances

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), "much", np.zeros(2)])
    def test_what_is_no_number_is_refused(
        self, own: Callable[..., None], rollout: Rollout, value: object
    ) -> None:
        own(wrong=lambda one: value)
        with pytest.raises(UserError, match="reward 'own_parts:wrong' should return a finite number or None"):
            build_reward({"own_parts:wrong": 1.0})(rollout)

    @pytest.mark.parametrize("value", [1, np.float32(0.5), True])
    def test_numbers_of_every_kind_count(
        self, own: Callable[..., None], rollout: Rollout, value: Any
    ) -> None:
        own(number=lambda one: value)
        assert build_reward({"own_parts:number": 2.0})(rollout).total == 2 * float(value)


class TestDatasets:
    def test_it_is_opened_with_split_and_options(self, own: Callable[..., None]) -> None:
        class Source(list):
            def __init__(self, split: str, *, count: int = 1) -> None:
                super().__init__(["a sample"] * count)
                self.name, self.split = "own", split

        own(open_mine=Source)
        source = open_dataset("own_parts:open_mine", "any split", count="3")
        assert (source.split, len(source)) == ("any split", 3)
        assert dataset_info("own_parts:open_mine").splits == ()
        with pytest.raises(UserError, match=r"has no option 'cuont'\. Did you mean 'count'\?"):
            open_dataset("own_parts:open_mine", "test", cuont=3)

    def test_a_list_is_told_what_is_missing(self, own: Callable[..., None]) -> None:
        own(open_mine=lambda split: ["a sample"])
        with pytest.raises(UserError, match=r"should open an envs\.sample\.SampleSource, but gave a list"):
            open_dataset("own_parts:open_mine", "test")

    def test_the_split_follows_the_second_colon(self) -> None:
        assert split_name("own_parts:open_mine:test") == ("own_parts:open_mine", "test")
        assert split_name("manifest:a:b") == ("manifest", "a:b")
        with pytest.raises(UserError, match="One of your own is MODULE:CALLABLE, and MODULE:CALLABLE:SPLIT"):
            dataset_info(split_name("own_parts:open_mine")[0])

    def test_one_that_a_run_folder_names_needs_trust(self, caplog: pytest.LogCaptureFixture) -> None:
        assert may_open("manifest", False) and may_open("own_parts:open_mine", True)
        assert not caplog.text
        assert not may_open("os:system", False)
        assert "'os:system', and is not imported" in caplog.text


class TestSegmenters:
    def test_it_is_built_from_its_config(self, own: Callable[..., None]) -> None:
        seen: list[ExecutorConfig] = []
        own(build=lambda config: seen.append(config) or BoxSegmenter())
        config = parse_executor("own_parts:build:weights/my.pt,mask_threshold=0.5")
        assert config is not None and executor_name(config) == "own_parts:build:my.pt,mask_threshold=0.5"
        executor = open_executor(config)
        assert (seen[0].model, seen[0].mask_threshold) == ("weights/my.pt", 0.5)
        assert executor.name == "own_parts:build:my.pt"
        assert ExecutorConfig.from_text("own_parts:build").model is None

    def test_anything_else_that_it_builds_is_refused(self, own: Callable[..., None]) -> None:
        own(build=lambda config: "a segmenter")
        with pytest.raises(
            UserError, match=r"should build an envs\.executors\.base\.Segmenter, but built a str"
        ):
            build_segmenter(ExecutorConfig(family="own_parts:build"))

    def test_a_module_that_is_missing_is_named_when_it_is_built(self) -> None:
        with pytest.raises(ValidationError, match="there is no executor family 'mobile_sam'"):
            ExecutorConfig(family="mobile_sam")
        with pytest.raises(UserError, match=r"no module 'mobile_sams' .*Did you mean 'mobile-sam'"):
            build_segmenter(ExecutorConfig(family="mobile_sams:build"))


class TestProtocols:
    def test_it_stands_beside_the_others_under_its_own_name(self, own: Callable[..., None]) -> None:
        own(MINE=replace(PROTOCOLS["lisa"], name="mine"))
        assert [one.name for one in get_protocols(["strict", "own_parts:MINE", "strict"])] == [
            "strict",
            "mine",
        ]

    def test_two_may_not_have_one_name(self, own: Callable[..., None]) -> None:
        own(MINE=replace(PROTOCOLS["lisa"], name="mine"), LISA=PROTOCOLS["lisa"])
        own(OTHER=replace(PROTOCOLS["rela"], name="mine"))
        with pytest.raises(UserError, match="'own_parts:LISA' is named 'lisa', like another"):
            get_protocols(["own_parts:LISA"])
        with pytest.raises(UserError, match="'own_parts:OTHER' is named 'mine', like another"):
            get_protocols(["own_parts:MINE", "own_parts:OTHER"])

    def test_a_function_is_none(self, own: Callable[..., None]) -> None:
        own(metrics=lambda table: {})
        with pytest.raises(UserError, match="should be a ScoringProtocol, but is a function"):
            get_protocols(["own_parts:metrics"])


class TestAnswerers:
    def test_it_gets_what_follows_it_and_the_options(self, own: Callable[..., None]) -> None:
        seen = []
        own(build=lambda text, options: seen.append((text, options)) or BaselineAnswerer(lambda sample: None))
        build_answerer("own_parts:build:a:b", {"level": 3})
        build_answerer("own_parts:build")
        assert seen == [("a:b", {"level": 3}), ("", {})]

    def test_a_rule_is_a_baseline(self, own: Callable[..., None]) -> None:
        own(rule=lambda sample: "prompts")
        assert isinstance(build_answerer("baseline:own_parts:rule"), BaselineAnswerer)
        with pytest.raises(UserError, match="A baseline takes no options"):
            build_answerer("baseline:own_parts:rule", {"level": 3})

    def test_what_cannot_answer_is_refused(self, own: Callable[..., None]) -> None:
        own(build=lambda text, options: object())
        with pytest.raises(UserError, match="with `answer` and `close`, but made a object"):
            build_answerer("own_parts:build")

    def test_a_folder_of_that_name_is_a_checkpoint(
        self, own: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own(build=lambda text, options: object())
        monkeypatch.chdir(tmp_path)
        Path("own_parts:build").mkdir()
        with pytest.raises(UserError, match="policy 'own_parts:build' is of model family"):
            build_answerer("own_parts:build")


class TestModelFamilies:
    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        """The shipped policy as if it were of another family."""
        folder = tmp_path / "other"
        ignored = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(resolve_source("shipped:small-policy"), folder, ignore=ignored)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "glm4v"}))
        stated = json.loads((folder / "prompter.json").read_text())
        (folder / "prompter.json").write_text(json.dumps({**stated, "frame": None}))
        return folder

    def test_an_unlisted_one_is_tried_if_its_frame_is_given(self, other: Path) -> None:
        with pytest.raises(UserError, match=r"not supported.* give its setting `frame`"):
            load_policy(other)
        policy = load_policy(other, {"frame": "absolute"})
        assert (policy.family, policy.frame_kind) == ("glm4v", "absolute")
        assert policy.frame((640, 480)).kind == "absolute"

    def test_images_that_are_resized_in_another_way_are_refused(
        self, other: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers import AutoProcessor

        class Processor:
            image_processor = object()

        monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda name: Processor())
        with pytest.raises(UserError, match="without patch_size and merge_size"):
            load_policy(other, {"frame": "absolute"})


class TestCommands:
    def test_it_is_run_with_its_arguments(self, own: Callable[..., None]) -> None:
        seen: list[argparse.Namespace] = []
        own(
            add_arguments=lambda parser: parser.add_argument("--times", type=int),
            count=lambda arguments: seen.append(arguments) or 3,
        )
        assert cli.main(["own_parts:count", "--times", "2"]) == 3
        assert seen[0].times == 2

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("own_parts:count", "its add_arguments should be a callable, but is a NoneType"),
            ("own_parts:SIZE", "command 'own_parts:SIZE' should be a callable, but is a int"),
            ("trian:run", "no module 'trian' is installed or in this folder. Did you mean 'train'?"),
        ],
    )
    def test_a_mistake_is_a_sentence(
        self, own: Callable[..., None], capsys: pytest.CaptureFixture[str], name: str, message: str
    ) -> None:
        own(count=lambda arguments: 0, SIZE=3)
        assert cli.main([name]) == 2
        assert message in capsys.readouterr().err
