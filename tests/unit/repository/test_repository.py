"""What must not get into the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LARGEST = 16 * 2**20

# Each pattern is written so that it does not match its own text here.
FOREIGN = re.compile(
    "|".join(
        [
            "py[p]i[.]org",
            "python[h]osted",
            "registry[.]np[m]js",
            "deb[.]de[b]ian",
            "/wo[r]k/(main|steering|shared|[.]library)",
            "/fa[r]m/",
            "/ro[o]t/",
            "/ho[m]e/[a-z]",
            "/U[s]ers/[a-z]",
        ]
    )
)


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Files that git tracks, as they are in the working tree."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_tracked_file_is_large(tracked: list[Path]) -> None:
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked}
    assert {name: size for name, size in sizes.items() if size > LARGEST} == {}


def test_no_tracked_file_names_a_registry_host_or_a_path_of_this_machine(tracked: list[Path]) -> None:
    found = []
    for path in tracked:
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
            if FOREIGN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_the_pattern_finds_what_it_is_for() -> None:
    assert FOREIGN.search("https://" + "py" + "pi.org/simple")
    assert FOREIGN.search("open('/ho" + "me/someone/x')")
    assert not FOREIGN.search("the home folder of a pipeline")


def test_pins_are_exact_and_free_of_urls() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pin = re.compile(r"[a-z0-9.-]+==[0-9][A-Za-z0-9.!]*( ; .+)?")
    assert [line for line in lines if not pin.fullmatch(line)] == []
    assert "torch==2.13.0" in lines


def test_no_lock_file_with_hosts_is_tracked(tracked: list[Path]) -> None:
    assert ROOT / "uv.lock" not in tracked
