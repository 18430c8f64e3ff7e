"""Every recipe passes its own dry run on a machine that has none of what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.config import load_config
from recipes.dry_run.run import dry_run
from recipes.shipped import shipped_recipes

pytestmark = pytest.mark.smoke

LOCAL = {"synthetic-aerial", "aerial-buildings", "adapt-area"}
"""These are run in full elsewhere."""


@pytest.mark.parametrize("name", sorted(shipped_recipes().keys() - LOCAL))
def test_nothing_is_wrong_with_a_recipe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMPTER_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    found = {one.what: one for one in dry_run(load_config(name))}
    assert {what: one.says for what, one in found.items() if one.state == "wrong"} == {}
    # What follows from the recipe and the shape of its model alone is known on any machine.
    known = {"rewards", "references", "trainer keys", "sizes", "adapters", "weights follow", "memory"}
    assert {what for what in known if found[what].state != "ok"} == set()
    assert "GiB" in found["memory"].says
    assert found["policy"].state == "not here" and "by the table of known shapes" in found["policy"].says
    assert list(tmp_path.iterdir()) == []
