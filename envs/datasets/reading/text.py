"""Text of foreign files: UTF-8, with or without a byte-order mark, and what older tools wrote instead."""

from __future__ import annotations

import codecs
import re

_LONG_RUN = re.compile(rb"[\x80-\xff]{4}")


def decode_text(raw: bytes, legacy: str | None = None) -> str:
    """Decode the bytes of a text file or of one text in it; a byte-order mark is left out.

    UTF-8 (and UTF-16, where a byte-order mark says so) is taken first. Other bytes are Chinese GB 2312
    if all of them fit it and at least four beyond ASCII stand in a row: two characters, which text in
    Western code pages does not write. What is left is `legacy`, for sets whose own code falls back on it.

    Args:
        raw: the bytes.
        legacy: a Python codec name, or None to refuse.

    Raises:
        ValueError: if it is none of these; a guess would misread it without a word.
    """
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf8_error = error
    if _LONG_RUN.search(raw):
        try:
            return raw.decode("gb2312")
        except UnicodeDecodeError:
            pass
    if legacy is not None:
        return raw.decode(legacy)
    raise ValueError(f"its text is neither UTF-8 nor GB 2312 ({utf8_error.reason}); save it as UTF-8")


def mended(text: str) -> str:
    """Text of a Python 2 pickle: `load_plain_pickle` keeps bytes that are not UTF-8 as lone surrogates.

    Raises:
        ValueError: as `decode_text`.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return decode_text(text.encode("utf-8", "surrogateescape"))
    return text
