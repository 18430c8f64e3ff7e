"""Configuration files: YAML -> strict pydantic models, with overrides by dotted key.

What takes precedence, weakest first:
1. the defaults written in the models;
2. the file;
3. the overrides (`--executor.backend local` on the command line), the last one of a key winning.

How a file and a value are read is said in `prompter.runs.values`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from prompter.errors import UserError, did_you_mean
from prompter.runs.secrets import refuse_secrets
from prompter.runs.values import apply_overrides, load_yaml

Model = TypeVar("Model", bound=BaseModel)

_LOG = logging.getLogger(__name__)


def load_config_model(model: type[Model], path: Path | str, overrides: Sequence[str] = ()) -> Model:
    """Read a config file into `model`, with overrides.

    Raises:
        UserError: one sentence per problem, each naming the dotted key and the file or flag; or if a
            value is a key or a password (`prompter.runs.secrets`).
    """
    # Old names go first: a flag under a key's present name must meet the file's value of the same key.
    overrides = [
        "=".join([_current_key(model, key), *value]) for key, *value in (o.split("=", 1) for o in overrides)
    ]
    data = apply_overrides(_renamed_throughout(model, load_yaml(path)), overrides)
    refuse_secrets(data, str(path), flags=[override.partition("=")[0] for override in overrides])
    try:
        return model.model_validate(data)
    except ValidationError as error:
        message = describe_validation_error(error, str(path), model=model, data=data, overrides=overrides)
        raise UserError(message) from None


def describe_validation_error(
    error: ValidationError,
    source: str = "",
    *,
    model: type[BaseModel] | None = None,
    data: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """Say what is wrong, one sentence a line.

    Args:
        error: what pydantic raised.
        source: the file the values came from, if any.
        model: what the values were read into; a problem with a key ends with what the key is for.
        data: the values themselves. Pydantic puts the names of a union's alternatives into its
            locations; with `data` they are left out, and keys read as they are written.
        overrides: "dotted.key=value" texts; a problem with one of those keys names the flag.
    """
    flags = [override.partition("=")[0] for override in overrides]
    problems = [_problem(problem, data, model) for problem in error.errors()]
    keys = [key for key, _ in problems]
    sentences: list[str] = []
    for key, text in problems:
        if any(other.startswith(f"{key}.") for other in keys):
            continue  # a union: another alternative got further in, and its complaint is the useful one
        where = _culprit(key, source, flags)
        sentence = f"{where}: {text}" if where else text
        if sentence not in sentences:
            sentences.append(sentence)
    return "\n".join(sentences)


def _problem(problem: Any, data: Mapping[str, Any] | None, model: type[BaseModel] | None) -> tuple[str, str]:
    """Return the dotted key and the sentence for one entry of `ValidationError.errors()`."""
    kind, context = problem["type"], problem.get("ctx", {})
    location = list(problem["loc"])
    if kind == "unknown_key":
        key = ".".join([*_existing(location, data), str(context["key"])])
        return key, f"unknown key {key!r}.{context['hint']}"
    if kind == "missing":
        key = ".".join([*_existing(location[:-1], data), str(location[-1])])
        return key, f"{key!r} is missing.{_meaning(model, key)}"
    key = ".".join(_existing(location, data))
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    if message.startswith("Input should"):
        sentence = f"{key!r} {message.removeprefix('Input ')}, but is {_short(problem['input'])}."
        return key, sentence + _meaning(model, key)
    return key, f"{key!r}: {message}.{_meaning(model, key)}" if key else f"{message}."


def _meaning(model: type[BaseModel] | None, key: str) -> str:
    """The first sentence of what a dotted key says of itself, for the end of a complaint about it."""
    field: FieldInfo | None = None
    for part in key.split("."):
        if not part.isdigit():  # an element of a list is of its list's model
            field = None if model is None else model.model_fields.get(part)
            model = None if field is None else section_model(field.annotation)
    text = (field.description if field else None) or ""
    return f" Its meaning: {' '.join(text.split()).partition('. ')[0].rstrip('.')}." if text else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _existing(location: Sequence[Any], data: Any) -> list[str]:
    """Keep the parts of a pydantic location that are keys or indices of `data`."""
    if data is None:
        return [str(part) for part in location]
    parts: list[str] = []
    for part in location:
        is_index = isinstance(data, list) and isinstance(part, int)
        if is_index or (isinstance(data, Mapping) and part in data):
            parts.append(str(part))
            data = data[part]
    return parts


def _culprit(key: str, source: str, flags: Sequence[str]) -> str:
    """Name the flag that set `key` or its section, else the file, with a flag that set a part of it."""
    for flag in reversed(flags):
        if flag == key or key.startswith(f"{flag}."):
            return f"--{flag}"
    for flag in reversed(flags):
        if key and flag.startswith(f"{key}."):
            return f"{source} with --{flag}" if source else f"--{flag}"
    return source


class StrictModel(BaseModel):
    """A pydantic model that refuses unknown keys, naming the nearest known one.

    What a key means stands in the docstring under its field; from there it goes into `--help`, into
    docs/configuration.md and into errors (`prompter.runs.config_keys`).
    """

    renamed: ClassVar[Mapping[str, str]] = {}
    """Old name of a key -> its name, dotted where it moved into a section. The old one works, and says so."""

    model_config = ConfigDict(
        extra="forbid", validate_default=True, frozen=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = _with_current_names(cls, data)
        for key in data:
            if key not in cls.model_fields:
                if key in cls.renamed:
                    hint = f" It is called {cls.renamed[key]!r} now, which is given too."
                else:
                    hint = did_you_mean(str(key), cls.model_fields)
                raise PydanticCustomError(
                    "unknown_key", "unknown key '{key}'.{hint}", {"key": str(key), "hint": hint}
                )
        return data


def _with_current_names(model: type[StrictModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the old keys of one section; an old key beside its new one is left, to be refused."""
    result = dict(data)
    for old, new in model.renamed.items():
        if old not in result:
            continue
        *sections, last = new.split(".")
        node: dict[str, Any] = result
        for section in sections:
            node[section] = dict(node.get(section) or {})
            node = node[section]
        if last in node:
            continue
        value = result.pop(old)
        if not sections or value is not None:  # a null in a section meant "not given"
            _say_once(model, old)
            node[last] = value
    return result


def _renamed_throughout(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the old keys of a section and of all sections in it."""
    result = _with_current_names(model, data) if issubclass(model, StrictModel) else dict(data)
    for name, field in model.model_fields.items():
        section, value = section_model(field.annotation), result.get(name)
        if section is not None and isinstance(value, Mapping):
            result[name] = _renamed_throughout(section, value)
        elif section is not None and isinstance(value, list):
            result[name] = [
                _renamed_throughout(section, item) if isinstance(item, Mapping) else item for item in value
            ]
    return result


def _current_key(model: type[BaseModel] | None, key: str) -> str:
    """The name that a dotted key has now."""
    parts: list[str] = []
    for part in key.split("."):
        if model is None or part.isdigit():  # an element of a list is of its list's model
            parts.append(part)
            continue
        if issubclass(model, StrictModel) and part in model.renamed:
            _say_once(model, part)
            part = model.renamed[part]
        for piece in part.split("."):
            parts.append(piece)
            field = None if model is None else model.model_fields.get(piece)
            model = None if field is None else section_model(field.annotation)
    return ".".join(parts)


def section_model(annotation: Any) -> type[StrictModel] | None:
    """The model in an annotation such as `Model`, `Model | None` or `Model | list[Model]`; None if none."""
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return annotation
    return next((found for item in get_args(annotation) if (found := section_model(item)) is not None), None)


_said: set[tuple[type, str]] = set()


def _say_once(model: type[StrictModel], old: str) -> None:
    if (model, old) not in _said:
        _said.add((model, old))
        _LOG.warning("the key %r of %s is called %r now", old, model.__name__, model.renamed[old])
