"""Names and "module:callable": what is found, what a mistake is told, and that nothing is imported early."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.datasets.catalog import CATALOG
from envs.executors.config import SEGMENTER_FAMILIES
from eval.answerers import ANSWERERS
from eval.answerers.baselines import BASELINES
from eval.protocols import PROTOCOLS
from prompter.errors import UserError
from prompter.registry import Entry, Registry, is_import, split_head
from recipes.cli import COMMANDS
from rewards.registry import REWARDS

SHAPES: Registry[type] = Registry("shape", {"cube": Entry("fractions:Fraction", "six faces")})
NUMBERS: Registry[int] = Registry("number", {}, of=int)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; what is imported from it is forgotten, and so is its place on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_name_is_found_in_the_table_and_a_text_is_imported(here: Path) -> None:
    (here / "own_shapes.py").write_text("def ball(): return 'round'\n")
    assert SHAPES.resolve("cube").__name__ == "Fraction"
    assert SHAPES.resolve("own_shapes:ball")() == "round"
    assert list(SHAPES) == ["cube"] and "ball" not in SHAPES
    assert SHAPES.listing() == "  cube  six faces"


def test_a_module_in_a_package_is_found_by_its_dotted_name(here: Path) -> None:
    (here / "own_package").mkdir()
    (here / "own_package" / "round_ones.py").write_text("def ball(): return 'round'\n")
    assert SHAPES.resolve("own_package.round_ones:ball")() == "round"


def test_a_file_here_hides_no_module_that_is_installed(here: Path) -> None:
    (here / "colorsys.py").write_text("def rgb_to_hsv(): return 'mine'\n")
    sys.modules.pop("colorsys", None)
    assert SHAPES.resolve("colorsys:rgb_to_hsv").__code__.co_filename != str(here / "colorsys.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cub", "there is no shape 'cub'. Did you mean 'cube'?"),
        ("", "there is no shape ''. Known: cube."),
        (
            "cubes:ball",
            "'cubes:ball': no module 'cubes' is installed or in this folder. Did you mean 'cube'?",
        ),
        ("own.deep:ball", "no module 'own.deep' is installed or in this folder. Known: cube."),
        ("own:bal", "'own' ({here}/own.py) has no 'bal'. Did you mean 'ball'?"),
        ("own:SIZE", "the shape 'own:SIZE' should be a callable, but is a int."),
        ("needy:ball", "shape 'needy:ball': its module needs 'nowhere_to_be_found', which is missing."),
        ("own.py:ball", "no module 'own.py' is installed or in this folder."),
        ("own:ball()", "there is no shape 'own:ball()'."),
        ("./own:ball", "there is no shape './own:ball'."),
    ],
)
def test_a_mistake_is_a_sentence(here: Path, text: str, message: str) -> None:
    (here / "own.py").write_text("SIZE = 3\ndef ball(): return 'round'\n")
    (here / "needy.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(UserError) as caught:
        SHAPES.resolve(text)
    assert message.format(here=here) in str(caught.value)


def test_what_is_not_called_is_held_to_its_type(here: Path) -> None:
    (here / "own.py").write_text("SIZE = 3\ndef ball(): return 'round'\n")
    assert NUMBERS.resolve("own:SIZE") == 3
    with pytest.raises(UserError, match="the number 'own:ball' should be a int, but is a function"):
        NUMBERS.resolve("own:ball")


def test_an_error_of_the_module_itself_keeps_its_traceback(here: Path) -> None:
    (here / "own.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        SHAPES.resolve("own:ball")


def test_checking_a_text_imports_nothing(here: Path) -> None:
    (here / "own.py").write_text("1 / 0\n")
    SHAPES.check("own:ball")
    SHAPES.check("cube")
    with pytest.raises(UserError, match="Did you mean 'cube'"):
        SHAPES.check("cueb")


@pytest.mark.parametrize(
    ("text", "parts", "parts_with_rest"),
    [
        ("sam2", ("sam2", None), ("sam2", None)),
        ("sam2:", ("sam2", ""), ("sam2", "")),
        ("sam2:small", ("sam2", "small"), ("sam2", "small")),
        ("sam2:facebook/small", ("sam2", "facebook/small"), ("sam2", "facebook/small")),
        ("sam2:a:b", ("sam2", "a:b"), ("sam2", "a:b")),
        ("own:build", ("own:build", None), ("own", "build")),
        ("own.deep:build", ("own.deep:build", None), ("own.deep", "build")),
        ("own:build:", ("own:build", ""), ("own:build", "")),
        ("own:build:a:b", ("own:build", "a:b"), ("own:build", "a:b")),
        ("mobilesam:a/b.pt", ("mobilesam", "a/b.pt"), ("mobilesam", "a/b.pt")),
        ("synthetic-arial:test", ("synthetic-arial", "test"), ("synthetic-arial", "test")),
    ],
)
def test_where_a_name_ends(
    text: str, parts: tuple[str, str | None], parts_with_rest: tuple[str, str | None]
) -> None:
    assert split_head(text, {"sam2"}) == parts
    assert split_head(text, {"sam2"}, whole=False) == parts_with_rest


def test_no_registered_name_looks_like_an_import_and_every_one_is_there() -> None:
    tables = (REWARDS, SEGMENTER_FAMILIES, PROTOCOLS, BASELINES, ANSWERERS)
    names = [name for table in (*tables, CATALOG, COMMANDS) for name in table]
    assert len(names) > 50
    assert [name for name in names if ":" in name or "." in name or is_import(name)] == []
    for table in tables:
        for name in table:
            assert table.resolve(name) is table[name]
            assert table is PROTOCOLS or callable(table[name])
    assert {name: protocol.name for name, protocol in PROTOCOLS.items()} == {name: name for name in PROTOCOLS}


def test_the_tables_import_nothing_that_is_behind_them() -> None:
    code = (
        "import sys, rewards.registry, envs.executors.config, eval.answerers\n"
        "from envs.executors.config import ExecutorConfig\n"
        "ExecutorConfig(family='nowhere_to_be_found:build')\n"
        "behind = ('torch', 'rewards.mask', 'envs.executors.families.box', 'eval.answerers.endpoint')\n"
        "print([name for name in behind if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
