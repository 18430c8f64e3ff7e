"""Decisions become a split that opens, scores on both sets of labels, and a page that fetches nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from envs.datasets.reading.pixels.images import ImageFile
from envs.datasets.registry import open_dataset
from envs.masks import decode_rle, encode_rle, iou
from envs.sample import Sample
from eval.audit.both_scores import both_scores_text, score_both
from eval.audit.decisions import VERDICTS, Decision, read_decisions
from eval.audit.page import VERDICT_KEYS, outline, render_page
from eval.audit.predictors import Audited, open_runs
from eval.audit.queue import Entry, Queue
from eval.audit.ranking import build_queue
from eval.audit.repair import repair_of, write_repaired
from eval.query_table import build_table
from prompter.errors import UserError
from prompter.runs.jsonl import read_lines
from rewards.replay import read_rollouts
from tests.fixtures.audits import EMPTY, HEIGHT, WIDTH, read_all, rollout, thing, write_run

COUNT = 24
WRONG = {3: thing(1), 8: thing(5), 10: EMPTY}
"""Labels that are not the thing: another object, a target too many, a target that is missing."""
DECISIONS = {
    "q3": Decision("q3", "consensus", "the bar", "2026-01-01T00:00:00Z"),
    "q8": Decision("q8", "consensus"),
    "q10": Decision("q10", "consensus"),
    "q1": Decision("q1", "keep"),
    "q2": Decision("q2", "drop"),
    "q4": Decision("q4", "unsure", "blurred"),
}


def picture(image: int) -> Image.Image:
    return Image.fromarray(np.full((HEIGHT, WIDTH, 3), 10 * image, dtype=np.uint8))


class Things(Sequence[Sample]):
    """The split that was audited, its wrong labels included; the image of q0 to q3 lies in a file."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "zero.png"
        picture(0).save(self._file)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if index >= COUNT:
            raise IndexError(index)
        image = index // 4
        label = WRONG.get(index, thing(index))
        return Sample(
            sample_id=f"q{index}",
            dataset="things",
            split="test",
            image_id=f"i{image}",
            image_wh=(WIDTH, HEIGHT),
            load_image=ImageFile(str(self._file)) if image == 0 else lambda: picture(image),
            query=f"thing {index}",
            target=encode_rle(label),
            instances=(encode_rle(label),) if label.any() else (),
            tags={"multiplicity": "one" if label.any() else "none"},
        )


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Audited, Queue, Things]:
    """Two policies; the second is blind to q10."""
    folder = tmp_path_factory.mktemp("audit")
    labels = [encode_rle(WRONG.get(number, thing(number))) for number in range(COUNT)]
    runs = []
    for name, said in (("a", {}), ("b", {10: None})):
        rollouts = [
            rollout(number, said.get(number, thing(number)), target=labels[number]) for number in range(COUNT)
        ]
        runs.append(write_run(folder / name, rollouts))
    audited = open_runs(runs)
    return audited, build_queue(audited, runs, read_all(audited), None), Things(folder)


def entries_of(queue: Queue) -> dict[str, Entry]:
    return {entry.sample_id: entry for entry in queue.entries}


class TestRepair:
    def test_a_repaired_split_opens_as_a_manifest(
        self, audit: tuple[Audited, Queue, Things], tmp_path: Path
    ) -> None:
        audited, queue, samples = audit
        counts = write_repaired(
            samples,
            entries_of(queue),
            DECISIONS,
            tmp_path,
            audit=queue.key,
            benchmark=audited.benchmark,
            predictors=tuple(one.name for one in audited.predictors),
        )
        assert counts == {"consensus": 3, "keep": 1, "drop": 1, "unsure": 1, "not-reviewed": COUNT - 6}
        repaired = open_dataset("manifest", "test", path=tmp_path / "manifest.jsonl")
        found = {sample.sample_id: sample for sample in repaired}
        assert list(found) == [f"q{number}" for number in range(COUNT) if number != 2]
        for number in (0, 1, 3, 8, 10, 23):
            sample, before = found[f"q{number}"], samples[number]
            assert (sample.target_mask() == thing(number)).all()
            assert (sample.query, sample.image_wh) == (before.query, before.image_wh)
            assert (sample.image_array() == before.image_array()).all()
        assert found["q1"].instances == samples[1].instances and found["q3"].instances == ()
        assert found["q3"].tags == {"audit": "consensus", "multiplicity": "one"}
        assert found["q8"].tags == {"audit": "consensus", "target": "none"}  # "one" is no longer so
        assert found["q10"].tags == {"audit": "consensus"}
        assert found["q0"].tags["audit"] == "not-reviewed"
        assert not (tmp_path / "images").glob("i0*") or len(list((tmp_path / "images").iterdir())) == 5

        kept = {record["sample_id"]: record for record in read_lines(tmp_path / "provenance.jsonl")}
        assert list(kept) == list(DECISIONS)
        assert kept["q3"]["note"] == "the bar" and kept["q3"]["voters"] == ["a/box", "b/box"]
        assert kept["q10"]["voters"] == ["a/box"] and kept["q1"]["voters"] == []
        assert (decode_rle(kept["q3"]["original"]) == WRONG[3]).all()

    def test_what_cannot_be_carried_out_is_refused(
        self, audit: tuple[Audited, Queue, Things], tmp_path: Path
    ) -> None:
        audited, queue, samples = audit
        entries = entries_of(queue)
        with pytest.raises(UserError, match="holds no such sample"):
            repair_of(entries, {"other": Decision("other", "keep")})
        with pytest.raises(UserError, match="takes the mask 'redrawn'"):
            repair_of(entries, {"q1": Decision("q1", "redrawn")})
        with pytest.raises(UserError, match="1 of the 6 decided samples are not in"):
            write_repaired(
                [samples[number] for number in range(10)],
                entries,
                DECISIONS,
                tmp_path,
                audit=queue.key,
                benchmark=audited.benchmark,
                predictors=("a/box", "b/box"),
            )

    def test_both_scores(self, audit: tuple[Audited, Queue, Things]) -> None:
        audited, queue, _ = audit
        entries = entries_of(queue)
        scores = score_both(audited.predictors, entries, DECISIONS, repair_of(entries, DECISIONS))
        first, second = scores["a/box"], scores["b/box"]
        assert first["queries"] == {"original": COUNT, "repaired": COUNT - 1}
        original = build_table(read_rollouts(audited.predictors[0].path)).scores
        shared = np.delete(original, 2)  # q2 is dropped
        gain = first["metrics"]["gIoU"]
        assert gain["before"] == pytest.approx(shared.mean()) and gain["after"] == 1.0
        assert gain["difference"] == pytest.approx(1 - shared.mean())
        assert gain["difference_elsewhere"] == 0.0 and first["voted"] == 3
        assert second["voted"] == 2 and second["metrics"]["gIoU"]["difference_elsewhere"] == 0.0
        low, high = gain["by_image"]
        assert low <= gain["difference"] <= high and low < high
        text = both_scores_text(scores)
        assert "a/box" in text and f"{100 * gain['difference']:+.2f}" in text


class TestDecisions:
    def write(self, path: Path, **changes: object) -> Path:
        file = path / "decisions.json"
        file.write_text(json.dumps({"audit": "key", "benchmark": "b", "decisions": [], **changes}))
        return file

    def test_what_the_page_exports_is_read(self, tmp_path: Path) -> None:
        given = [decision.to_json() for decision in DECISIONS.values()]
        assert read_decisions(self.write(tmp_path, decisions=given), "key") == DECISIONS

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"audit": "other"}, "decides on the audit 'other'"),
            ({"decisions": {}}, "with a list `decisions`"),
            ({"decisions": [3]}, "decision 1 should be an object"),
            ({"decisions": [{"sample_id": "q1"}]}, "the key 'verdict' is missing"),
            ({"decisions": [{"sample_id": "q1", "verdict": "kep"}]}, "Did you mean 'keep'"),
            ({"decisions": [{"sample_id": 1, "verdict": "keep"}]}, "key 'sample_id' should be text"),
            ({"decisions": [{"sample_id": "q1", "verdict": "keep", "nte": ""}]}, "Did you mean 'note'"),
            ({"decisions": [{"sample_id": "q1", "verdict": "keep"}] * 2}, "decided on twice"),
        ],
    )
    def test_bad_files_are_refused(self, tmp_path: Path, changes: dict[str, object], message: str) -> None:
        with pytest.raises(UserError, match=re.escape(message)):
            read_decisions(self.write(tmp_path, **changes), "key")

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot be read"):
            read_decisions(tmp_path / "none.json", "key")
        (tmp_path / "bad.json").write_text("{")
        with pytest.raises(UserError, match="is not JSON"):
            read_decisions(tmp_path / "bad.json", "key")


class _Reader(HTMLParser):
    """Collects what a browser would fetch, and the data in the page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [str(given[name]) for name in ("src", "href", "srcset", "action") if given.get(name)]
        self.ids += [str(given["id"])] if "id" in given else []
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data


class TestPage:
    def page(self, audit: tuple[Audited, Queue, Things], **changes: object) -> tuple[str, _Reader]:
        _, queue, samples = audit
        shown = [
            Entry(**{**entry.__dict__, **changes}) if entry.rank == 1 else entry
            for entry in queue.entries[:5]
        ]
        text = render_page(queue, shown, {sample.sample_id: sample for sample in samples})
        reader = _Reader()
        reader.feed(text)
        return text, reader

    def test_it_holds_all_it_needs_and_fetches_nothing(self, audit: tuple[Audited, Queue, Things]) -> None:
        text, reader = self.page(audit)
        assert reader.links == [] and "://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "default-src 'none'" in text
        data = json.loads(reader.scripts[0])
        assert data["audit"] == audit[1].key and len(data["entries"]) == 5
        assert all(url.startswith("data:image/jpeg;base64,") for url in data["images"].values())
        first = data["entries"][0]
        assert {"keep", "consensus", "drop", "unsure"} == set(first["offers"])
        for name in re.findall(r'byId\("([a-z-]+)"\)', reader.scripts[1]):
            assert reader.ids.count(name) == 1, name

    def test_text_of_others_stays_text(self, audit: tuple[Audited, Queue, Things]) -> None:
        hostile = "</script><img src=x onerror=alert(1)>"
        text, reader = self.page(audit, query=hostile, sample_id=hostile)
        assert hostile not in text and reader.links == []
        assert json.loads(reader.scripts[0])["entries"][0]["query"] == hostile

    def test_a_missing_image_is_grey(self, audit: tuple[Audited, Queue, Things]) -> None:
        _, queue, _ = audit
        assert "data:image/jpeg" in render_page(queue, queue.entries[:2], {})

    def test_keys_are_not_given_twice(self) -> None:
        keys = [key for key, _ in VERDICT_KEYS.values()]
        assert set(VERDICT_KEYS) == set(VERDICTS)
        assert len({*keys, "1", "2", "3", "n", "x", "e"}) == len(keys) + 6

    @pytest.mark.parametrize("wh", [(64, 48), (2000, 1500)])
    def test_outlines_lie_on_the_mask(self, wh: tuple[int, int]) -> None:
        rows, columns = np.mgrid[: wh[1], : wh[0]]
        mask = np.hypot(columns - wh[0] / 2, rows - wh[1] / 2) < wh[1] / 4
        path = outline(encode_rle(mask), wh)
        points = np.array([float(v) for v in re.findall(r"[\d.]+", path)]).reshape(-1, 2)
        scale = min(1, 720 / max(wh))
        apart = np.hypot(*(points - np.array(wh) * scale / 2).T) / scale
        assert path.startswith("M") and path.endswith("Z")
        assert np.abs(apart - wh[1] / 4).max() < 2 / scale
        assert outline(encode_rle(np.zeros_like(mask)), wh) == ""


def test_the_audited_labels_are_wrong_where_they_should_be() -> None:
    assert all(iou(mask, thing(number)) < 0.5 for number, mask in WRONG.items())
