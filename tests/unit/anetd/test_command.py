"""`anetd services` as a command: what it asks, what it prints, and what it says when there is nothing to print."""

from __future__ import annotations

import json

import pytest

from agent.main import main

ROW = {
    "service": "n/web", "portName": "http", "protocol": "TCP", "trouble": "", "backends": ["10.1.0.1:8080"], "localBackends": ["10.1.0.1:8080"],
    "frontends": [
        {"kind": "ClusterIP", "address": "fd96::1", "port": 80, "policyInside": "Cluster", "policyOutside": "Cluster", "heldBy": ""},
        {"kind": "NodePort", "address": "", "port": 30080, "policyInside": "Cluster", "policyOutside": "Local", "heldBy": "n/old"},
    ],
    "leftOut": [{"endpoint": "10.1.0.2:8080", "policy": "Local", "why": "not on this node but on there"}],
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    words: list[str] = []

    def ask(word: str) -> list[dict[str, object]]:
        words.append(word)
        return [] if "missing" in word else [ROW]

    monkeypatch.setattr("agent.observe.control.ask", ask)
    return words


def test_all_services_or_one_as_a_table(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["services"]) == 0
    assert main(["services", "n/web"]) == 0
    assert asked == ["services", "services n/web"]
    lines = capsys.readouterr().out.splitlines()[:3]
    assert [line.split("  ")[0] for line in lines] == ["SERVICE", "n/web", ""]
    assert "ClusterIP [fd96::1]:80" in lines[1]
    assert "10.1.0.2:8080 (Local): not on this node but on there" in lines[1]
    assert "NodePort :30080 (outside: Local) (held by n/old)" in lines[2]
    assert "10.1.0.1:8080 (Local)" in lines[2]


def test_the_document_itself_on_demand(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["services", "n/web", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [ROW]


def test_a_service_that_is_not_known_is_an_error_that_says_how_to_name_one(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["services", "missing"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "missing" in said.err
    assert "NAMESPACE/NAME" in said.err


@pytest.mark.parametrize(
    ("argv", "question"),
    [
        (["policy"], "policy"),
        (["policy", "n/web"], "policy n/web"),
        (["policy", "show", "n/web"], "policy n/web"),
        (["policy", "-o", "json"], "policy"),
        (["conntrack"], 'conntrack {"pod": [], "address": [], "limit": 100}'),
        (
            ["conntrack", "--pod", "n/web", "--address", "fd00::1", "--address", "10.1.0.1", "--limit", "5"],
            'conntrack {"pod": ["n/web"], "address": ["fd00::1", "10.1.0.1"], "limit": 5}',
        ),
    ],
)
def test_what_the_agent_is_asked(
    argv: list[str], question: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[str] = []

    def ask(word: str) -> dict[str, str]:
        words.append(word)
        return {"error": "there is no such thing"}

    monkeypatch.setattr("agent.observe.control.ask", ask)
    assert main(argv) == 1
    assert words == [question]
    assert capsys.readouterr().err == "anetd: there is no such thing\n"


def test_policies_as_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rule = {"rule": "n/web ingress[0]", "packets": 3, "bytes": 180}
    row = {"policy": "n/web", "directions": ["ingress"], "pods": ["n/a", "n/b"], "sets": [7], "rows": 5, "allowed": [rule], "troubles": []}
    document = {
        "inForce": True,
        "trouble": "",
        "revision": 12,
        "known": {"pods": 3, "namespaces": 1, "policies": 2},
        "tables": {"policies": {"rows": 5, "capacity": 100}},
        "policies": [row],
        "troubles": [{"policy": "n/large", "pods": ["n/b"], "message": "too many rows"}],
    }
    monkeypatch.setattr("agent.observe.control.ask", lambda _word: document)
    assert main(["policy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["in", "force", "yes"]
    assert lines[5] == "does not fit: n/large, closed: n/b: too many rows"
    assert [line.split() for line in lines[8:]] == [["n/web", "ingress", "5", "n/a", "ingress[0]", "3", "180"], ["n/b"]]


def test_a_limit_that_shows_nothing_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["conntrack", "--limit", "0"])
    assert ended.value.code == 2
    assert "must be 1 or more" in capsys.readouterr().err
