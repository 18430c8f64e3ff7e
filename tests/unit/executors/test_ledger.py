"""No row of the decoder's ledger changes the answer: what is taken out is computed otherwise."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from envs.executors.base import Segmentation
from envs.executors.config import ExecutorConfig
from envs.executors.decoding.ledger import LEDGER, measure
from envs.executors.decoding.package_prompts import PackagePrompts
from envs.executors.decoding.promptable import PromptableSegmenter
from envs.executors.decoding.sam_decoder import SamDecoder
from envs.executors.families import build_segmenter
from prompter.errors import UserError
from prompter.types import Instance, PromptSet
from recipes.commands import bench
from tests.fixtures.segmenters import save_port, save_sam, save_sam2

SETS = [
    PromptSet((Instance(box=(5, 9, 60, 44)), Instance(positive_points=((30.0, 20.0),)))),
    PromptSet((Instance(box=(12, 3, 50, 60), positive_points=((30.0, 30.0),)),)),
    PromptSet((Instance(box=(6, 9, 61, 44)), Instance(box=(5, 12, 58, 47)))),
]


@pytest.fixture(scope="module", params=["sam", "sam2", "sam2-best"])
def segmenter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> PromptableSegmenter:
    folder = tmp_path_factory.mktemp(request.param)
    config = save_sam(folder) if request.param == "sam" else save_sam2(folder)
    best = {"multimask": "best"} if request.param.endswith("best") else {}
    built = build_segmenter(config.model_copy(update=best))
    assert isinstance(built, PromptableSegmenter)
    return built


def answers(segmenter: PromptableSegmenter) -> list[Segmentation]:
    images = [np.random.default_rng(n).integers(0, 255, (64, 72, 3), dtype=np.uint8) for n in range(2)]
    embeddings = [embedding for embedding in segmenter.encode(images) for _ in SETS]
    results = segmenter.decode(embeddings, SETS * 2, keep_logits=True)
    return [result for result in results if isinstance(result, Segmentation)]


@pytest.mark.parametrize("trick", LEDGER)
def test_answers_are_the_same_without(segmenter: PromptableSegmenter, trick: str) -> None:
    own = answers(segmenter)
    with LEDGER[trick](segmenter):
        without = answers(segmenter)
    after = answers(segmenter)
    assert len(own) == len(without) == len(after) == 2 * len(SETS)
    assert float(np.concatenate([one.low_res_logits for one in own]).std()) > 0.1
    for one, other, again in zip(own, without, after, strict=True):
        limit = 1e-4 + 2e-6 * float(np.abs(one.low_res_logits).max())
        np.testing.assert_allclose(other.low_res_logits, one.low_res_logits, atol=limit, rtol=0)
        np.testing.assert_allclose(other.predicted_ious, one.predicted_ious, atol=1e-4)
        np.testing.assert_allclose(other.stability, one.stability, atol=2e-3)
        assert np.count_nonzero(other.mask != one.mask) <= 2
        assert np.array_equal(again.low_res_logits, one.low_res_logits)  # everything is back in its place


def test_a_row_takes_its_trick_out(segmenter: PromptableSegmenter) -> None:
    decoder = segmenter.decoder
    assert isinstance(decoder, PackagePrompts)
    own = decoder.sam_decoder
    with LEDGER["first upscaling folded through the norms"](segmenter):
        assert type(decoder.sam_decoder) is not SamDecoder
    with LEDGER["512 image tokens a slice, not 4,096"](segmenter):
        assert decoder.sam_decoder.image_tokens == 4096
    assert decoder.sam_decoder is own


def test_gain_is_the_time_without_over_the_time_with(
    segmenter: PromptableSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that a decode advances by 2 s, or by 3 s where every set is decoded alone."""
    now = 0.0

    def decode(embeddings: list[int], sets: list[PromptSet]) -> None:
        nonlocal now
        now += 3.0 if segmenter.decode is not decode else 2.0

    def alone(embeddings: list[int], sets: list[PromptSet]) -> None:
        decode(embeddings, sets)

    trick = "completions of an image decoded together"
    monkeypatch.setattr(segmenter, "decode", decode)
    monkeypatch.setattr("envs.executors.decoding.ledger.replace", lambda embedding: embedding)
    monkeypatch.setattr("envs.executors.decoding.ledger.LEDGER", {trick: LEDGER[trick]})
    monkeypatch.setattr("envs.executors.decoding.ledger.time.perf_counter", lambda: now)
    (row,) = measure(segmenter, [0, 0, 0], SETS, rounds=2)  # type: ignore[list-item]
    assert (row.seconds, row.seconds_without) == (2.0 / 5, 3.0 / 5)
    assert row.gain == pytest.approx(0.5)


def command(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(words)


def test_bench_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = save_sam(tmp_path)
    words = ["decoder", "--executor", f"segment-anything:{config.model}"]
    words += ["--benchmark", "synthetic-aerial:val", "--images", "1", "--side", "64", "--group", "2"]
    words += ["--rounds", "1", "--json", str(tmp_path / "ledger.json")]
    assert bench.run(command(words)) == 0
    printed = capsys.readouterr().out
    saved = json.loads((tmp_path / "ledger.json").read_text())
    assert [row["trick"] for row in saved["rows"]] == list(LEDGER)
    assert all(f"| {trick} |" in printed for trick in LEDGER)


@pytest.mark.parametrize(
    "other", [lambda _: ExecutorConfig(family="box"), lambda folder: save_port(folder, "sam")]
)
def test_other_decoders_have_no_ledger(other: Callable[[Path], ExecutorConfig], tmp_path: Path) -> None:
    config = other(tmp_path)
    name = config.family if config.model is None else f"{config.family}:{config.model}"
    words = ["decoder", "--executor", name, "--benchmark", "synthetic-aerial:val"]
    with pytest.raises(UserError, match="no use of the decoder's tricks"):
        bench.run(command([*words, "--images", "1", "--side", "64", "--group", "1"]))
