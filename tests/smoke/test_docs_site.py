"""The documentation site builds strictly, needs no network to be read, and leaves no page out."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.fixtures.training import ROOT

pytestmark = pytest.mark.smoke

zensical = pytest.importorskip("zensical")

FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""Tags whose address a browser fetches by itself, with the attribute that holds it."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a link to a page or heading that is not there fails."""
    place = tmp_path_factory.mktemp("docs")
    for name in ("prompter", "envs", "rewards", "eval", "recipes"):
        (place / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", place / "docs")
    shutil.copy(ROOT / "mkdocs.yml", place)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "griffe: " not in done.stdout + done.stderr
    return place / "site"


class Addresses(HTMLParser):
    """Collects what a page has fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag in FETCHED and values.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(values.get(FETCHED[tag]) or "")


def addresses(page: Path) -> list[str]:
    """What a browser fetches for a page, beside the page."""
    parser = Addresses()
    parser.feed(page.read_text("utf-8"))
    return parser.found


def test_every_page_is_in_the_navigation_once() -> None:
    lines = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:\n")[1].splitlines()
    named = re.findall(r"([\w-]+\.md)$", "\n".join(lines), re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    assert [name for name in named if f"| [{name}]({name}) |" not in index] == ["README.md"]


def test_a_page_is_read_without_a_network(built: Path) -> None:
    pages = sorted(built.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").glob("*.md")))
    for page in pages:
        found = addresses(page)
        assert len(found) >= 2, page
        assert [one for one in found if re.match(r"(\w+:)?//", one)] == [], page
        for one in found:
            path = one.split("#")[0].split("?")[0]
            at = built / path.lstrip("/") if path.startswith("/") else page.parent / path
            assert not path or at.exists(), (page, one)
    styles = "".join(path.read_text("utf-8") for path in built.rglob("*.css"))
    assert styles and not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", styles)


def test_the_reference_has_what_docstrings_say(built: Path) -> None:
    page = (built / "reference.html").read_text("utf-8")
    for name in ("recipes.api.load.load", "recipes.api.result.Result.refine", "prompter.types.PromptSet"):
        assert f'id="{name}"' in page
    assert "the image not encoded again" in page


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[gone](gone.md) [no such](index.md#b)\n")
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump({"site_name": "x", "docs_dir": "docs"}))
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "2 issues" in done.stdout + done.stderr
