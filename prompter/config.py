"""The base of every typed config: unknown keys are refused with a suggestion."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from prompter.errors import did_you_mean


class StrictModel(BaseModel):
    """A pydantic model that refuses unknown keys, naming the nearest known one."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    hint = did_you_mean(str(key), cls.model_fields)
                    raise PydanticCustomError(
                        "unknown_key", "unknown key '{key}'.{hint}", {"key": str(key), "hint": hint}
                    )
        return data
