"""The wheel: everything of the checkout is in it, nothing else, and all of it imports from it alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("prompter", "envs", "rewards", "eval", "recipes")

# Runs without `site`, so that the editable install's import hook is not there to find the checkout.
IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
target, dependencies = sys.argv[1:3]
sys.path[:0] = [target]
sys.path.append(dependencies)
strangers, modules = [], []
def failed(name):
    raise
for package in sys.argv[3:]:
    root = importlib.import_module(package)
    names = [package] + [m.name for m in pkgutil.walk_packages(root.__path__, package + ".", onerror=failed)]
    for name in names:
        module = importlib.import_module(name)
        modules.append(name)
        if not module.__file__.startswith(target):
            strangers.append(module.__file__)
print(json.dumps({"modules": modules, "strangers": strangers}))
"""


def source_files() -> list[Path]:
    """Files of the checkout that git tracks or would track, relative to its root."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in sorted(set(listing.split("\0"))) if name and (ROOT / name).is_file()]


def is_folder_note(name: Path) -> bool:
    """Whether a file only explains its folder to readers of the repository; a checkpoint's card does more."""
    return name.name == "README.md" and "checkpoints" not in name.parts


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that no build folder is left in the checkout or read from it."""
    copy = tmp_path_factory.mktemp("source")
    for name in source_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("prompter_rl-*.whl")
    return path


def test_the_wheel_holds_all_code_and_data_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {str(name) for name in source_files() if name.parts[0] in PACKAGES and not is_folder_note(name)}
    assert inside == wanted


def test_the_wheel_names_its_licence_and_console_script(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (scripts,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        assert "prompter = recipes.cli:main" in archive.read(scripts).decode()
    assert any(name.endswith("LICENSE") for name in names)


def test_every_module_imports_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(target), str(wheel)], check=True, capture_output=True, timeout=120)
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        IMPORT_EVERYTHING,
        str(target),
        sysconfig.get_path("purelib"),
    ]
    done = subprocess.run(
        [*command, *PACKAGES], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["strangers"] == []
    expected = {
        ".".join(name.with_suffix("").parts).removesuffix(".__init__")
        for name in source_files()
        if name.parts[0] in PACKAGES and name.suffix == ".py"
    }
    assert set(result["modules"]) == expected
