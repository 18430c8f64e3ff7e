"""docs/extending.md works as it stands: its files are written to a folder and its commands run there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.cli import main
from rewards.replay import read_rollouts
from tests.fixtures.training import ROOT

pytestmark = pytest.mark.smoke

SHORTER = {
    "prompter train my_run.yaml": [
        *("--trainer.max_steps", "1", "--trainer.gradient_checkpointing", "false"),
        *("--policy.settings.max_new_tokens", "12", "--eval.samples", "2"),
        *("--trainer.num_generations", "4", "--trainer.per_device_train_batch_size", "4"),
    ]
}
"""What is added to a command of the page that would take minutes."""

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = {
    name: code
    for code, name in re.findall(r"^```\w+\n(# (\w+\.\w+)\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
}
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the page's files, as the current one; what is imported from it is forgotten again."""
    place = tmp_path_factory.mktemp("extending")
    for name, code in FILES.items():
        (place / name).write_text(code, encoding="utf-8")
    before, path = Path.cwd(), list(sys.path)
    os.chdir(place)
    yield place
    os.chdir(before)
    sys.path[:] = path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_the_page_has_a_file_and_a_command_for_each_kind() -> None:
    modules = {f"my_{kind}" for kind in ("data", "segmenter", "policies", "protocol", "rewards", "commands")}
    assert set(FILES) == {"my_run.yaml", *(f"{module}.py" for module in modules)}
    assert PAGE.count("```python") == len(modules)
    assert set(re.findall(r"\bmy_\w+(?=:\w)", "\n".join(COMMANDS))) == modules


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_of_the_page_runs(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = shlex.split(line)
    assert program == "prompter"
    assert main([*words, *SHORTER.get(line, [])]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip()


def metrics(run: str, executor: str, protocol: str = "strict") -> dict[str, float | None]:
    results = json.loads(Path(run, "results.json").read_text(encoding="utf-8"))
    return {name: one["value"] for name, one in results[executor]["protocols"][protocol]["metrics"].items()}


def test_what_the_commands_did(folder: Path) -> None:
    """After the commands above: the discs are found, and each part had its say."""
    assert (
        metrics("runs/brightest", "my_segmenter-build")["gIoU"] > 0.95 > metrics("runs/discs", "box")["gIoU"]
    )
    assert metrics("runs/corner", "box")["gIoU"] < 0.5
    assert metrics("runs/discs", "box", "mine")["P@0.75"] == 1.0
    assert metrics("runs/discs", "box", "mine").keys() == {"gIoU", "P@0.75"}
    rollouts = list(read_rollouts(Path("runs/mine/rollouts/step-00000001.jsonl")))
    assert {rollout.dataset for rollout in rollouts} == {"discs"}
    assert {rollout.executor for rollout in rollouts} == {"my_segmenter:build"}
    assert all("my_rewards:brief_iou" in rollout.rewards for rollout in rollouts)


def test_a_console_script_finds_the_current_folder(folder: Path) -> None:
    """A console script has its own folder on the path, not the current one; -P leaves it out likewise."""
    code = "import sys; from recipes.cli import main; sys.exit(main())"
    line = next(line for line in COMMANDS if line.startswith("prompter replay"))
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *shlex.split(line)[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "my_rewards:brief_iou" in done.stdout


def test_a_run_folder_imports_nothing_unless_it_is_trusted(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for run in ("runs/discs", "runs/mine"):  # an evaluation and a training run
        sys.modules.pop("my_data", None)
        caplog.clear()
        assert main(["report", run]) == 0
        assert "my_data" not in sys.modules
        assert "--trust" in caplog.text
        assert main(["report", run, "--trust"]) == 0
        assert "my_data" in sys.modules
