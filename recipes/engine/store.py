"""An engine's folder: what was decided, what was proposed and asked per image, and what people said of it.

    SET/
      engine.json               settings; a folder made with others is not gone on with
      work/masks/IMAGE.json     what stayed of an image's proposals, and what was removed
      work/questions/IMAGE.json what was asked about it
      work/replies/             what a model replied
      review.jsonl              verdicts (`recipes.engine.review`)
      train/, test/             LaSeRS' layout, with the images
      manifest.jsonl, manifest_test.jsonl, provenance.jsonl, summary.json

Every file but `review.jsonl` appears whole or not at all, so that a killed engine goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompter.errors import UserError
from prompter.runs.files import atomic_write
from recipes.engine.settings import EngineSettings

SETTINGS = "engine.json"


class EngineFolder:
    """The folder of a set; see the module.

    Args:
        path: made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, settings: EngineSettings) -> None:
        """Write the settings, or find the same ones there.

        Raises:
            UserError: if the folder holds something else, or a set made with other settings.
        """
        given = settings.model_dump(mode="json")
        target = self.path / SETTINGS
        if not target.exists():
            if self.path.exists() and any(self.path.iterdir()):
                raise UserError(
                    f"{self.path} is not empty and holds no set of an engine; give another folder."
                )
            self.write(SETTINGS, given)
            return
        stored = self.read(SETTINGS)
        for key in dict.fromkeys([*stored, *given]):
            if stored.get(key) != given.get(key):
                raise UserError(
                    f"{self.path} is made with {key} = {stored.get(key)!r}, not {given.get(key)!r}; give "
                    f"another folder, or the same settings to go on."
                )

    def settings(self) -> EngineSettings:
        """The settings that it was begun with.

        Raises:
            UserError: if it is no engine's folder.
        """
        if not (self.path / SETTINGS).exists():
            raise UserError(
                f"{self.path} holds no {SETTINGS}; `prompter engine IMAGES -o {self.path}` makes one."
            )
        return EngineSettings.model_validate(self.read(SETTINGS))

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.path / name).exists()

    def read(self, name: str) -> dict[str, Any]:
        """Read a file of JSON.

        Raises:
            UserError: if it is missing or is not JSON.
        """
        path = self.path / name
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete it to have it made again.") from None
        return data

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Write a file of JSON, whole or not at all."""
        with atomic_write(self.path / name) as handle:
            json.dump(data, handle, ensure_ascii=False, indent=1)
            handle.write("\n")


def work_name(stage: str, image: str) -> str:
    """The name of an image's file of a stage, `masks` or `questions`."""
    return f"work/{stage}/{image}.json"
