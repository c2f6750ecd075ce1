"""The page about Services says what was measured against its goal, and names whatever was not measured."""

from __future__ import annotations

import json

import pytest

from tests.bench import report_services

SHAPES = {"stream": 10.0, "rr": 20.0, "crr": 100.0}
MEASURED = {
    "missing": {},
    "pod": {
        "medians": {"direct": SHAPES, "clusterip": {**SHAPES, "crr": 104.0}},
        "clusterip_to_direct": {"stream": 1.0, "rr": 0.99, "crr": 0.96},
    },
    "nodeport": {
        "medians": {"node": SHAPES, "local": SHAPES, "remote": SHAPES},
        "to_node": {where: {"stream": 1.0, "rr": 0.9, "crr": 0.8} for where in ("local", "remote")},
    },
    "program": {
        "count": 100,
        "p50_ms": 12.0,
        "p99_ms": 150.0,
        "max_ms": 160.0,
        "unanswered": 0,
        "per_second": 10.0,
        "since": {"count": 100, "p50_ms": 7.0, "p99_ms": 60.0, "max_ms": 70.0},
        "created": {"count": 100, "p50_ms": 5.0, "p99_ms": 90.0, "max_ms": 91.0},
    },
    "resident_mib": 30.0,
}
PROXY = {**MEASURED, "synced_s": 1.2}


@pytest.fixture
def services():
    return json.loads(
        json.dumps(
            {
                "scales": [1, 1000],
                "planes": {"anetd": {"1": MEASURED, "1000": MEASURED}} | {m: {"1": PROXY, "1000": PROXY} for m in ("nftables", "iptables")},
                "cut_short": False,
                "nft": "nft 1",
                "iptables": "iptables 2",
                "cold_start": {"services": 1000, "synced_s": 6.0, "resident_mib": 40.0},
                "rows_of_one_change": {"written backends": 1, "deleted backends": 1},
            }
        )
    )  # nothing of it shared


def test_figures_stand_against_their_goals(services):
    met = {goal.what: goal.met for goal in report_services.goals(services)}
    assert met["ClusterIP, 1000 Services: connect-request-close, of the direct address"]
    assert met["a new EndpointSlice, 1 Services, p50, from the request to the first answer"]
    assert not met["a new EndpointSlice, 1 Services, p99, from the request to the first answer"]
    assert met["a new EndpointSlice, 1 Services, p99, from the API's answer"]
    assert not met["agent in step from nothing, 1000 Services"]


def test_a_node_port_is_measured_against_kube_proxy_of_the_same_run(services):
    services["planes"]["nftables"]["1"]["nodeport"]["to_node"]["remote"]["crr"] = 0.85
    (goal,) = (g for g in report_services.goals(services) if g.what.startswith("NodePort, remote backend: connect-request-close"))
    assert (goal.measured, goal.goal, goal.met) == (80.0, 85.0, False)


def test_a_whole_run_misses_nothing(services):
    assert list(report_services.missing(services)) == []


def test_what_was_not_measured_is_named_and_has_no_goal_row(services):
    services["planes"]["anetd"]["1000"] = {"missing": {"program": "refused"}}
    services["planes"]["nftables"]["1"]["program"]["unanswered"] = 3
    del services["planes"]["iptables"]["1000"], services["cold_start"]
    services["rows_of_one_change"] = None
    text = "\n".join(report_services.missing(services))
    for said in (
        "anetd, 1000 Services: no figures for `program`: refused",
        "3 new EndpointSlices",
        "iptables, 1000 Services: not reached",
        "rows",
    ):
        assert said in text
    assert not any("1000" in goal.what for goal in report_services.goals(services))


def test_the_tables_have_a_row_for_each_plane_and_number_of_services(services):
    lines = list(report_services.section(services))
    assert sum(line.startswith("| anetd | 1000 |") for line in lines) == 2
    assert "| kube-proxy, nftables | 1 | 12.0 / 150.0 / 160.0 | 7.0 / 60.0 / 70.0 | 5.0 / 90.0 / 91.0 | 1.2 s | 30.0 MiB |" in lines
    assert any("rows: 1 deleted backends, 1 written backends" in line for line in lines)
