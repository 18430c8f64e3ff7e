"""Which bands of a raster are seen as red, green and blue: by number, by name, or as a named composite."""

from __future__ import annotations

from collections.abc import Mapping

from envs.rasters.files import Raster
from prompter.errors import UserError, did_you_mean

COMPOSITES: dict[str, tuple[str, str, str]] = {
    "true-colour": ("red", "green", "blue"),
    "false-colour": ("nir", "red", "green"),
    "short-wave": ("swir2", "nir", "red"),
    "agriculture": ("swir1", "nir", "blue"),
    "geology": ("swir2", "swir1", "blue"),
}
"""Usual composites: what is seen as red, green and blue, by the bands' names."""

_SAME = {"near infrared": "nir", "near-infrared": "nir", "grey": "gray"}


def chosen_bands(raster: Raster, asked: str | None, named: str | None = None) -> tuple[int, ...]:
    """Bands to be seen, from 1: three of them, or one that is seen in grey.

    Args:
        raster: the file.
        asked: "4,3,2", names as "nir,red,green", a composite of `COMPOSITES`, or one band; None takes red,
            green and blue where the file names them, or all bands where it has one or three.
        named: "red=3,nir=4": names of bands, before those that the file gives.

    Raises:
        UserError: if it is not clear which bands are meant; one sentence says what to give.
    """
    names = band_names(raster, named)
    if asked is None:
        return _usual(raster, names)
    words = [word.strip() for word in asked.split(",")]
    if len(words) == 1 and words[0] in COMPOSITES:
        words = list(COMPOSITES[words[0]])
    found = tuple(_number(word, raster, names) for word in words)
    if len(found) not in (1, 3):
        raise UserError(
            f"--bands {asked}: it should name one band, or three (red, green, blue), not {len(found)}."
        )
    return found


def band_names(raster: Raster, named: str | None) -> Mapping[str, int]:
    """Name -> number of a band: colours and descriptions of the file, and on top of them `named`.

    Raises:
        UserError: if `named` is not NAME=NUMBER,…, or a number is that of no band.
    """
    found: dict[str, int] = {}
    for texts in (raster.names, raster.colours):
        for number, text in enumerate(texts, start=1):
            name = _SAME.get(text.lower(), text.lower())
            if name and name not in ("undefined", "palette"):
                found.setdefault(name, number)
    for part in (named or "").split(","):
        name, equals, band = part.partition("=")
        if part and (not equals or not band.strip().isdigit()):
            raise UserError(f"--band-map {named}: it is written NAME=NUMBER,…, as in red=3,nir=4.")
        if part:
            found[name.strip().lower()] = _in_file(int(band), raster, f"--band-map {named}")
    return found


def _usual(raster: Raster, names: Mapping[str, int]) -> tuple[int, ...]:
    if all(colour in names for colour in COMPOSITES["true-colour"]):
        return tuple(names[colour] for colour in COMPOSITES["true-colour"])
    seen = [number for number in range(1, raster.bands + 1) if number != raster.alpha]
    if len(seen) in (1, 3):
        return tuple(seen)
    raise UserError(
        f"raster {raster.path}: it has {raster.bands} bands and does not say which are red, green and blue; "
        f"say it, as in --bands 3,2,1."
    )


def _number(word: str, raster: Raster, names: Mapping[str, int]) -> int:
    if word.isdigit():
        return _in_file(int(word), raster, "--bands")
    if word.lower() not in names:
        known = did_you_mean(word.lower(), [*names, *COMPOSITES])
        raise UserError(
            f"--bands: {raster.path} has no band {word!r}; name it, as in --band-map {word}=4.{known}"
        )
    return names[word.lower()]


def _in_file(number: int, raster: Raster, where: str) -> int:
    if not 1 <= number <= raster.bands:
        raise UserError(
            f"{where}: there is no band {number}; {raster.path} has {raster.bands}, counted from 1."
        )
    return number
