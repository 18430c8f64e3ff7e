"""The shape of the tree: who may import whom, and that every folder of code is packaged."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import prompter

ROOT = Path(__file__).resolve().parents[3]
ORDER = ("prompter", "envs", "rewards", "eval", "recipes")
FILES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))
ALL_FILES = [*FILES, *sorted((ROOT / "tests").rglob("*.py"))]


def imported_modules(path: Path, source: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import of a file, those inside functions included.

    `from a import b` yields "a.b"; a relative import is resolved against the file's package.
    """
    tree = ast.parse(path.read_text(encoding="utf-8") if source is None else source, str(path))
    parents = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def order_violations(path: Path, source: str | None = None) -> list[str]:
    """Imports of a file that go against `ORDER`, as "file:line: …" sentences."""
    package = path.relative_to(ROOT).parts[0]
    allowed = ORDER[: ORDER.index(package) + 1]
    return [
        f"{path.relative_to(ROOT)}:{line}: {package} must not import {name}"
        for line, name in imported_modules(path, source)
        if name.split(".")[0] in {*ORDER, "tests"} - set(allowed)
    ]


def test_packages_import_only_from_those_on_their_left() -> None:
    assert FILES
    assert [violation for path in FILES for violation in order_violations(path)] == []


@pytest.mark.parametrize(
    ("source", "violations"),
    [
        ("import rewards.mask", 1),
        ("def f():\n    from recipes import cli", 1),
        ("from ..recipes import cli", 1),
        ("from tests import conftest", 1),
        ("from . import masks\nfrom prompter.types import Box\nimport numpy", 0),
    ],
)
def test_the_order_test_sees_imports_of_every_form(source: str, violations: int) -> None:
    assert len(order_violations(ROOT / "envs" / "masks.py", source)) == violations


def module_name(path: Path) -> str:
    """Dotted name of a file's module; a package's `__init__.py` has the package's name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph(files: dict[str, set[str]]) -> dict[str, set[str]]:
    """Module -> modules of ours it imports; a name imported from a package is the package's own.

    Args:
        files: module -> dotted names its file imports, anywhere in it.
    """
    return {
        module: {
            target
            for name in names
            if (target := name if name in files else name.rpartition(".")[0]) in files and target != module
        }
        for module, names in files.items()
    }


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or round about (Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in number:
            visit(module)
    return found


def test_no_module_imports_itself_round_about() -> None:
    files = {module_name(path): {name for _, name in imported_modules(path)} for path in FILES}
    assert circles(import_graph(files)) == []


def test_the_circle_test_sees_circles() -> None:
    files = {"a": {"a.b.thing"}, "a.b": {"a.c", "json"}, "a.c": {"a.b.x"}, "d": {"a.c"}}
    assert circles(import_graph(files)) == [["a.b", "a.c"]]
    assert circles(import_graph({**files, "a.c": {"a.thing"}})) == [["a", "a.b", "a.c"]]
    assert circles(import_graph({**files, "a.c": set()})) == []


def shadows_eval(path: Path, source: str | None = None) -> list[int]:
    """Lines that bind the name `eval` to the package, which would shadow the builtin."""
    tree = ast.parse(path.read_text(encoding="utf-8") if source is None else source, str(path))
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
        if (alias.asname or (alias.name.split(".")[0] if isinstance(node, ast.Import) else alias.name))
        == "eval"
    ]


def test_nothing_shadows_the_builtin_eval() -> None:
    assert [f"{path.relative_to(ROOT)}:{line}" for path in ALL_FILES for line in shadows_eval(path)] == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import eval", [1]),
        ("import eval.metrics", [1]),
        ("import numpy as eval", [1]),
        ("from x import eval", [1]),
        ("from eval.metrics import x\nimport eval.metrics as metrics", []),
    ],
)
def test_the_shadow_test_sees_every_form(source: str, lines: list[int]) -> None:
    assert shadows_eval(ROOT / "envs" / "masks.py", source) == lines


def test_every_folder_of_code_is_a_listed_package() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in FILES}
    assert sorted(listed) == sorted(found)
    without_init = [name for name in found if not (ROOT / name.replace(".", "/") / "__init__.py").exists()]
    assert without_init == []


@pytest.mark.parametrize(
    "module", ["prompter.types", "prompter", "envs", "rewards", "eval", "recipes", "recipes.api.load"]
)
def test_light_modules_import_no_torch(module: str) -> None:
    code = f"import sys, importlib; importlib.import_module({module!r}); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


def named_modules(path: Path, source: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every string that is nothing but a dotted name, or "module:callable"."""
    tree = ast.parse(path.read_text(encoding="utf-8") if source is None else source, str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"[a-z]\w*(\.\w+)+(:\w+)?|[a-z]\w*:\w+", node.value):
                yield node.lineno, node.value


def named_violations(path: Path, source: str | None = None) -> list[str]:
    """Strings of a file that name a module it must not import: what a registry would import unseen."""
    package = path.relative_to(ROOT).parts[0]
    later = ORDER[ORDER.index(package) + 1 :]
    return [
        f"{path.relative_to(ROOT)}:{line}: {package} names {text}"
        for line, text in named_modules(path, source)
        if re.split(r"[.:]", text)[0] in later and (ROOT / re.split(r"[.:]", text)[0]).is_dir()
    ]


def test_only_the_facade_names_modules_on_its_right() -> None:
    """`from prompter import load`: the one place, and it is a table that nothing in the package uses."""
    facade = ROOT / "prompter" / "__init__.py"
    assert [line for path in FILES if path != facade for line in named_violations(path)] == []
    assert {text for _, text in named_modules(facade)} == set(prompter.FACADE.values())
    users = [path for path in FILES for _, name in imported_modules(path) if name in LENT]
    assert [str(path.relative_to(ROOT)) for path in users] == []


LENT = {f"prompter.{name}" for name in prompter.FACADE}


def test_the_test_of_names_sees_registries_entries() -> None:
    path = ROOT / "envs" / "masks.py"
    registry = 'A = {"x": "eval.metrics:giou", "y": ("rewards:mask", "recipes.cli")}'
    assert len(named_violations(path, registry)) == 3
    harmless = 'A = ["prompter.types", "envs.masks:union", "a sentence on eval.metrics"]'
    assert named_violations(path, harmless) == []
