"""Which datasets there are, and how to open one by name."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from envs.datasets.catalog import CATALOG, DatasetInfo
from prompter.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from envs.sample import SampleSource


def known_datasets() -> Mapping[str, DatasetInfo]:
    """All datasets by name, in the order of the listing."""
    return CATALOG


def dataset_info(name: str) -> DatasetInfo:
    """Look a dataset up; UserError with a suggestion when there is none of that name."""
    known = known_datasets()
    if name not in known:
        raise UserError(f"there is no dataset {name!r}.{did_you_mean(name, known)}")
    return known[name]


def split_name(text: str) -> tuple[str, str | None]:
    """Split "name:split" into its two parts; the second is None when there is no colon."""
    name, colon, split = text.partition(":")
    return name, split if colon else None


def open_dataset(name: str, split: str, **options: Any) -> SampleSource:
    """Open one split of a dataset.

    Args:
        name: a name of `known_datasets()`.
        split: one of the dataset's splits.
        options: keyword arguments of the dataset's own opener, for example `root=…` or `skip_bad=True`;
            text is converted to the option's type.

    Raises:
        UserError: if the name, split or an option is unknown, or if the set's files are missing or bad.
    """
    info = dataset_info(name)
    if info.splits and split not in info.splits:
        raise UserError(f"dataset {name!r} has no split {split!r}.{did_you_mean(split, info.splits)}")
    factory = _factory(info)
    given = {**info.split_options.get(split, {}), **_checked_options(name, factory, options)}
    for parameter in inspect.signature(factory).parameters.values():
        is_required = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if is_required and parameter.name not in given:
            raise UserError(f"dataset {name!r} needs the option {parameter.name!r}.")
    return factory(split, **given)


def opener_options(name: str) -> dict[str, Any]:
    """The options of a dataset's opener: name -> type annotation. Imports the dataset's module."""
    return _option_types(_factory(dataset_info(name)))


def _factory(info: DatasetInfo) -> Callable[..., Any]:
    module, _, attribute = info.factory.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _option_types(factory: Callable[..., Any]) -> dict[str, Any]:
    annotations = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: annotations.get(p.name, Any) for p in parameters if p.kind is p.KEYWORD_ONLY}


def _checked_options(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse unknown options and convert the values of known ones to their declared types."""
    from pydantic import TypeAdapter, ValidationError

    types = _option_types(factory)
    checked: dict[str, Any] = {}
    for option, value in options.items():
        if option not in types:
            raise UserError(f"dataset {name!r} has no option {option!r}.{did_you_mean(option, types)}")
        try:
            checked[option] = TypeAdapter(types[option]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(f"option {option!r} of dataset {name!r} cannot be {value!r}: {reason}.") from None
    return checked
