"""What the agent tells of the requests it has served."""

from __future__ import annotations

from agent.observe.metrics import RECENT, CniMetrics


def test_recent_durations_are_told_in_milliseconds_by_command() -> None:
    metrics = CniMetrics()
    for tenth in range(1, 11):
        metrics.observe("ADD", 0, tenth / 1000)
    metrics.observe("DEL", 0, 0.5)
    metrics.observe("ADD", 11, 9.0)  # a failure says nothing about how long a success takes
    assert metrics.recent() == {
        "ADD": {"count": 10, "p50Ms": 6.0, "p90Ms": 10.0, "maxMs": 10.0},
        "DEL": {"count": 1, "p50Ms": 500.0, "p90Ms": 500.0, "maxMs": 500.0},
    }


def test_recent_durations_are_bounded() -> None:
    metrics = CniMetrics()
    for _ in range(RECENT + 10):
        metrics.observe("ADD", 0, 0.001)
    assert metrics.recent()["ADD"]["count"] == RECENT
