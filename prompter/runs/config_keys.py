"""All keys of a config model, as people read them: for `--help`, for the documentation, for completion."""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from prompter.runs.config import section_model
from prompter.runs.tables import markdown_table

WIDTH = 100
"""Columns of the help."""


@dataclass(frozen=True)
class Key:
    """One key of a config.

    Args:
        name: dotted, as after `--` on the command line.
        kind: what its value is, in words; "" where that is told elsewhere.
        default: as YAML; None if it must be given.
        says: what it means, in sentences.
        choices: its values, or examples of them.
    """

    name: str
    kind: str
    default: str | None
    says: str
    choices: tuple[str, ...] = ()

    @property
    def value(self) -> str:
        """Its kind and its default, in words."""
        default = "required" if self.default is None else f"default {self.default}"
        return f"{self.kind}; {default}" if self.kind else default


@dataclass(frozen=True)
class Section:
    """A section of a config: its dotted name ("" for the config itself), what it is, and its own keys."""

    name: str
    says: str
    keys: tuple[Key, ...]


def config_sections(
    model: type[BaseModel], name: str = "", default: BaseModel | None = None
) -> list[Section]:
    """The sections of a config and of all sections in it, in the order of their fields.

    Args:
        model: the config, or the section called `name`.
        name: dotted name of the section.
        default: what the section is when it is not given; None takes each field's own default.
    """
    keys: list[Key] = []
    inner: list[Section] = []
    for field_name, field in model.model_fields.items():
        dotted = f"{name}.{field_name}" if name else field_name
        section = section_model(field.annotation)
        value = _default(field) if default is None else getattr(default, field_name)
        if section is None:
            keys.append(_key(dotted, field, value))
            continue
        first, *others = config_sections(section, dotted, value if isinstance(value, BaseModel) else None)
        inner += [Section(dotted, field.description or first.says, first.keys), *others]
    return [Section(name, (model.__doc__ or "").partition("\n\n")[0], tuple(keys)), *inner]


def help_text(sections: Sequence[Section]) -> str:
    """The keys as the end of a command's help, each written as a flag."""
    lines = ["every key of the config, which is a flag too:"]
    for section in sections:
        if section.name:
            lines += ["", *_wrapped(f"{section.name}: {section.says}", "")]
        for key in section.keys:
            lines += _wrapped(f"--{key.name} ({key.value})", "  ", "      ")
            lines += _wrapped(key.says, "        ")
    return "\n".join(lines)


def markdown(sections: Sequence[Section]) -> str:
    """The keys as Markdown: a heading and a table a section."""
    lines: list[str] = []
    for section in sections:
        heading = f"`{section.name}`" if section.name else "At the top"
        lines += [f"### {heading}", "", _one_line(section.says), ""]
        if section.keys:
            rows = [(f"`{key.name}`", key.value, _one_line(key.says)) for key in section.keys]
            lines += markdown_table([("key", "value", "meaning"), *rows])
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def yaml_value(value: Any) -> str:
    """A value as YAML in one line, as it is written after a flag."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, allow_unicode=True)
    return text.removesuffix("...\n").rstrip("\n")


def _key(name: str, field: FieldInfo, default: Any) -> Key:
    choices = tuple(str(choice) for choice in _literals(field.annotation))
    examples = tuple(str(example) for example in field.examples or ())
    kind = ", ".join([_kind(field.annotation), *_bounds(field)])
    if examples:
        kind += f", such as {', '.join(examples)}"
    text = (
        None
        if default is PydanticUndefined
        else yaml_value(str(default) if isinstance(default, Path) else default)
    )
    return Key(name, kind, text, _one_line(field.description or ""), choices or examples)


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    type(None): "null",
    Any: "anything",
}


def _kind(annotation: Any) -> str:
    """A type in words, such as "whole number or null"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _either([str(choice) for choice in arguments])
    if origin in (Union, types.UnionType):
        literals = [str(choice) for choice in _literals(annotation)]
        return _either([*literals, *(_kind(one) for one in arguments if get_origin(one) is not Literal)])
    if origin is list:
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return "mapping" if arguments[1] is Any else f"mapping of names to {_kind(arguments[1])}"
    return _KINDS[annotation]


def _either(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    for one in get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ():
        yield from _literals(one)


def _bounds(field: FieldInfo) -> list[str]:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    return [
        f"{words[name]} {getattr(bound, name):g}"
        for bound in field.metadata
        for name in words
        if hasattr(bound, name)
    ]


def _wrapped(text: str, indent: str, further: str | None = None) -> list[str]:
    return textwrap.wrap(
        _one_line(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if further is None else further,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
