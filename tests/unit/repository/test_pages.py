"""Pages that repeat what the code says: sentences of errors, and names of figures."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import fields
from pathlib import Path

from PIL import Image

from envs.datasets import open_dataset
from envs.datasets.manifest import KEYS
from envs.executors.base import ExecutorCounters
from envs.masks import decode_rle
from eval.metrics import table_for
from eval.protocols import PROTOCOLS
from recipes.training.metrics import describe_groups
from tests.unit.repository.test_imports import FILES, ROOT

TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
METRICS = (ROOT / "docs" / "metrics.md").read_text("utf-8")
SENTENCES = re.findall(r"^\*\*`([^`]+)`\*\*", TROUBLES, re.MULTILINE)


def texts(path: Path) -> list[str]:
    """The texts of a file; in those with values put in, "…" stands for each value."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append(
                "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def plain(text: str) -> str:
    """With every value, and what stands at its edge, as one sign."""
    return re.sub(r"[…\s]*…[…\s]*", "…", text)


def test_each_sentence_of_the_page_is_one_that_the_code_says() -> None:
    assert len(SENTENCES) >= 30 and len(set(SENTENCES)) == len(SENTENCES)
    said = "\0".join(plain(text) for path in FILES for text in texts(path) if len(text) > 20)
    assert [one for one in SENTENCES if plain(one).strip("…") not in said] == []


def test_every_figure_that_is_logged_stands_on_the_page() -> None:
    named = set(re.findall(r"`([^`\s]+)`", METRICS))
    logged = {
        *describe_groups([], {}),
        *(item.name for item in fields(ExecutorCounters)),
        *PROTOCOLS["strict"].metrics(table_for([], [PROTOCOLS["strict"]])),
        *("drift", "importance_ratio_mean", "importance_ratio_max", "groups_trained_on", "staleness"),
    }
    assert len(logged) > 40 and logged - named == set()


def test_every_figure_of_a_stored_run_stands_on_the_page() -> None:
    """TRL's own among them: those of runs that were stored before."""
    named = set(re.findall(r"`([^`\s]+)`", METRICS))
    lines = [
        json.loads(line)
        for path in (ROOT / "tests" / "golden" / "before_move").rglob("metrics.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert lines
    logged = {key for line in lines if line["kind"] in ("train", "eval") for key in line}
    assert logged - named - {"step"} == set()


def test_the_lines_of_the_data_page_are_a_manifest(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "data.md").read_text("utf-8")
    lines = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    for name in ("tiles", "masks"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (100, 80)).save(tmp_path / "tiles" / f"{name}.png")
    Image.new("L", (100, 80), 255).save(tmp_path / "masks" / "a-roof.png")
    (tmp_path / "my.jsonl").write_text(lines)
    found = [*open_dataset("manifest", "train", path=tmp_path / "my.jsonl")]
    areas = [decode_rle(one.target).sum() for one in found if one.target is not None]
    assert areas[0] == 8000 and abs(areas[1] - 780) < 5 and areas[2] == 0  # a rectangle and a triangle
    keys = set(re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \|", page, re.MULTILINE)[0]) | set(
        re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    )
    assert keys == set(KEYS)
