"""Which datasets there are, and how to open one by name, or by "module:callable" if it is your own."""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.datasets.catalog import CATALOG, DatasetInfo
from prompter.errors import UserError, did_you_mean
from prompter.registry import Entry, Registry, is_import, split_head

if TYPE_CHECKING:
    from envs.sample import SampleSource

_LOG = logging.getLogger(__name__)


def known_datasets() -> Mapping[str, DatasetInfo]:
    """All datasets by name, in the order of the listing."""
    return CATALOG


def dataset_info(name: str) -> DatasetInfo:
    """Look a dataset up; "module:callable" is one of the user's own, of which nothing is known.

    Raises:
        UserError: with a suggestion, when there is none of that name.
    """
    known = known_datasets()
    if name in known:
        return known[name]
    if not is_import(name):
        own = " One of your own is MODULE:CALLABLE, and MODULE:CALLABLE:SPLIT with its split."
        raise UserError(f"there is no dataset {name!r}.{did_you_mean(name, known)}{own}")
    return DatasetInfo(name, "your own", name, splits=(), needs_files=False, source="your code")


def split_name(text: str) -> tuple[str, str | None]:
    """Split "name:split", or "module:callable:split", into name and split; None where there is no split.

    Two names with one colon are always name and split.
    """
    return split_head(text, known_datasets(), whole=False)


def open_dataset(name: str, split: str, **options: Any) -> SampleSource:
    """Open one split of a dataset.

    Args:
        name: a name of `known_datasets()`, or "module:callable", which is called with the split and the
            options and returns a `SampleSource`.
        split: one of the dataset's splits.
        options: keyword arguments of the dataset's own opener, for example `root=…` or `skip_bad=True`,
            and those that every set has: `envs.datasets.reading.rules.ReadingRules`, and `false_premises`
            (`envs.datasets.false_premises`); text is converted to the option's type.

    Raises:
        UserError: if the name, split or an option is unknown, or if the set's files are missing or bad.
    """
    info = dataset_info(name)
    if info.splits and split not in info.splits:
        raise UserError(f"dataset {name!r} has no split {split!r}.{did_you_mean(split, info.splits)}")
    factory = _factory(info)
    checked = _checked_options(name, factory, options)
    own = _option_types(factory)
    given = {
        **info.split_options.get(split, {}),
        **{option: value for option, value in checked.items() if option in own},
    }
    for parameter in inspect.signature(factory).parameters.values():
        is_required = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if is_required and parameter.name not in given:
            raise UserError(f"dataset {name!r} needs the option {parameter.name!r}.")
    from envs.datasets.false_premises import OPTION, with_false_premises
    from envs.datasets.reading.rules import ReadingRules, applied, rule_types
    from envs.sample import SampleSource

    asked = {option: value for option, value in checked.items() if option in rule_types()}
    with applied(ReadingRules(**{**info.reading, **asked})):
        source: SampleSource = factory(split, **given)
    if name not in known_datasets() and not isinstance(source, SampleSource):
        raise UserError(
            f"dataset {name!r} should open an envs.sample.SampleSource, but gave a {type(source).__name__}; "
            f"envs.datasets.reading.records.RecordSource makes one."
        )
    if OPTION in checked and OPTION not in own:
        return with_false_premises(source, checked[OPTION])
    return source


def may_open(name: str, trust: bool) -> bool:
    """Whether a dataset that a run folder names may be opened, which imports one of the user's own.

    A run folder may be anybody's, and importing runs code. So a "module:callable" that is read from one
    is left alone, and said to be, unless the user says that the run is to be trusted.
    """
    own = is_import(name) and name not in known_datasets()
    if own and not trust:
        _LOG.warning("the run's dataset is code, %r, and is not imported: add --trust if you know it.", name)
    return trust or not own


def reading_options(name: str) -> dict[str, Any]:
    """The rules of reading that a dataset's files are read by: name -> type; none for one that is drawn."""
    from envs.datasets.reading.rules import rule_types

    info = dataset_info(name)
    reads_files = info.needs_files or name not in known_datasets() or "root" in opener_options(name)
    return rule_types() if reads_files else {}


def opener_options(name: str) -> dict[str, Any]:
    """The options of a dataset's opener: name -> type annotation. Imports the dataset's module."""
    return _option_types(_factory(dataset_info(name)))


def _factory(info: DatasetInfo) -> Callable[..., Any]:
    entries = {one.name: Entry(one.factory, one.title) for one in known_datasets().values()}
    return Registry[Callable[..., Any]]("dataset", entries).resolve(info.name)


def _option_types(factory: Callable[..., Any]) -> dict[str, Any]:
    annotations = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: annotations.get(p.name, Any) for p in parameters if p.kind is p.KEYWORD_ONLY}


def _checked_options(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse unknown options and convert the values of known ones to their declared types.

    Known are those of the opener, the rules of reading, and `false_premises`.
    """
    from pydantic import TypeAdapter, ValidationError

    from envs.datasets.false_premises import OPTION_TYPES

    types = {**reading_options(name), **OPTION_TYPES, **_option_types(factory)}
    checked: dict[str, Any] = {}
    for option, value in options.items():
        if option not in types:
            raise UserError(f"dataset {name!r} has no option {option!r}.{did_you_mean(option, types)}")
        if option == "root" and isinstance(value, str) and (value.startswith(".") or value.endswith("/")):
            value = str(Path(value).absolute())  # a path, though as one it would look like a hub id
        try:
            checked[option] = TypeAdapter(types[option]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(f"option {option!r} of dataset {name!r} cannot be {value!r}: {reason}.") from None
    return checked
