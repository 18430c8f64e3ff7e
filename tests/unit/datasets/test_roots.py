"""Files paired by their stems, and questions that are none: against an oracle that wrote them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.datasets.reading.roots import files_by_stem, only_file, table_place
from envs.datasets.reading.tables.table_samples import asked
from prompter.errors import UserError

STEMS = ("a", "b", "a.b", "ä")
FILES = st.dictionaries(
    st.tuples(
        st.sampled_from(["one", "two", "gone"]), st.sampled_from(STEMS), st.sampled_from([".jpg", ".PNG"])
    ),
    st.sampled_from([b"x", b"y"]),
    max_size=10,
)


@settings(max_examples=60)
@given(FILES)
def test_a_stem_is_one_file_or_is_refused(written: dict[tuple[str, str, str], bytes]) -> None:
    """Nothing is dropped or crossed: of each stem either the bytes are those written, or it is refused."""
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, inner) for inner in ("one", "two", "missing")]
        for (inner, stem, suffix), data in written.items():
            path = Path(name, inner, stem + suffix)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            path.with_name(f"{stem}.txt").touch()
        files = files_by_stem(folders, (".jpg", ".png"))
        looked = {key: data for key, data in written.items() if key[0] != "gone"}
        assert set(files) == {stem for _, stem, _ in looked}
        for stem in STEMS:
            held = {data for (_, one, _), data in looked.items() if one == stem}
            if len(held) == 1:
                assert only_file(files, stem, "image").read_bytes() == held.pop()
                continue
            with pytest.raises(UserError, match=f"for '{stem}'"):
                only_file(files, stem, "image")


TEXTS = st.lists(st.sampled_from(["", " ", "\u3000", "Where?", " the ship ", "船"]), max_size=5)


@given(TEXTS)
def test_questions_keep_their_numbers_when_blank_ones_are_left_out(texts: list[str]) -> None:
    assert dict(asked(texts)) == {n: text.strip() for n, text in enumerate(texts) if text.strip()}
    assert asked(texts[0] if texts else None) == asked(texts[:1])


@pytest.mark.parametrize("value", [1, ["a", 1], {"a": 1}, [["a"]], b"a"])
def test_what_is_no_question_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="it must be a question or a list of questions, but is"):
        asked(value)


def test_the_sets_own_layout_goes_before_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stray table beside the files of a set is not taken for the set."""
    monkeypatch.setenv("PROMPTER_DATA", str(tmp_path))
    folder = tmp_path / "risbench"
    folder.mkdir()
    assert table_place("risbench", None, ["list.txt"]) is None
    (folder / "train.jsonl").touch()
    assert table_place("risbench", None, ["list.txt"]) == str(folder)
    (folder / "inner").mkdir()
    (folder / "inner" / "list.txt").touch()
    assert table_place("risbench", None, ["list.txt"], ["inner"]) is None
    assert table_place("risbench", "owner/name", ["list.txt"]) == "owner/name"
