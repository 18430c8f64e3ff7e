"""The published table holds every number of the sources it names, and leaderboards keep them apart."""

from __future__ import annotations

import argparse
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval.protocols import PROTOCOLS
from eval.report.leaderboard import Row, build_board, html, markdown, published_rows
from eval.report.published import UNSTATED, benchmarks, load_published, of_benchmark
from prompter.errors import UserError
from prompter.runs.run_folder import RunFolder
from recipes.commands import leaderboard as report_command

NUMBERS = load_published()


def value(system: str, benchmark: str, split: str, metric: str, source: str = "") -> float:
    found = [
        number.value
        for number in NUMBERS
        if (number.system, number.benchmark, number.split, number.metric)
        == (system, benchmark, split, metric)
        and source in number.source
    ]
    assert len(found) == 1, (system, benchmark, split, metric, found)
    return found[0]


@pytest.mark.parametrize(
    "source, count",
    [
        ("SegEarth-R2 paper, Table 2", 8 * 10 * 2),
        ("SegEarth-R2 paper, Table 3", 44),
        ("SegEarth-R2 paper, Table 4", 6 * 5),
        ("SegEarth-R2 paper, Table 5", 4 * 6),
        ("SegEarth-R2 paper, Table 6", 3 * 4),
        ("LISA ReasonSeg table", 15 * 8),
        ("ELISA slides, Results", 3 * 6 + 2 * 3),
        ("Think2Seg-RS abstract", 2),
        ("benchmark listing of Think2Seg-RS", 5),
    ],
)
def test_whole_tables_are_in(source: str, count: int) -> None:
    assert sum(number.source.startswith(source) for number in NUMBERS) == count


def test_spot_checks_against_the_sources() -> None:
    assert value("SegEarth-R2-3B", "lasers", "part_level", "cIoU") == 68.3
    assert value("GLaMM-ft-7B", "lasers", "implicit", "gIoU") == 42.6
    assert value("RMSIN", "refsegrs", "val", "gIoU") == 73.8
    assert value("SegEarth-R2-3B", "refsegrs", "test", "gIoU", "Table 3") == 74.8
    assert value("RemoteReasoner (Qwen2.5-7B)", "earthreason", "test", "cIoU") == 69.1
    assert value("SegEarth-R2-3B, attention loss weight 0.05", "earthreason", "val", "gIoU") == 72.1
    assert value("SegEarth-R2-3B, SAM 2 decoder with ViT-H", "refsegrs", "test", "gIoU") == 64.2
    assert value("LISA-13B-LLaVA1.5 (ft)", "reasonseg", "val", "cIoU") == 72.9
    assert value("Grounded-SAM", "reasonseg", "test, long queries", "cIoU") == 18.6
    assert value("ELISA", "reasonseg", "test", "selection F1") == 30.1
    assert value("Think2Seg-RS", "earthreason", "test", "cIoU") == 75.6
    assert value("SAM3, text prompts", "risbench", "test", "cIoU") == 26.2


def test_every_line_is_well_formed() -> None:
    seen = set()
    for number in NUMBERS:
        assert 0 <= number.value <= 100
        assert number.protocol in {*PROTOCOLS, UNSTATED}
        assert number.training in ("trained-on", "zero-shot", UNSTATED)
        assert number.status in ("verified", "second-hand")
        key = (number.system, number.benchmark, number.split, number.metric, number.source)
        assert key not in seen, key
        seen.add(key)


def test_benchmarks_are_datasets_of_ours() -> None:
    from envs.datasets.registry import known_datasets

    assert set(benchmarks(NUMBERS)) <= set(known_datasets())


def test_an_unknown_benchmark_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match="Did you mean 'rrsis-d'"):
        of_benchmark(NUMBERS, "rrsisd")


def test_every_number_is_on_the_leaderboard() -> None:
    boards = [build_board(name, published_rows(of_benchmark(NUMBERS, name))) for name in benchmarks(NUMBERS)]
    shown = 0
    for board in boards:
        systems = [row.system for group in board.groups for row in group]
        assert len(board.groups) == len(set(systems))  # one group a system
        for group in board.groups:
            assert len({row.system for row in group}) == 1
            shown += sum(len(row.values) for row in group)
    assert shown == len(NUMBERS)
    pages = markdown(boards), html(boards)
    for page in pages:
        for number in NUMBERS:
            text = f"{number.value:.2f}"
            assert (text[:-1] if text.endswith("0") else text) in page


def test_our_runs_stand_out_and_keep_their_protocol() -> None:
    ours = Row("ours | pipe", "test", "strict", "zero-shot", {"gIoU": 99.0}, "runs/x", "run")
    board = build_board("earthreason", [*published_rows(of_benchmark(NUMBERS, "earthreason")), ours])
    assert board.groups[0] == (ours,)  # the best gIoU comes first
    text = markdown([board])
    assert "| **ours \\| pipe** | **test** | **zero-shot** | **strict** | **99.0** |" in text
    page = html([board])
    assert page.count('class="first ours"') == 1
    HTMLParser().feed(page)


def make_run(path: Path) -> RunFolder:
    run = RunFolder.create(path)
    run.write_config(
        {
            "benchmark": "earthreason:test",
            "policy": "some/checkpoint",
            "dataset_options": {"question": "all", "root": "somewhere"},
            "limit": 20,
            "training": "zero-shot",
        }
    )
    metrics = {"gIoU": {"value": 0.5, "by_query": None, "by_image": None}, "cIoU": {"value": None}}
    protocols = {name: {"queries": 20, "metrics": metrics} for name in ("strict", "think2seg")}
    (path / "results.json").write_text(json.dumps({"mobile-sam": {"protocols": protocols}}))
    return run


def test_report_sets_a_run_beside_the_published_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run")
    parser = argparse.ArgumentParser()
    report_command.add_arguments(parser)
    arguments = parser.parse_args([str(tmp_path / "run"), "--out", str(tmp_path / "board")])
    assert report_command.run(arguments) == 0
    printed = capsys.readouterr().out
    row = "| **some/checkpoint + mobile-sam** | **test, question=all, first 20 queries** | **zero-shot** |"
    assert f"{row} **strict** | **50.0** |" in printed
    assert "Think2Seg-RS" in printed and "SegEarth-R1" in printed and "RRSIS-D" not in printed
    assert printed.strip().splitlines()[-1] == str(tmp_path / "board" / "leaderboard.html")
    assert (tmp_path / "board" / "leaderboard.md").read_text() in printed


def test_report_refuses_what_is_no_evaluation(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    report_command.add_arguments(parser)
    run = RunFolder.create(tmp_path / "training")
    run.write_config({"policy": {"model": "x"}})
    out = tmp_path / "board"
    for words, message in (
        ([str(tmp_path / "absent")], "no run folder"),
        ([str(run.path)], r"holds no results\.json"),
        (["--benchmark", "earthreasons"], "Did you mean 'earthreason'"),
    ):
        with pytest.raises(UserError, match=message):
            report_command.run(parser.parse_args([*words, "--out", str(out)]))
    assert not out.exists()
