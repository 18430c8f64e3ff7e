"""The door to the datasets: names, splits and options are checked before anything is opened."""

import subprocess
import sys
import types

import pytest

from envs.datasets import dataset_info, known_datasets, split_name
from envs.datasets import registry as registry_module
from envs.datasets.catalog import DatasetInfo
from envs.datasets.registry import open_dataset
from prompter.errors import UserError


class Recorder:
    """Stands in for a dataset: remembers how it was opened."""

    def __init__(self, split: str, *, scenes: int, root: str | None = None) -> None:
        self.split, self.scenes, self.root = split, scenes, root


@pytest.fixture
def one_set(monkeypatch):
    info = DatasetInfo(
        name="recorder",
        title="",
        factory="recorder_for_the_registry_test:Recorder",
        splits=("train", "test"),
        split_options={"test": {"scenes": 5}},
    )
    module = types.ModuleType("recorder_for_the_registry_test")
    module.Recorder = Recorder
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry_module, "known_datasets", lambda: {"recorder": info})


def test_importing_the_package_is_cheap():
    heavy = "('torch', 'datasets', 'numpy', 'pydantic')"
    code = f"import sys, envs.datasets; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_dataset_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"'synthetic-arial'.*Did you mean 'synthetic-aerial'"):
        dataset_info("synthetic-arial")


def test_unknown_split_is_named_with_the_nearest(one_set):
    with pytest.raises(UserError, match=r"'tets'.*Did you mean 'test'"):
        open_dataset("recorder", "tets")


def test_unknown_option_is_named_with_the_nearest(one_set):
    with pytest.raises(UserError, match=r"option 'scene'.*Did you mean 'scenes'"):
        open_dataset("recorder", "test", scene=3)


def test_option_of_the_wrong_type_is_refused(one_set):
    with pytest.raises(UserError, match=r"option 'scenes' of dataset 'recorder' cannot be 'many'"):
        open_dataset("recorder", "test", scenes="many")


def test_missing_option_is_named(one_set):
    with pytest.raises(UserError, match="dataset 'recorder' needs the option 'scenes'"):
        open_dataset("recorder", "train")


def test_split_defaults_hold_unless_given_and_text_becomes_a_number(one_set):
    assert open_dataset("recorder", "test").scenes == 5
    assert open_dataset("recorder", "test", scenes="7").scenes == 7


def test_split_name():
    assert split_name("earthreason:test") == ("earthreason", "test")
    assert split_name("manifest") == ("manifest", None)


def test_every_entry_of_the_catalog_is_consistent():
    for name, info in known_datasets().items():
        assert info.name == name
        assert info.title
        assert info.source
        assert not info.splits or set(info.counts) <= set(info.splits)
        assert set(info.split_options) <= set(info.splits)
        assert info.layout or not info.needs_files


@pytest.mark.parametrize("place", ["./no/where", "no/where/", "../no/where"])
def test_what_is_written_as_a_path_is_never_asked_of_the_hub(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="'earthreason' was not found"):
        open_dataset("earthreason", "val", root=place)
