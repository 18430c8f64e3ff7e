"""The examples for clusters: YAML and shell that parse, commands that our parser takes, no open door."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from prompter.runs.secrets import refuse_secrets
from recipes.cli import build_parser, split_overrides
from recipes.config import load_config

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "examples" / "cluster"
FILES = sorted(FOLDER.iterdir())
PAGE = ROOT / "docs" / "cluster.md"


def train_commands(text: str) -> list[list[str]]:
    """The words after `prompter train` of every such command in a text."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"prompter train ((?:[^\n|&#`;]|(?<=\S)[#])*)", joined)
    return [shlex.split(words) for words in found]


def documents() -> dict[str, Any]:
    return {path.name: yaml.safe_load(path.read_text()) for path in FILES if path.suffix == ".yaml"}


def test_the_files_that_the_page_names_are_there() -> None:
    assert {path.name for path in FILES} == {"slurm.sbatch", "rayjob.yaml", "skypilot.yaml"}
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"examples/cluster/{path.name}" in text for path in FILES)


@pytest.mark.parametrize("path", [*FILES, PAGE], ids=lambda path: path.name)
def test_each_command_is_one_that_our_parser_takes(path: Path) -> None:
    commands = train_commands(path.read_text(encoding="utf-8"))
    assert commands
    for words in commands:
        own, overrides = split_overrides(build_parser("train"), words)
        arguments = build_parser("train").parse_args(own)
        load_config(arguments.config, overrides)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_run_that_is_started_again_goes_on(path: Path) -> None:
    assert all("--resume" in words for words in train_commands(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("text", ["slurm.sbatch", "setup", "run"])
def test_the_shell_parses(text: str) -> None:
    script = (FOLDER / text).read_text() if "." in text else documents()["skypilot.yaml"][text]
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_ray_job_is_whole() -> None:
    spec = documents()["rayjob.yaml"]["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"} and spec["shutdownAfterJobFinishes"] is True
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len(pods) == 2
    for pod in pods:
        (container,) = pod["template"]["spec"]["containers"]
        volumes = {volume["name"] for volume in pod["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    pinned = re.search(r'"ray\[default\]==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert pinned and cluster["rayVersion"] == pinned[1]


def test_no_file_holds_a_key_or_listens_everywhere() -> None:
    for name, data in documents().items():
        refuse_secrets(data, name)
    for path in [*FILES, PAGE]:
        text = path.read_text(encoding="utf-8")
        assert "0.0.0.0" not in text and "dashboard-host" not in text
        if "ray start --head" in text:
            assert "RAY_AUTH_MODE=token" in text and "--include-dashboard=false" in text
