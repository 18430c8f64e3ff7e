"""YAML -> strict models: overrides, precedence, and what a user is told about a mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator

from prompter.errors import UserError
from prompter.runs.config import (
    StrictModel,
    describe_validation_error,
    load_config_model,
)
from prompter.runs.values import apply_overrides, dump_yaml, load_yaml, parse_yaml


class Pool(StrictModel):
    actors: int = 1
    kind: str = "local"

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("local", "ray"):
            raise ValueError(f"there is no pool {value!r}")
        return value


class Settings(StrictModel):
    name: str
    rate: float = Field(default=0.1, gt=0)
    pool: Pool | list[Pool] = Pool()
    extra: dict[str, Any] = Field(default_factory=dict)


def settings(tmp_path: Path, text: str, *overrides: str) -> Settings:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config_model(Settings, path, overrides)


def complaint(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        settings(tmp_path, text, *overrides)
    return str(caught.value)


def test_precedence_is_defaults_then_file_then_last_override(tmp_path: Path) -> None:
    text = "name: a\nrate: 0.5\npool: {actors: 2}"
    loaded = settings(tmp_path, text, "pool.actors=3", "pool.actors=4")
    assert loaded == Settings(name="a", rate=0.5, pool=Pool(actors=4, kind="local"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        ("5.", 5.0),
        (".5", 0.5),
        ("8", 8),
        ("true", True),
        ("null", None),
        ("", None),
        ("[a, 2]", ["a", 2]),
        ("{a: 1}", {"a": 1}),
        ("'1e-4'", "1e-4"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("2.1-hiera-small", "2.1-hiera-small"),
        (".inf", float("inf")),
    ],
)
def test_values_of_overrides_are_typed_as_in_yaml(text: str, value: Any) -> None:
    read = apply_overrides({}, [f"extra.x={text}"])["extra"]["x"]
    assert read == value
    assert type(read) is type(value)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
    | st.from_regex(r"[-+]?\d{1,3}\.?\d{0,2}([eE][-+]?\d{1,2})?", fullmatch=True)
    | st.sampled_from(["null", "yes", "0x10", "1_0", "~", "2026-01-01", "=", "<<", ".inf", "1:20"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc.1e", max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abc1e", min_size=1, max_size=5), plain, max_size=4))
def test_dumped_yaml_reads_back_equal(data: dict[str, Any]) -> None:
    assert parse_yaml(dump_yaml(data), "dump") == data


def test_overrides_leave_their_input_alone_and_reach_into_lists() -> None:
    data = {"pool": [{"actors": 1}, {"actors": 1}], "none": None}
    changed = apply_overrides(data, ["pool.1.actors=5", "none.new=1", "fresh.deep.key=x"])
    assert changed["pool"] == [{"actors": 1}, {"actors": 5}]
    assert changed["none"] == {"new": 1}
    assert changed["fresh"] == {"deep": {"key": "x"}}
    assert data == {"pool": [{"actors": 1}, {"actors": 1}], "none": None}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name.x=1", "--name.x: name is a value, not a section."),
        ("list.7.x=1", "--list.7.x: list is a list of 1, which has no element '7'."),
        ("list.x=1", "--list.x: list is a list of 1, which has no element 'x'."),
        ("name", "an override is written --dotted.key VALUE, but got 'name'."),
        ("a..b=1", "an override is written --dotted.key VALUE, but got 'a..b=1'."),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        apply_overrides({"name": "n", "list": [1]}, [override])
    assert str(caught.value) == message


def test_unknown_keys_are_named_with_path_file_and_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    message = complaint(tmp_path, "name: a\npool: {actor: 2}")
    assert message == f"{path}: unknown key 'pool.actor'. Did you mean 'actors'?"
    assert complaint(tmp_path, "name: a\nrats: 1") == f"{path}: unknown key 'rats'. Did you mean 'rate'?"


def test_a_mistake_in_an_override_names_the_flag(tmp_path: Path) -> None:
    assert complaint(tmp_path, "name: a", "rate=fast") == (
        "--rate: 'rate' should be a valid number, unable to parse string as a number, but is 'fast'."
    )
    assert "--rats: unknown key 'rats'." in complaint(tmp_path, "name: a", "rats=1")
    assert "settings.yaml: 'rate'" in complaint(tmp_path, "name: a\nrate: -1", "pool.actors=2")


def test_every_problem_gets_a_sentence(tmp_path: Path) -> None:
    lines = complaint(tmp_path, "rate: 0").splitlines()
    path = tmp_path / "settings.yaml"
    assert lines == [f"{path}: 'name' is missing.", f"{path}: 'rate' should be greater than 0, but is 0."]


def test_names_of_union_alternatives_stay_out_of_keys(tmp_path: Path) -> None:
    message = complaint(tmp_path, "name: a\npool: {kind: cloud}")
    assert message == f"{tmp_path / 'settings.yaml'}: 'pool.kind': there is no pool 'cloud'."


def test_an_error_without_a_file_still_reads_as_a_sentence() -> None:
    with pytest.raises(ValidationError) as caught:
        Pool(kind="cloud")
    assert describe_validation_error(caught.value) == "'kind': there is no pool 'cloud'."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not YAML: expected ',' or ']'"),
        ("a: 1\nb: 2\na: 3", "is not YAML: the key 'a' stands twice (line 3, column 1)."),
        ("- 1", "should be a mapping of keys to values, but is a list."),
        ("a: !!python/object/apply:os.system [ls]", "is not YAML: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path} {message}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_yaml(tmp_path / "absent.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not text in UTF-8"):
        load_yaml(binary)


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_yaml(tmp_path / "empty.yaml") == {}


class Inner(StrictModel):
    renamed: ClassVar[Mapping[str, str]] = {"kind": "backend"}

    backend: str = "ray"
    size: int = 1


class Outer(StrictModel):
    renamed: ClassVar[Mapping[str, str]] = {"think": "inner.size", "old": "new"}

    new: int = 0
    inner: Inner = Inner()
    several: Inner | list[Inner] = Inner()


def test_old_names_work_in_files_and_flags_and_say_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prompter.runs.config._said", set())
    path = tmp_path / "old.yaml"
    path.write_text("old: 3\nthink: 7\ninner: {kind: hf}\nseveral: [{kind: a}, {kind: b}]\n")
    for _ in range(2):
        config = load_config_model(Outer, path, ["several.1.kind=c"])
    assert config == Outer(
        new=3, inner=Inner(backend="hf", size=7), several=[Inner(backend="a"), Inner(backend="c")]
    )
    assert sorted(record.getMessage() for record in caplog.records) == [
        "the key 'kind' of Inner is called 'backend' now",
        "the key 'old' of Outer is called 'new' now",
        "the key 'think' of Outer is called 'inner.size' now",
    ]


def test_a_flag_under_either_name_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("inner: {kind: hf}\n")
    assert load_config_model(Outer, path, ["inner.backend=x"]).inner.backend == "x"
    path.write_text("inner: {backend: hf}\n")
    assert load_config_model(Outer, path, ["inner.kind=x"]).inner.backend == "x"


def test_an_old_name_beside_its_new_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text("inner: {kind: hf, backend: ray}\n")
    with pytest.raises(UserError, match=r"'inner.kind'.* It is called 'backend' now, which is given too"):
        load_config_model(Outer, path)


def test_a_null_of_a_key_that_moved_into_a_section_means_not_given() -> None:
    assert Outer.model_validate({"think": None}).inner.model_fields_set == set()
