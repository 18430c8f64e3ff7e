"""The evaluator end to end: killed, resumed, re-scored, over several segmenters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from envs.executors.base import ExecutorFailure, Segmentation, SegmentRequest
from envs.masks import encode_rle, union
from envs.sample import RGB, Sample
from eval.answerers import build_answerer
from eval.answerers.baselines import BASELINES
from eval.results import rescore, results_text
from eval.runner import evaluate
from prompter.errors import UserError
from prompter.runs.jsonl import read_lines
from prompter.types import Answer, FailureKind, Instance, ParseFailure, PromptSet
from rewards.replay import read_rollouts
from tests.fixtures.runs import contents

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).parents[2]
SIZE = (48, 32)


def square(number: int) -> np.ndarray:
    """A square whose place follows from the sample's number; every seventh sample has none."""
    mask = np.zeros((SIZE[1], SIZE[0]), dtype=bool)
    if number % 7:
        x, y = number * 5 % 36, number * 3 % 22
        mask[y : y + 10, x : x + 10] = True
    return mask


def load_square(number: int) -> Image.Image:
    return Image.fromarray((square(number)[..., None] * np.array([200, 120, 40])).astype(np.uint8))


class Squares(Sequence[Sample]):
    """Samples made on demand; two questions share an image."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.loads: Counter[int] = Counter()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if index >= self._count:
            raise IndexError(index)
        number = index // 2

        def load() -> Image.Image:
            self.loads[number] += 1
            return load_square(number)

        return Sample(
            sample_id=f"square-{index}",
            dataset="squares",
            split="test",
            image_id=str(number),
            image_wh=SIZE,
            load_image=load,
            query="the square",
            target=encode_rle(square(number)),
            tags={"half": "left" if square(number)[:, :24].any() else "right"},
        )


class Boxes:
    """Fills boxes, grown by `margin`; waits to be killed, if told to."""

    def __init__(self, margin: int = 0, delay: float = 0.0) -> None:
        self._margin, self._delay = margin, delay
        self.decoded = 0

    def segment(
        self,
        requests: Sequence[SegmentRequest],
        *,
        keep_instances: bool = False,
    ) -> list[Segmentation | ExecutorFailure]:
        time.sleep(self._delay)
        self.decoded += len(requests)
        return [self._fill(one.image, one.prompts) for one in requests]

    def _fill(self, image: RGB, prompts: PromptSet) -> Segmentation:
        masks = []
        for instance in prompts.instances:
            mask = np.zeros(image.shape[:2], dtype=bool)
            x1, y1, x2, y2 = (int(v) for v in instance.box or (0, 0, 0, 0))
            m = self._margin
            mask[max(0, y1 - m) : y2 + m, max(0, x1 - m) : x2 + m] = True
            masks.append(mask)
        scores = np.full(len(masks), 0.9, np.float32)
        return Segmentation(union(masks, image.shape[:2]), scores)


class Scripted:
    """Answers with the target's box, shifted by an amount that follows from the sample; fails at times."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        answers = []
        for sample in samples:
            self.asked.append(sample.sample_id)
            number = int(sample.sample_id.split("-")[1])
            text = f"answer {number}"
            if number % 11 == 3:
                failure = ParseFailure(FailureKind.NOT_JSON, "expected JSON", text)
                answers.append(Answer(text, failure, 3))
                continue
            oracle = BASELINES["oracle-box"](sample)
            shift = number % 4
            moved = [
                Instance(box=(x1 + shift, y1, x2 + shift, y2))
                for x1, y1, x2, y2 in (one.box for one in oracle.instances if one.box is not None)
            ]
            answers.append(Answer(text, PromptSet(tuple(moved)), 7))
        return answers

    def close(self) -> None:
        pass


def run(out: Path, count: int = 60, **settings: object):  # type: ignore[no-untyped-def]
    return evaluate(
        Squares(count),
        Scripted(),
        {"tight": Boxes(), "loose": Boxes(2)},
        out,
        config={"benchmark": "squares:test"},
        chunk=8,
        progress=False,
        **settings,  # type: ignore[arg-type]
    )


def test_one_set_of_completions_is_segmented_by_every_executor(tmp_path: Path) -> None:
    samples, answerer = Squares(20), Scripted()
    done = evaluate(
        samples,
        answerer,
        {"tight": Boxes(), "loose": Boxes(2)},
        tmp_path / "run",
        config={},
        chunk=8,
        progress=False,
    )
    assert answerer.asked == [f"square-{index}" for index in range(20)]
    assert max(samples.loads.values()) == 1  # policy and both segmenters share one decoding
    by_name = {name: list(read_rollouts(path)) for name, path in done.rollouts.items()}
    for tight, loose in zip(*by_name.values(), strict=True):
        assert (tight.sample_id, tight.completion, tight.reading) == (
            loose.sample_id,
            loose.completion,
            loose.reading,
        )
        assert (tight.executor, loose.executor) == ("tight", "loose")
    assert sum(isinstance(one.reading, ParseFailure) for one in by_name["tight"]) == 2

    results = rescore(done.folder, ["strict", "think2seg", "rela"])
    assert set(results) == {"tight", "loose"}
    strict = results["tight"]["protocols"]["strict"]["metrics"]
    assert 0.5 < strict["gIoU"]["value"] < 1.0
    assert strict["gIoU"]["value"] > results["loose"]["protocols"]["strict"]["metrics"]["gIoU"]["value"]
    assert strict["N-acc"]["value"] == 0.75  # 4 no-target queries, one of them not parsed
    text = results_text(results)
    assert "tight: 20 queries on 10 images, 4 without a target" in text and "not_json 2" in text


def test_scoring_again_gives_the_same_bytes(tmp_path: Path) -> None:
    done = run(tmp_path / "run")
    rescore(done.folder, ["strict", "rmsin"])
    before = contents(done.folder.path)
    rescore(done.folder, ["strict", "rmsin"])
    assert contents(done.folder.path) == before


@pytest.mark.parametrize("cut", [0, 1, 700, 5000, 12_000])
@pytest.mark.parametrize("name", ["completions.jsonl", "rollouts/tight.jsonl", "rollouts/loose.jsonl"])
def test_a_file_cut_anywhere_is_completed_to_the_same_bytes(tmp_path: Path, name: str, cut: int) -> None:
    run(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    run(tmp_path / "cut")
    files = [tmp_path / "cut" / "completions.jsonl", *(tmp_path / "cut" / "rollouts").iterdir()]
    target = tmp_path / "cut" / name
    for path in files:  # a later file of the same chunk is never ahead of an earlier one
        if path == target or name == "completions.jsonl":
            path.write_bytes(path.read_bytes()[:cut])
    run(tmp_path / "cut")
    assert contents(tmp_path / "cut") == whole


def test_kill_minus_nine_and_again_is_byte_identical(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("smoke_eval", sys.argv[1])
        module = importlib.util.module_from_spec(spec)
        sys.modules["smoke_eval"] = module
        spec.loader.exec_module(module)
        module.evaluate(
            module.Squares(60), module.Scripted(),
            {"tight": module.Boxes(0, float(sys.argv[3])), "loose": module.Boxes(2)}, sys.argv[2],
            config={"benchmark": "squares:test"}, chunk=8, progress=False)
        """
    )

    def start(folder: Path, delay: float) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", script, __file__, str(folder), str(delay)]
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})

    run(tmp_path / "whole")
    killed = tmp_path / "killed"
    process = start(killed, 0.2)
    loose = killed / "rollouts" / "loose.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (loose.exists() and loose.stat().st_size > 0):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    lines = len(list(read_lines(loose)))
    assert 0 < lines < 60, "the run was killed too late to show anything"
    assert start(killed, 0.0).wait() == 0
    assert contents(killed) == contents(tmp_path / "whole")
    ids = Counter(rollout.sample_id for rollout in read_rollouts(loose))
    assert ids == Counter(f"square-{index}" for index in range(60))


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    answerer, boxes = Scripted(), Boxes()
    for _ in range(2):
        evaluate(
            Squares(20), answerer, {"tight": boxes}, tmp_path / "run", config={}, chunk=8, progress=False
        )
    assert len(answerer.asked) == 20 and boxes.decoded == 18  # two answers did not parse


def test_another_config_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    run(tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match="samples = 60, not 30"):
        run(tmp_path / "run", limit=30)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        run(tmp_path / "other")
    assert contents(tmp_path / "run") == before
    assert contents(tmp_path / "other") == {"thesis.tex": b"mine"}


def test_a_changed_benchmark_is_noticed_on_resume(tmp_path: Path) -> None:
    done = run(tmp_path / "run")
    for path in done.rollouts.values():
        path.unlink()

    class Renamed(Squares):
        def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
            return replace(super().__getitem__(index), sample_id=f"renamed-{index}")

    with pytest.raises(UserError, match="'square-0' where 'renamed-0' was expected"):
        evaluate(
            Renamed(60),
            Scripted(),
            {"tight": Boxes(), "loose": Boxes(2)},
            tmp_path / "run",
            config={"benchmark": "squares:test"},
            chunk=8,
            progress=False,
        )


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_baselines_answer_every_sample(name: str) -> None:
    samples = list(Squares(30))
    answers = build_answerer(f"baseline:{name}").answer(samples)
    assert len(answers) == 30
    boxes = Boxes()
    for sample, answer in zip(samples, answers, strict=True):
        assert isinstance(answer.reading, PromptSet)
        if name == "oracle-box":
            filled = boxes._fill(sample.image_array(), answer.reading)
            assert np.array_equal(filled.mask, sample.target_mask())
        if name in ("oracle-point", "largest-blob"):
            for instance in answer.reading.instances:
                x, y = instance.positive_points[0]
                assert sample.target_mask()[int(y), int(x)]


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'oracle-box'"):
        build_answerer("baseline:oracle-bx")
    with pytest.raises(UserError, match="takes no options"):
        build_answerer("baseline:no-target", {"frame": "absolute"})


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    """Peak memory of 200 and of 6,000 samples, each in its own process, within 25 MB."""
    script = textwrap.dedent(
        """
        import importlib.util, resource, sys
        spec = importlib.util.spec_from_file_location("smoke_eval", sys.argv[1])
        module = importlib.util.module_from_spec(spec)
        sys.modules["smoke_eval"] = module
        spec.loader.exec_module(module)
        done = module.evaluate(
            module.Squares(int(sys.argv[3])), module.build_answerer("baseline:oracle-box"),
            {"box": module.Boxes()}, sys.argv[2], config={}, progress=False)
        module.rescore(done.folder, ["strict"])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        """
    )
    peaks = []
    for count in (200, 6000):
        command = [sys.executable, "-c", script, __file__, str(tmp_path / str(count)), str(count)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        output = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        peaks.append(float(output.stdout))
    assert peaks[1] - peaks[0] < 25, peaks
