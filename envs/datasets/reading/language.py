"""What counts as an English sentence, for sets that are written in several languages."""

from __future__ import annotations

import unicodedata


def is_english(text: str) -> bool:
    """Whether every letter of a text is Latin; figures, signs and typographic marks do not count.

    It is a rule on scripts, not on languages: "the harbour’s café – 5 µm" is English, "船只" and
    "the ship 船" are not, and neither is a text in Cyrillic. Full-width Latin letters, as Chinese
    keyboards write them, are Latin. A text of code points 0 to 127 always passes.
    """
    return all(_is_latin(character) for character in text if character.isalpha())


def _is_latin(letter: str) -> bool:
    plain = unicodedata.normalize("NFKC", letter)[0]  # the indicator "ª" is an "a"
    return letter == "µ" or any("LATIN" in unicodedata.name(one, "") for one in (letter, plain))
