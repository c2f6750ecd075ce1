"""The page about policies' latency."""

from __future__ import annotations

from tests.bench import report

REQUEST = {"count": 100, "p50_ms": 5.0, "p99_ms": 70.0, "max_ms": 90.0}
ANSWERED = {"count": 100, "p50_ms": 7.0, "p99_ms": 110.0, "max_ms": 120.0}
ROW = {"count": 100, "p50_ms": 12.0, "p99_ms": 130.0, "max_ms": 150.0, "request_ms": REQUEST, "answered": ANSWERED}
FOUND = {
    "pods": 1000,
    "policies": 500,
    "changes_per_second": 10.0,
    "label": ROW,
    "peer": {"count": 0},
    "agents": {"node-0": {"anetd_policy_apply_seconds": {"mean_ms": 1.5, "count": 10}}},
}


def test_what_was_measured_stands_beside_its_goal_and_what_was_not_does_not():
    lines = list(report.render({"policy-latency": {**FOUND, "peer": {}}}))
    assert "| from the API's answer to the packet: a peer's label, p50 | 7 ms | ≤ 20 ms | yes |" in lines
    assert "- from the API's answer to the packet: a peer's label, p99: 110 ms, wanted 100." in lines
    assert "| a peer's label | 12.0 / 130.0 / 150.0 | 7.0 / 110.0 / 120.0 | 5.0 / 70.0 / 90.0 |" in lines
    assert "- node-0: apply 1.5 ms" in lines
    assert not any("new peer" in line for line in lines)
