"""Figures of one path beside another's: how sure a ratio is, and what the page says of it."""

from __future__ import annotations

import random

from tests.bench import report_datapath
from tests.bench.datapath_limit import SHAPES, VARIANTS, interval, paths, summary


def figures(policy: float):
    """Every path has the same, but for the policies' rate and latency."""
    made = {}
    for variant in VARIANTS:
        factor = policy if variant == "policy" else 1.0
        for name, _, _ in paths(variant):
            made[name] = {shape: [10 / factor if shape == "stream" else 10 * factor] * 20 for shape in SHAPES}
    return made


def test_what_policies_cost_is_above_one_for_rates_and_latencies_alike():
    found = summary(figures(1.25))
    assert found["policy_to_ours"] == {where: dict.fromkeys(SHAPES, 1.25) for where in ("two nodes", "one node")}
    assert {goal.met for goal in report_datapath.goals(found) if "policies" in goal.what} == {False}
    assert (
        "| 500 policies to none, more is worse, one node | 1.250 (1.250 to 1.250) | 1.250 (1.250 to 1.250) | 1.250 (1.250 to 1.250) |"
        in list(report_datapath.section(found))
    )


def test_bounds_hold_the_true_median_most_of_the_time_and_narrow_with_more_figures():
    chance = random.Random(7)
    widths = []
    for count in (20, 400):
        bounds = [interval([chance.gauss(1, 0.1) for _ in range(count)]) for _ in range(300)]
        assert 0.9 < sum(low <= 1 <= high for low, high in bounds) / 300 <= 1
        widths.append(sum(high - low for low, high in bounds) / 300)
    assert widths[1] < widths[0] / 3
    assert interval([2.0]) == (2.0, 2.0)
