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
