"""Values as people write them: YAML files, and `key=value` texts of the command line.

YAML is read by PyYAML's safe loader with two differences. `1e-4` is a number, as in YAML 1.2 and
everywhere else (YAML 1.1 reads text). A key that stands twice is refused, not silently dropped.

Every `KEY=VALUE` of every command is read here (`read_option`), so that a value means the same wherever it is
given: after a flag of `prompter train`, in `--dataset-option`, or within `--executor FAMILY,key=value`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from prompter.errors import UserError
from prompter.runs.secrets import refuse_secrets

_FLOAT = re.compile(
    r"^[-+]?(?:\d[\d_]*\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
)


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                mark = node.value[position][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would read as a number, so that dumping and loading agree."""


for _class in (_Loader, _Dumper):
    # A copy per class: PyYAML shares this table between a class and its parents until one writes to it.
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml(text: str, source: str) -> Any:
    """Read YAML text into plain Python values.

    Args:
        text: one YAML document.
        source: what to call it in an error: a path, or a flag.

    Raises:
        UserError: if it is not YAML, or a key stands twice in one mapping.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # _Loader is a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{source} is not YAML: {_one_line(error)}.") from None


def _one_line(error: Exception) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None or mark is None:
        return " ".join(str(error).split()).rstrip(".")
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})"


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file that holds one mapping; an empty file is an empty mapping.

    Raises:
        UserError: if the file cannot be read, is not YAML, or holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8.") from None
    data = parse_yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path} should be a mapping of keys to values, but is a {type(data).__name__}.")
    return data


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Write plain Python values as YAML that `parse_yaml` reads back equal; keys keep their order."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a deep copy of `data` with each "dotted.key=value" set, in order.

    Values are read as YAML (`8`, `1e-4`, `true`, `[a, b]`, `null`); sections that do not exist are
    made; a whole number picks an element of a list (`executor.0.family=box`).

    Raises:
        UserError: if an override has no `=`, an empty key, a value that is not YAML, or leads
            through something that is neither a section nor a list element.
    """
    result: dict[str, Any] = _copied(data)
    for override in overrides:
        key, value = read_option(override, "", form="--dotted.key VALUE")
        _set(result, key.split("."), value, f"--{key}")
    return result


def dotted(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and plain values of nested mappings, empty ones left out; lists are values."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from dotted(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def read_option(text: str, flag: str, *, form: str = "KEY=VALUE") -> tuple[str, Any]:
    """Read one "key=value" text; the value is YAML (`8`, `1e-4`, `true`, `[a, b]`, `null`, `text`).

    Args:
        text: the text; its key may be dotted, but no part of it empty.
        flag: the flag that takes such texts, for the error; "" for an override, which is a flag itself.
        form: how it is written, for the error.

    Raises:
        UserError: if there is no `=`, a part of the key is empty, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"{flag or 'an override'} is written {form}, but got {text!r}.")
    return key, parse_yaml(value, f"{flag} {key}" if flag else f"--{key}")


def read_options(texts: Iterable[str], flag: str) -> dict[str, Any]:
    """Read "dotted.key=value" texts into nested mappings (see `read_option`).

    Args:
        texts: the texts.
        flag: the flag they are given by, for errors.

    Raises:
        UserError: if a text cannot be read, a key is given twice or both as a value and as a section, or a
            value is a key or a password (`prompter.runs.secrets`).
    """
    result: dict[str, Any] = {}
    given: list[str] = []
    for text in texts:
        key, value = read_option(text, flag)
        if key in given:
            raise UserError(f"{flag} gives {key!r} twice.")
        if any(one.startswith(f"{key}.") for one in given):
            raise UserError(f"{flag} gives {key!r} as a value and as a section.")
        given.append(key)
        _set(result, key.split("."), value, f"{flag} {key}")
    refuse_secrets(result, flag)
    return result


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _set(root: dict[str, Any], parts: list[str], value: Any, given: str) -> None:
    """Put a value at a dotted place; `given` names in an error what asked for it."""
    node: Any = root
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        slot: Any = part
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                where = ".".join(parts[:depth])
                raise UserError(f"{given}: {where} is a list of {len(node)}, which has no element {part!r}.")
            slot = int(part)
        elif not isinstance(node, MutableMapping):
            raise UserError(f"{given}: {'.'.join(parts[:depth])} is a value, not a section.")
        if last:
            node[slot] = value
            return
        if isinstance(node, MutableMapping) and node.get(slot) is None:
            node[slot] = {}
        node = node[slot]
