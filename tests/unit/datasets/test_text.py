"""Text of foreign files: marks are no text, lines end at line ends only, no other encoding is guessed."""

from __future__ import annotations

import codecs
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.datasets.reading.json_index import index_arrays, index_lines, index_records
from envs.datasets.reading.text import decode_text, text_lines
from prompter.errors import UserError

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff"), max_size=12)
CHINESE = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=1, max_size=8)
MARKS = st.sampled_from([("utf-8", b""), ("utf-8", codecs.BOM_UTF8), ("utf-16-le", codecs.BOM_UTF16_LE)])


def written(data: bytes) -> Path:
    with tempfile.NamedTemporaryFile(delete=False) as handle:
        handle.write(data)
    return Path(handle.name)


@given(st.lists(WORDS, min_size=1, max_size=5), MARKS, st.sampled_from(["\n", "\r\n"]))
def test_lines_are_those_that_were_written(lines: list[str], mark: tuple[str, bytes], end: str) -> None:
    """Separators such as U+2028 and U+0085, at which `splitlines` cuts, are part of a line."""
    path = written(mark[1] + end.join(lines).encode(mark[0]))
    assert text_lines(path) == lines
    path.unlink()


@given(CHINESE)
def test_gbk_is_refused_or_read_by_its_name(text: str) -> None:
    data = f"ship {text}.".encode("gbk")
    assert decode_text(data, "gbk") == f"ship {text}."
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match=r"it is not utf-8 \(byte 0x\w\w at \d+\).*encoding=gbk"):
            decode_text(data)


def test_an_encoding_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="there is no encoding 'gkb'"):
        decode_text(b"a", "gkb")


RECORDS = st.lists(st.dictionaries(st.sampled_from("abc"), WORDS, max_size=2), max_size=4)


@given(RECORDS, st.booleans(), st.booleans())
def test_json_with_a_byte_order_mark(records: list[dict[str, str]], has_mark: bool, is_ascii: bool) -> None:
    mark = codecs.BOM_UTF8 if has_mark else b""
    path = written(mark + json.dumps(records, ensure_ascii=is_ascii).encode())
    assert list(index_records(path)) == records
    path.write_bytes(mark + json.dumps({"images": records}, ensure_ascii=is_ascii).encode())
    assert list(index_arrays(path, ["images"])["images"]) == records
    path.write_bytes(mark + "\n\n".join(json.dumps(one, ensure_ascii=is_ascii) for one in records).encode())
    assert list(index_lines(path)) == records
    path.unlink()


@given(CHINESE, CHINESE)
def test_json_in_gbk_is_never_misread(first: str, second: str) -> None:
    """Bytes of GBK letters may be those of brackets and backslashes: the text is refused, or was UTF-8."""
    records = [{"q": first}, {"q": second}]
    data = json.dumps(records, ensure_ascii=False).encode("gbk")
    path = written(data)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        with pytest.raises(UserError, match="not utf-8") as caught:
            list(index_records(path))
        assert str(path) in str(caught.value)
    path.unlink()


def test_json_in_utf_16_is_named() -> None:
    path = written(codecs.BOM_UTF16_LE + "[]".encode("utf-16-le"))
    for read in (index_records, index_lines):
        with pytest.raises(UserError, match="it is UTF-16 by its byte-order mark; convert it to UTF-8"):
            read(path)
    path.unlink()


@pytest.mark.parametrize("name", ["hex", "rot13", "no-such"])
def test_what_is_no_encoding_of_text_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"there is no encoding '{name}'"):
        decode_text(b"abc", name)
