"""The logs of several nodes as one: in the order of time, each record once, also while agents come and go."""

from __future__ import annotations

import base64
import itertools
import json
import threading

import pytest
import yaml

from provisioner.cli import main as cli
from provisioner.cli.policy_log import row
from provisioner.deploy import policy_log as core
from provisioner.deploy.agents import agents
from provisioner.deploy.client import ApiError, Client, UnavailableError
from provisioner.deploy.execute import Container
from provisioner.deploy.policy_log import Entry, Failures, Wanted, command, following, moment, stored, timestamp
from tests.fakes.websocket import STDERR, STDOUT

PODS = "/api/v1/namespaces/kube-system/pods"


def record(second, **fields):
    document = {
        "connection": {
            "src_ip": "10.0.0.1",
            "dest_ip": "10.0.0.2",
            "src_port": 1,
            "dest_port": 80,
            "protocol": "tcp",
            "direction": "ingress",
        },
        "disposition": "allow",
        "policies": [{"kind": "NetworkPolicy", "name": "web", "namespace": "shop"}],
        "src": {"pod_name": "client", "workload_kind": "Pod", "workload_name": "client", "pod_namespace": "shop", "namespace": "shop"},
        "dest": {"pod_name": "server", "workload_kind": "Pod", "workload_name": "server", "pod_namespace": "shop", "namespace": "shop"},
        "count": 1,
        "node_name": "n",
        "timestamp": f"2026-01-02T03:04:{second:06.3f}".rstrip("0").rstrip(".") + "Z",
    }
    return json.dumps(document | fields, separators=(",", ":"))


class Node:
    """Stands in for `anetd policy-log` on one node: what it prints, and how it ends."""

    def __init__(self, *lines, failure=None, code=0, follow=None):
        self.printed, self.failure, self.code, self.follow = list(lines), failure, code, follow
        self.exit_code, self.errors = None, ""
        self.stopped = threading.Event()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.stopped.set()

    def lines(self):
        yield from self.printed
        if self.failure:
            raise self.failure
        if self.follow == "wait":
            self.stopped.wait(30)
            return
        self.exit_code, self.errors = self.code, "no such file" if self.code else ""


def where(*names):
    return {name: Container("kube-system", f"anetd-{name}", "anetd") for name in names}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ('{"timestamp":"1970-01-01T00:00:01Z"}', 10**9),
        ('{"timestamp":"1970-01-01T00:00:01.5Z"}', 1_500_000_000),
        ('{"timestamp":"1970-01-01T00:00:01.000000001Z"}', 1_000_000_001),
        ('{"a":"\\"timestamp\\":\\"x\\""}', 0),
        ("nonsense", 0),
        ('{"timestamp":"yesterday"}', 0),
    ],
)
def test_the_time_of_a_line(text, nanoseconds):
    assert timestamp(text) == nanoseconds


def test_what_is_asked_of_a_node():
    assert command(Wanted(), follow=False) == ["anetd", "policy-log"]
    wanted = Wanted("shop", "web", "deny", moment(1_500_000_000))
    assert command(wanted, follow=True) == [
        *("anetd", "policy-log", "--namespace", "shop", "--pod", "web", "--disposition", "deny"),
        *("--since", "1970-01-01T00:00:01.500000Z", "--follow", "--until-stdin-ends"),
    ]


def test_what_nodes_have_is_merged_by_time_also_where_a_denial_was_written_late():
    lines = {"a": [record(1), record(9), record(4), record(20)], "b": [record(2), record(5), record(12)]}
    nodes = {name: Node(*printed) for name, printed in lines.items()}
    entries = list(stored(where(*nodes), lambda container, _words: nodes[container.pod[6:]], Wanted(), Failures()))
    assert [entry.text for entry in entries] == [record(second) for second in (1, 2, 4, 5, 9, 12, 20)]
    assert "".join(entry.node for entry in entries) == "abababa"
    assert all(node.stopped.is_set() for node in nodes.values())


def test_a_node_that_cannot_be_read_is_named_and_the_others_are_read():
    nodes = {"a": Node(record(1)), "b": Node(record(2), failure=UnavailableError("broke off")), "c": Node(code=1)}

    def start(container, _words):
        if container.pod == "anetd-d":
            raise ApiError(403, "pods/exec is forbidden")
        return nodes[container.pod[6:]]

    failures = Failures()
    entries = list(stored(where("a", "b", "c", "d"), start, Wanted(), failures))
    assert [entry.text for entry in entries] == [record(1), record(2)]
    assert failures.by_node == {"b": "broke off", "c": "no such file", "d": "403: pods/exec is forbidden"}


def test_following_shows_what_there_is_then_what_comes_and_nothing_twice(monkeypatch):
    monkeypatch.setattr(core, "_HOLD_SECONDS", 0.05)
    asked = []

    def start(container, words):
        asked.append((container.pod, words))
        if "--follow" not in words:
            return Node(*([record(1), record(3)] if container.pod == "anetd-a" else [record(2)]))
        return Node(*([record(3), record(50)] if container.pod == "anetd-a" else [record(2), record(49)]), follow="wait")

    entries = following(lambda: where("a", "b"), start, Wanted("shop"), lambda text: pytest.fail(text))
    found = [entry.text for entry in itertools.islice(entries, 5)]
    entries.close()
    assert found[:3] == [record(1), record(2), record(3)]
    assert sorted(found[3:]) == sorted([record(49), record(50)])
    resumed = dict(asked[2:])
    assert resumed["anetd-a"][resumed["anetd-a"].index("--since") + 1] == "2026-01-02T03:03:53.000000Z"
    assert "--follow" in resumed["anetd-b"]


def test_a_node_whose_agent_is_replaced_is_read_on_from_where_it_was(monkeypatch):
    monkeypatch.setattr(core, "_HOLD_SECONDS", 0.01)
    monkeypatch.setattr(core, "_LOOK_SECONDS", 0.05)
    told = []
    follows = iter([Node(record(30), failure=UnavailableError("went away")), Node(record(30), record(31), follow="wait")])
    asked = []

    def start(_container, words):
        if "--follow" not in words:
            return Node(record(1))
        asked.append(words)
        return next(follows)

    entries = following(lambda: where("a"), start, Wanted(), told.append)
    assert [entry.text for entry in itertools.islice(entries, 3)] == [record(1), record(30), record(31)]
    entries.close()
    assert told[0] == "a: lost (went away); trying again"
    assert asked[1][-3] == "2026-01-02T03:04:20.000000Z"


def test_nodes_that_join_later_are_read_too_and_an_api_server_that_is_away_is_borne(monkeypatch):
    monkeypatch.setattr(core, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(core, "_HOLD_SECONDS", 0.01)
    looks = iter([where("a"), where("a"), UnavailableError("away"), where("a", "b")])
    told = []

    def look():
        found = next(looks, where("a", "b"))
        if isinstance(found, Exception):
            raise found
        return found

    def start(container, words):
        follow = "wait" if "--follow" in words else None
        return Node(record(1 if container.pod == "anetd-a" else 2), follow=follow)

    entries = following(look, start, Wanted(), told.append)
    assert [entry.node for entry in itertools.islice(entries, 2)] == ["a", "b"]
    entries.close()
    assert told == ["the agents' pods cannot be listed: away"]


def test_what_was_shown_long_ago_is_not_remembered():
    seen = core.Seen()
    for second in range(5000):
        assert seen.add(Entry("a", f"line {second}", second * 10**9))
        assert not seen.add(Entry("a", f"line {second}", second * 10**9))
    assert len(seen._lines) < 1100
    assert seen.since("never") == moment(4989 * 10**9)
    assert core.Seen().since("before") == "before"


# ---- the command ----
def pod(node, *, running=True, **metadata):
    status = {"containerStatuses": [{"name": "anetd", "state": {"running": {}} if running else {"waiting": {}}}]}
    return {"metadata": {"name": f"anetd-{node}", **metadata}, "spec": {"nodeName": node}, "status": status}


def test_agents_are_those_whose_container_runs(api):
    items = [pod("b"), pod("a"), pod("c", running=False), pod("d", deletionTimestamp="2026-01-01T00:00:00Z"), pod("")]
    api.on("GET", PODS, (200, {"items": items}))
    with Client(api.credentials) as client:
        assert list(agents(client)) == ["a", "b"]
        assert agents(client)["a"] == Container("kube-system", "anetd-a", "anetd")


@pytest.fixture
def kubeconfig(api, tmp_path):
    found = api.credentials
    encoded = [base64.b64encode(text.encode()).decode() for text in (found.ca_certificate, found.client_certificate, found.client_key)]
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": found.server, "certificate-authority-data": encoded[0]}}],
        "users": [{"name": "u", "user": {"client-certificate-data": encoded[1], "client-key-data": encoded[2]}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_the_command_prints_lines_as_they_stand_in_the_files(api, kubeconfig, capsys):
    api.on("GET", PODS, (200, {"items": [pod("a"), pod("b")]}))
    words = []

    def speak(said, channels):
        words.append(said)
        channels.send(STDOUT, f"{record(2 if len(words) == 1 else 1)}\n".encode())
        channels.end()

    api.run = speak
    arguments = ["policy", "log", "--kubeconfig", kubeconfig, "--pod", "shop/web", "--disposition", "deny", "--output", "json"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == f"{record(1)}\n{record(2)}\n"
    assert words == [["anetd", "policy-log", "--namespace", "shop", "--pod", "web", "--disposition", "deny"]] * 2


def test_the_table_is_for_people(api, kubeconfig, capsys):
    api.on("GET", PODS, (200, {"items": [pod("demo-0")]}))
    denied = record(2.25, disposition="deny", dest={"instance": "10.0.0.2"}, src={"node_name": "demo-1", "workload_kind": "Node"}, count=7)
    lines = [record(1), denied.replace(',"policies":[{"kind":"NetworkPolicy","name":"web","namespace":"shop"}]', "")]
    api.run = lambda _words, channels: (channels.send(STDOUT, "".join(f"{line}\n" for line in lines).encode()), channels.end())
    assert cli.main(["policy", "log", "--kubeconfig", kubeconfig]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["TIME", "NODE", "VERDICT", "DIRECTION", "SOURCE", "DESTINATION", "COUNT", "POLICIES"],
        ["2026-01-02T03:04:01.000Z", "demo-0", "allow", "ingress", "shop/client", "shop/server:80/tcp", "1", "shop/web"],
        ["2026-01-02T03:04:02.250Z", "demo-0", "deny", "ingress", "node", "demo-1", "10.0.0.2:80/tcp", "7", "-"],
    ]


def test_a_node_that_fails_is_an_error_after_what_the_others_have(api, kubeconfig, capsys):
    api.on("GET", PODS, (200, {"items": [pod("a"), pod("b")]}))
    turns = itertools.count()

    def speak(_words, channels):
        if next(turns):
            channels.send(STDERR, b"anetd: no such command\n")
            channels.end(2)
        else:
            channels.send(STDOUT, f"{record(1)}\n".encode())
            channels.end()

    api.run = speak
    assert cli.main(["policy", "log", "--kubeconfig", kubeconfig, "--output", "json"]) == 9
    said = capsys.readouterr()
    assert said.out == f"{record(1)}\n"
    assert "anetd: no such command" in said.err
    assert "1 of 2 nodes" in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--node", "z"], 6, "no anetd runs on z"),
        (["--pod", "a/b", "--namespace", "c"], 3, "is not in --namespace c"),
        (["--since", "yesterday"], 3, "--since 'yesterday' is not a time"),
        (["demo", "--context", "here"], 3, "both name a cluster"),
    ],
)
def test_what_cannot_be_asked_is_said(api, kubeconfig, capsys, arguments, code, text):
    api.on("GET", PODS, (200, {"items": [pod("a")]}))
    assert cli.main(["policy", "log", "--kubeconfig", kubeconfig, *arguments]) == code
    assert text in capsys.readouterr().err


def test_a_cluster_without_agents_and_one_that_is_away(api, kubeconfig, capsys):
    api.on("GET", PODS, (200, {"items": []}))
    assert cli.main(["policy", "log", "--kubeconfig", kubeconfig]) == 6
    api.on("GET", PODS, (403, {"message": "forbidden"}))
    assert cli.main(["policy", "log", "--kubeconfig", kubeconfig]) == 9
    assert "forbidden" in capsys.readouterr().err


def test_what_is_no_record_is_shown_as_it_is():
    assert row(Entry("a", '{"connection": 1}', 0), 5) == '{"connection": 1}'
