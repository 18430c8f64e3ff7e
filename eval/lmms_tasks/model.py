"""The model `prompter` of lmms-eval: any policy that `prompter eval` takes, on tasks of `prompter lmms-task`.

    lmms-eval --model prompter --model_args policy=my-checkpoint --include_path tasks --tasks prompter_…

lmms-eval finds it by the entry point `lmms_eval.models` of this package (lmms-eval 0.7 and later).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from eval.answerers import build_answerer
from eval.lmms_tasks.task import open_task
from eval.probe.run import policy_of
from prompter.errors import UserError
from prompter.runs.values import read_options
from prompter.types import PromptSet

CLASS = "PrompterModel"

_READING = ("action_space", "reads", "frame", "out_of_frame", "swapped_corners", "thought_opened")
_SIZES = ("image", "factor")
"""Settings that decide what an answer's text means; sizes do where it speaks in pixels."""


def manifest() -> Any:
    """What lmms-eval's entry point asks for: name and class path of the model."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="prompter", simple_class_path=f"{__name__}.{CLASS}")


class PolicyAnswers:
    """Answers records of our tasks by a policy, several at a time.

    Args:
        policy: as `prompter eval --policy` takes it.
        batch_size: records answered together.
        options: policy options, `name` -> value as text or number.
    """

    def __init__(self, policy: str, batch_size: int, options: dict[str, Any]) -> None:
        texts = [f"{name}={value}" for name, value in options.items()]
        self._answerer = build_answerer(policy, read_options(texts, "--model_args"))
        self._name, self._checked = policy, set[str]()
        self._is_rule = policy.startswith("baseline:")
        self._batch = max(1, batch_size)

    def texts(self, docs: Sequence[dict[str, Any]]) -> list[str]:
        """The completion of each record, in order.

        A baseline answers in the image frame; its prompts are written as the task wants its answers.

        Raises:
            UserError: if a record is of another task, or its task would misread this policy's answers.
        """
        if any("task_file" not in doc for doc in docs):
            raise UserError("The model `prompter` answers tasks written by `prompter lmms-task` alone.")
        texts = []
        for start in range(0, len(docs), self._batch):
            batch = docs[start : start + self._batch]
            tasks = [open_task(doc["task_file"]) for doc in batch]
            for settings_file in {doc["task_file"] for doc in batch}:
                self._check_reads_alike(settings_file)
            samples = [task.sample(doc) for task, doc in zip(tasks, batch, strict=True)]
            for task, sample, answer in zip(tasks, samples, self._answerer.answer(samples), strict=True):
                if self._is_rule and isinstance(answer.reading, PromptSet):
                    texts.append(task.policy.write_answer(answer.reading, sample.image_wh))
                else:
                    texts.append(answer.text)
        return texts

    def _check_reads_alike(self, settings_file: str) -> None:
        """Raise UserError if a task reads answers otherwise than the policy itself would."""
        own, task = policy_of(self._answerer), open_task(settings_file).policy
        if own is None or settings_file in self._checked:
            return
        ours, theirs = own.describe(), task.describe()
        for key in (*_READING, *(_SIZES if ours["frame"] == "absolute" else ())):
            if ours[key] != theirs[key]:
                raise UserError(
                    f"The task {settings_file} reads answers with {key} {theirs[key]}, but the policy "
                    f"{self._name} answers with {ours[key]}; write the task again with "
                    f"`prompter lmms-task … --policy-option protocol_from={self._name}`."
                )
        self._checked.add(settings_file)


@lru_cache(maxsize=1)
def _model_class() -> type:
    """The class of the model. Made when asked for: its base is lmms-eval's, which may not be installed."""
    from lmms_eval.api.model import lmms

    class PrompterModel(lmms):
        """See this module. `model_args`: policy, and any policy option; `batch_size`: answered together."""

        def __init__(self, policy: str, batch_size: int | str = 1, device: str = "", **options: Any) -> None:
            super().__init__()
            options.pop("max_batch_size", None)
            self._answers = PolicyAnswers(policy, int(batch_size), options)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            docs = []
            for request in requests:
                *_, doc_id, task, split = request.args
                docs.append(dict(self.task_dict[task][split][doc_id]))
            return self._answers.texts(docs)

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            raise UserError("The model `prompter` answers once; it takes no task of several rounds.")

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            raise UserError(
                "The model `prompter` gives no log-probabilities; it takes tasks that are answered in text."
            )

    PrompterModel.__qualname__ = PrompterModel.__name__ = CLASS
    return PrompterModel


def __getattr__(name: str) -> Any:
    if name == CLASS:
        return _model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
