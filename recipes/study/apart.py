"""Commands of Prompter in processes of their own, which hear the signals that this one is sent."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from eval.results import RESULTS
from prompter.errors import InfrastructureError, RunStopped, UserError
from prompter.runs.config_keys import yaml_value
from recipes.study.config import StudyQuestions


def run_apart(*words: str) -> None:
    """`prompter WORDS` to its end.

    Raises:
        UserError, InfrastructureError: as the exit code says; the process has printed why.
        RunStopped: if it was asked to stop.
    """
    heard: list[str] = []
    process = subprocess.Popen([sys.executable, "-m", "recipes.cli", *words], start_new_session=True)

    def pass_on(number: int, frame: FrameType | None) -> None:
        heard.append(signal.Signals(number).name)
        process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        raise RunStopped(heard[0])
    if code:
        told = f"`prompter {' '.join(words)}` ended with exit code {code}; what it printed says why"
        raise InfrastructureError(f"{told}. The same command again goes on") if code == 3 else UserError(told)


def evaluate_apart(policy: str, executor: str, asked: StudyQuestions, out: Path) -> None:
    """`prompter eval` of a policy, unless that is done; one that was broken off goes on.

    Args:
        policy: as `--policy` takes it.
        executor: as `--executor` takes it.
        asked: the questions.
        out: folder of the evaluation.

    Raises:
        UserError, InfrastructureError, RunStopped: as `run_apart`.
    """
    if (out / RESULTS).exists():
        return
    words = ["--benchmark", asked.benchmark, "--policy", policy, "--executor", executor, "--out", str(out)]
    for key, value in asked.options.items():
        words += ["--dataset-option", f"{key}={yaml_value(value)}"]
    if asked.limit is not None:
        words += ["--limit", str(asked.limit)]
    run_apart("eval", *words)
