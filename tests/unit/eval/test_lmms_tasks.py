"""A benchmark as a task of lmms-eval, without lmms-eval: what its functions say and compute."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from envs.datasets import open_dataset
from envs.executors.config import ExecutorConfig
from envs.oracle import oracle_prompts, target_masks
from envs.rollout import Rollout
from eval.lmms_tasks import functions, model
from eval.lmms_tasks.task import TaskSettings, open_task
from eval.lmms_tasks.write import chosen_metrics, task_name, write_task
from eval.metrics import table_for
from eval.protocols import PROTOCOLS, apply
from prompter.errors import UserError

BENCHMARK = "synthetic-aerial:test"


def task_docs(folder: Path, count: int = 6, **policy_options: Any) -> list[dict[str, Any]]:
    """Write a task of the first few samples, boxes scored as they are; return its records."""
    settings = TaskSettings(
        benchmark=BENCHMARK,
        policy_options={"image": {"side": 280}, **policy_options},
        executor=ExecutorConfig(family="box"),
        metrics=chosen_metrics(["strict", "rela"]),
    )
    path = write_task(folder, settings, open_dataset("synthetic-aerial", "test"), count)
    return [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]


def oracle_answers(docs: list[dict[str, Any]]) -> list[str]:
    """The true boxes and a point in each, as a model should write them."""
    texts = []
    for doc in docs:
        task = open_task(doc["task_file"])
        sample = task.sample(doc)
        prompts = oracle_prompts(target_masks(sample), box=True, points=1)
        texts.append(task.policy.write_answer(prompts, sample.image_wh))
    return texts


def test_the_yaml_names_functions_that_exist_and_metrics_of_the_protocols(tmp_path: Path) -> None:
    task_docs(tmp_path)

    class Loader(yaml.SafeLoader):
        """Reads `!function` as the name it holds, as lmms-eval's own listing does."""

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    [path] = tmp_path.glob("*.yaml")
    config = yaml.load(path.read_text(), Loader=Loader)
    assert config["task"] == path.stem == task_name(BENCHMARK) == "prompter_synthetic_aerial_test"
    assert (
        Path(config["dataset_kwargs"]["data_files"][config["test_split"]])
        == path.with_suffix(".jsonl").resolve()
    )
    names = [config[key] for key in config if key.startswith("doc_to") or key == "process_results"]
    for name in [*names, *(one["aggregation"] for one in config["metric_list"])]:
        module, _, function = name.rpartition(".")
        assert module == functions.__name__ and callable(getattr(functions, function))
    assert config["generation_kwargs"]["until"] == []
    listed = {one["metric"]: one["higher_is_better"] for one in config["metric_list"]}
    assert listed["strict gIoU"] and listed["rela T-acc"] and not listed["strict parse-failures"]


def test_a_model_is_asked_as_the_policy_options_say(tmp_path: Path) -> None:
    doc = task_docs(tmp_path, 1, frame="thousandths")[0]
    [image] = functions.doc_to_visual(doc)
    assert image.size == (280, 280) and image.mode == "RGB"
    text = functions.doc_to_text(doc)
    assert doc["query"] in text and "from 0 to 1000" in text and "bbox_2d" in text
    system, user = functions.doc_to_messages(doc, {})
    assert system["role"] == "system" and user["role"] == "user"
    assert [part["type"] for part in user["content"]] == ["image", "text"]
    assert user["content"][0]["url"].tobytes() == image.tobytes()
    assert functions.doc_to_target(doc) == doc["sample_id"]


def test_metrics_are_those_of_our_protocols_over_the_same_rollouts(tmp_path: Path) -> None:
    docs = task_docs(tmp_path)
    texts = [*oracle_answers(docs)[:-2], "<answer>[]</answer>", "I see nothing"]
    values = [functions.process_results(doc, [text]) for doc, text in zip(docs, texts, strict=True)]
    rollouts = [Rollout.from_json(one["strict gIoU"]["rollout"]) for one in values]
    assert [rollout.completion for rollout in rollouts] == texts
    for name in ("strict", "rela"):
        protocol = PROTOCOLS[name]
        ratios = apply(protocol, table_for(rollouts, [protocol]))
        for metric, ratio in ratios.items():
            key = functions.metric_name(name, metric)
            if key in values[0]:
                result = functions.aggregate([one[key] for one in values])
                assert result == ratio.value() or (ratio.value() is None and result != result)
    assert functions.aggregate([one["strict parse-failures"] for one in values]) == pytest.approx(1 / 6)
    assert [one["strict gIoU"]["score"] for one in values][-1] == 0.0
    assert json.loads(json.dumps(values)) == json.loads(json.dumps(values, allow_nan=False))


def test_a_benchmark_that_has_changed_is_refused(tmp_path: Path) -> None:
    doc = {**task_docs(tmp_path, 1)[0], "sample_id": "another"}
    with pytest.raises(UserError, match="does not hold sample 'another' at place 0 any more"):
        functions.doc_to_visual(doc)
    with pytest.raises(UserError, match=r"task .*nowhere.json"):
        functions.doc_to_text({**doc, "task_file": str(tmp_path / "nowhere.json")})


def test_unknown_metrics_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'gIoU'"):
        chosen_metrics(["strict"], ["gIou"])
    with pytest.raises(UserError, match="frame"):
        task_docs(tmp_path, 1, frame="pixels")


def test_the_model_answers_our_records_alone(tmp_path: Path) -> None:
    docs = task_docs(tmp_path, 5)
    answers = model.PolicyAnswers("baseline:oracle-box-point", 2, {})
    assert answers.texts(docs) == oracle_answers(docs)
    with pytest.raises(UserError, match="tasks written by"):
        answers.texts([{"question": "?"}])


def test_a_task_that_would_misread_the_policy_is_refused(tmp_path: Path) -> None:
    answers = model.PolicyAnswers("shipped:small-policy", 2, {"sampler.backend": "hf"})
    with pytest.raises(UserError, match=r"action_space .*protocol_from=shipped:small-policy"):
        answers.texts(task_docs(tmp_path, 2))
    (tmp_path / "right").mkdir()
    docs = task_docs(tmp_path / "right", 2, protocol_from="shipped:small-policy", image={"side": 128})
    assert all(answers.texts(docs))


def test_the_model_is_made_only_where_lmms_eval_is() -> None:
    if importlib.util.find_spec("lmms_eval") is None:
        with pytest.raises(ModuleNotFoundError):
            getattr(model, model.CLASS)
    else:
        assert getattr(model, model.CLASS).__name__ == model.CLASS
        assert model.manifest().simple_class_path == f"{model.__name__}.{model.CLASS}"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        model.nothing  # noqa: B018
