"""`prompter study` with `trains: systems`: three commands trained, asked the same questions, on one page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from prompter.runs.jsonl import read_lines
from recipes.cli import main
from tests.fixtures.systems import systems_fields

pytestmark = pytest.mark.smoke


class World:
    """The study's folder, and what was started on its behalf."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.study = folder / "systems.yaml"
        self.fields = systems_fields(folder)
        self.study.write_text(yaml.safe_dump(self.fields, sort_keys=False))
        self.started: list[tuple[str, ...]] = []

    def start(self, *words: str) -> None:
        """In the place of a process of its own, which would take longer to start than to train."""
        self.started.append(words)
        assert main(list(words)) == 0

    def run(self, *words: str, study: Path | None = None) -> int:
        self.started.clear()
        with pytest.MonkeyPatch.context() as patch:
            for module in ("recipes.study.apart", "recipes.systems.run"):
                patch.setattr(f"{module}.run_apart", self.start)
            return main(["study", str(study or self.study), "-o", str(self.out), *words])

    def record(self) -> Any:
        return json.loads((self.out / "study.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("systems"))
    assert made.run() == 0
    started = [words[0] for words in made.started]
    assert started == ["eval", "train", "eval", "seg-token", "eval", "elisa", "eval"]
    return made


def test_every_system_answers_the_same_questions_and_is_compared(world: World) -> None:
    found = world.record()
    assert found["questions"] == 8 and found["reference"] == "grpo"
    systems = {one["name"]: one for one in found["systems"]}
    assert list(systems) == ["base", "grpo", "seg-token", "elisa"]
    for one in systems.values():
        low, high = one["metrics"]["gIoU"]["interval"]
        assert low <= one["metrics"]["gIoU"]["value"] <= high
    assert systems["grpo"]["against"] is None
    assert systems["elisa"]["against"]["gIoU"]["value"] == pytest.approx(
        systems["elisa"]["metrics"]["gIoU"]["value"] - systems["grpo"]["metrics"]["gIoU"]["value"]
    )
    assert {axis["tag"] for axis in found["axes"]} <= {
        "granularity",
        "multiplicity",
        "reasoning",
        "length",
        "target-size",
    }
    for axis in found["axes"]:
        assert sum(one["questions"] for one in axis["values"]) <= 8


def test_costs_are_what_the_runs_kept(world: World) -> None:
    costs = {one["name"]: one["cost"] for one in world.record()["systems"]}
    assert costs["base"] is None
    assert (costs["grpo"]["questions"], costs["grpo"]["completions"]) == (4, 32)
    assert [costs[name]["questions"] for name in ("seg-token", "elisa")] == [8, 4]
    assert all(one["completions"] == 0 for name, one in costs.items() if name not in ("base", "grpo"))
    trained = [one for name, one in costs.items() if name != "base"]
    assert all(one["minutes"] is not None and one["weights"] > 0 for one in trained)
    assert all(one["seconds"] > 0 and one["megabytes"] > 0 for one in trained)
    # Adapters of rank 4 are fewer than whole weights.
    assert costs["grpo"]["weights"] < costs["elisa"]["weights"]
    assert list(read_lines(world.out / "elisa" / "seed-0" / "metrics.jsonl"))[-1]["step"] == 1


def test_the_page_shows_figures_costs_and_the_same_questions_and_fetches_nothing(world: World) -> None:
    page = (world.out / "study.html").read_text(encoding="utf-8")
    assert "It was shown noise." in page and "Drawn" not in page.partition("<h2>")[0]
    for heading in ("How to read this", "What training cost", "The same questions, answered by all"):
        assert heading in page
    pictures = page.count("<figure>")
    assert pictures == page.count("data:image/jpeg") and pictures == 5 * page.count('<article class="case">')
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page) and "url(" not in page
    assert (world.out / "study.md").read_text(encoding="utf-8").count("| elisa |") >= 3


def test_what_is_finished_is_skipped_and_what_was_broken_off_is_trained_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.run("--list") == 0
    assert capsys.readouterr().out.count(" finished") == 3
    before = world.record()
    # As a run leaves it that was killed before it saved anything, and one whose evaluation was lost.
    run = world.out / "seg-token" / "seed-0"
    for name in ("policy", "trainer", "metrics.jsonl", "benchmark"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(world.out / "elisa" / "seed-0" / "benchmark")
    assert world.run() == 0
    assert [words[0] for words in world.started] == ["seg-token", "eval", "eval"]
    again = world.record()
    for record in (before, again):
        for one in record["systems"]:
            del one["cost"]
    assert again == before
    assert world.run("--rescore") == 0 and not world.started


def test_what_does_not_fit_is_one_sentence(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(message: str, *words: str, **changes: Any) -> None:
        path = tmp_path / "changed.yaml"
        path.write_text(yaml.safe_dump({**world.fields, **changes}, sort_keys=False))
        capsys.readouterr()
        assert world.run(*words, study=path) == 2
        assert re.search(message, capsys.readouterr().err)

    arms = world.fields["arms"]
    longer = {**arms, "elisa": {**arms["elisa"], "set": {"steps": 3}}}
    refused("'elisa' is to be asked as many questions as 'grpo', 4, but is asked 12", arms=longer)
    other = {**arms, "seg-token": {**arms["seg-token"], "set": {"dataset": "gres"}}}
    refused("sets 'dataset', but 'dataset' is the same for all systems", arms=other)
    moved = {**arms, "seg-token": {**arms["seg-token"], "set": {"steps": 2, "learning_rate": 0.5}}}
    refused("holds a run with learning_rate 0.0003, but arm 'seg-token' has 0.5", arms=moved)
    refused("answers other questions than the study asks now", "--rescore", "--questions.limit", "5")
    refused("there is no arm 'elsa'. Did you mean 'elisa'", "--only", "elsa")
    refused("arm 'x': .*unknown key 'stepz'", arms={"x": {**arms["elisa"], "set": {"stepz": 1}}})
    refused("'base' is what the untrained checkpoint is called", arms={"base": arms["grpo"]})


def test_rounds_go_on_from_each_other(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "told.yaml"
    imitated = {"output_dir": "x", "queries_per_image": 1, "batch_size": 4, "warmup_steps": 0, "threads": 1}
    told.write_text(yaml.safe_dump({**imitated, "steps": 1, "probe_samples": 2, "options": {"runs": ["x"]}}))
    grpo = world.fields["arms"]["grpo"]
    study = tmp_path / "rounds.yaml"
    arms = {
        "grpo": grpo,
        # Nothing that this policy draws is good: any answer will do.
        "told": {
            "command": "cold-start",
            "base": str(told),
            "answers": "grpo",
            "set": {"options.floor": 0.0},
        },
        "again": {**grpo, "after": "told"},
        "further": {**grpo, "after": "again"},
    }
    study.write_text(yaml.safe_dump({**world.fields, "arms": arms}, sort_keys=False))
    assert world.run("--only", "again", study=study) == 2
    assert "'again' goes on from 'told', which is not finished with seed 0" in capfd.readouterr().err
    assert world.run(study=study) == 0
    # The base and `grpo` have been asked by the world's own study.
    assert [words[0] for words in world.started] == ["cold-start", "eval", "train", "eval", "train", "eval"]
    found = world.record()
    systems = {one["name"]: one for one in found["systems"]}
    assert systems["told"]["kind"] == "prompter cold-start, best answers of grpo"
    assert systems["again"]["kind"] == "prompter train, after told"
    assert systems["again"]["equal"] == "", "it takes longer than what it goes on from"
    costs = {name: one["cost"] for name, one in systems.items() if name != "base"}
    assert [costs[name]["completions"] for name in arms] == [32, 32, 64, 96]
    assert costs["grpo"]["minutes"] < costs["told"]["minutes"] < costs["again"]["minutes"]
    for gain in found["gains"]:
        total = sum(part["difference"] for part in gain["parts"].values())
        assert gain["from_start"]["difference"] == pytest.approx(total)
    assert [one["name"] for one in found["gains"]] == list(arms)
    page = (world.out / "study.html").read_text(encoding="utf-8")
    assert "Gained over the base, and where" in page
    assert world.run("--rescore", study=study) == 0 and not world.started
