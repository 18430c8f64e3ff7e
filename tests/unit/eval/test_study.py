"""Differences pooled over seeds, and the table of a study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.bootstrap import Bootstrap, Ratio, paired_difference, pooled_difference
from eval.query_table import QueryTable, build_table
from eval.study import SeedResult, compare_arms, study_rows, write_study
from tests.unit.eval.test_metrics import rollout

QUERIES = 60
IMAGES = np.repeat(np.arange(20), 3)


def ious(seed: int, gain: float = 0.0) -> Ratio:
    values = np.random.default_rng(seed).uniform(0, 0.7, QUERIES) + gain
    return Ratio.of(values, 1.0)


def test_one_seed_is_a_paired_difference_drawing_images() -> None:
    before, after = ious(0), ious(1, 0.2)
    found = pooled_difference([(before, after)], IMAGES)
    single = paired_difference(before, after, IMAGES)
    assert found.difference == pytest.approx(single.difference)
    assert found.by_image == single.by_image and found.by_seed_and_image is None is found.over_seeds


def test_equal_seeds_pool_to_the_interval_of_one_and_seeds_that_differ_widen_it() -> None:
    before = ious(0)
    alike = [(before, ious(1, 0.1))] * 3
    single = paired_difference(*alike[0], IMAGES)
    found = pooled_difference(alike, IMAGES)
    assert found.by_image is not None and single.by_image is not None and found.by_seed_and_image is not None
    for pooled in (found.by_image, found.by_seed_and_image):
        assert pooled.to_json() == pytest.approx(single.by_image.to_json())
    unlike = [(before, Ratio.of(before.numerator + gain, 1.0)) for gain in (0.0, 0.1, 0.2)]
    found = pooled_difference(unlike, IMAGES)
    assert found.difference == pytest.approx(0.1)
    assert found.by_seed == pytest.approx((0.0, 0.1, 0.2))
    # These seeds are known exactly whatever the images are; other seeds may be like the worst or the best.
    assert found.by_image is not None and found.by_seed_and_image is not None
    assert found.by_image.to_json() == pytest.approx([0.1, 0.1])
    # t of 2 degrees of freedom is 4.303; the standard error of 0, 0.1, 0.2 is 0.1 / sqrt(3).
    assert found.over_seeds is not None
    assert found.over_seeds.to_json() == pytest.approx([0.1 - 0.2484, 0.1 + 0.2484], abs=1e-4)
    assert found.by_seed_and_image.low < 0.04 and found.by_seed_and_image.high > 0.16


def test_the_interval_over_seeds_and_images_covers_the_truth_as_often_as_it_says() -> None:
    """Noise of images shared by seeds, noise of seeds: of 120 worlds about 95 % are covered with 8 seeds."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(120):
        image, seed = rng.normal(0, 0.1, 20), rng.normal(0, 0.1, 8)
        changes = 0.3 + image[IMAGES] + seed[:, None] + rng.normal(0, 0.1, (8, QUERIES))
        pairs = [(Ratio.of(np.zeros(QUERIES), 1.0), Ratio.of(change, 1.0)) for change in changes]
        found = pooled_difference(pairs, IMAGES, Bootstrap(rounds=200)).by_seed_and_image
        assert found is not None
        covered += found.low <= 0.3 <= found.high
    assert 102 <= covered <= 119


def test_pairs_over_other_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="over the same queries"):
        pooled_difference([(ious(0), Ratio.of([1.0], 1.0))], IMAGES)
    with pytest.raises(ValueError, match="at least one pair"):
        pooled_difference([], IMAGES)


def result(seed: int, before: int, after: int) -> SeedResult:
    """A run whose boxes covered `before` and later `after` of four columns of each target."""
    tables = [
        build_table([rollout(number, (0, 0, width, 4)) for number in range(6)]) for width in (before, after)
    ]
    return SeedResult(seed, *tables, completions=64, minutes=2.0)


def test_arms_are_compared_with_their_start_and_seed_by_seed_with_the_reference(tmp_path: Path) -> None:
    results = {
        "plain": [result(0, 1, 2), result(1, 1, 3)],
        "better": [result(0, 1, 3), result(1, 1, 4)],
        "single": [result(1, 1, 2)],
        "never": [],
    }
    arms = {arm.name: arm for arm in compare_arms(results, "plain")}
    assert list(arms) == ["plain", "better", "single"]
    assert arms["plain"].against is None and arms["plain"].before == pytest.approx(0.25)
    assert arms["plain"].metrics["gIoU"] == pytest.approx(0.625)
    assert arms["plain"].from_start.by_seed == pytest.approx((0.25, 0.5))
    better = arms["better"].against
    assert better is not None and better.by_seed == pytest.approx((0.25, 0.25))
    single = arms["single"].against  # the reference's seed 1, not its mean
    assert single is not None and single.difference == pytest.approx(-0.25)
    page = write_study(tmp_path, list(arms.values()), "plain", "Study unit")
    assert page.read_text().count("<td>better</td>") == 1
    record = json.loads((tmp_path / "study.json").read_text())
    assert [one["name"] for one in record["arms"]] == ["plain", "better", "single"]
    rows = study_rows(list(arms.values()))
    assert rows[2][rows[0].index("gIoU before") :][:3] == ["25.00", "87.50", "+62.50"]
    assert all(len(row) == len(rows[0]) for row in rows)


def test_the_same_queries_in_another_order_change_nothing() -> None:
    straight = [rollout(number, (0, 0, 1 + number % 4, 4)) for number in range(8)]
    tables = [build_table(straight), build_table(straight[::-1])]
    first = SeedResult(0, tables[0], tables[0], 1, 1.0)
    turned = SeedResult(0, tables[0], tables[1], 1, 1.0)
    assert compare_arms({"a": [first]}, "a")[0].from_start == compare_arms({"a": [turned]}, "a")[0].from_start


def test_the_parts_of_a_gain_add_up_seed_by_seed_and_localisation_has_its_own_interval() -> None:
    """Of six queries one becomes readable, one is about nothing and then declined, two sit better."""
    nothing = np.zeros((8, 10), dtype=bool)

    def table(width: int, trained: bool) -> QueryTable:
        return build_table(
            [
                rollout(0, (0, 0, 4, 4), failed=not trained),
                rollout(1, None if trained else (0, 0, 4, 4), target=nothing),
                *(rollout(number, (0, 0, width, 4)) for number in (2, 3)),
                *(rollout(number, (0, 0, 2, 4)) for number in (4, 5)),
            ]
        )

    runs = [SeedResult(seed, table(1, False), table(2 + seed, True), 64, 1.0) for seed in (0, 1)]
    (arm,) = compare_arms({"plain": runs}, "plain")
    for seed in (0, 1):
        parts = [change.by_seed[seed] or 0.0 for change in arm.parts.values()]
        assert sum(parts) == pytest.approx(arm.from_start.by_seed[seed])
    assert arm.parts["form"].difference == pytest.approx(1 / 6) == arm.parts["refusal"].difference
    assert arm.parts["count"].difference == 0.0
    where = arm.parts["localisation"]
    assert where.by_seed == pytest.approx((2 * 0.25 / 6, 2 * 0.5 / 6))
    assert where.by_seed_and_image is not None and where.by_seed_and_image[0] >= 0.0
    # Five of the six have a target.
    assert arm.targeted.by_seed == pytest.approx((2 * 0.25 / 5, 2 * 0.5 / 5))
    # The same two queries and the two that stayed as they were, over their own number.
    assert arm.both_answered.by_seed == pytest.approx((2 * 0.25 / 4, 2 * 0.5 / 4))
    assert arm.instances == pytest.approx(5 / 6)
