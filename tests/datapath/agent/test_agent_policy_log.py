"""The policy log of the real agent on the real kernel: from what pods send to the lines in the file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.datapath.abi import DropReason
from agent.policylog.writer import ACTIVE

from .api import NAMESPACES, POLICIES
from .conftest import NODE, Agent, eventually, namespace_document, run
from .ends import PORT, End, reaches

Make = Callable[..., End]
LOGGING = "/apis/networking.gke.io/v1alpha1/networkloggings"
ALLOW_ANNOTATION, DENY_ANNOTATION = "policy.network.gke.io/enable-logging", "policy.network.gke.io/enable-deny-logging"
WINDOW_SECONDS = 5.0
CLOSED_PORT = 7001
"""Of the server: denied, where the policy allows `PORT` alone."""


@pytest.fixture
def end(node: Agent, pod: Callable[[str], str]) -> Iterator[Make]:
    """Makes pods that have their network and answer; the node's API knows NetworkLogging."""
    node.api.objects[LOGGING] = {}
    made: list[End] = []

    def make(name: str, **options: Any) -> End:
        each = End(node, pod, name, **options)
        made.append(each)
        status, result = each.add()
        assert status == 0, result
        each.serve()
        return each

    yield make
    for each in made:
        each.close()


def log(node: Agent, **cluster: dict[str, bool]) -> None:
    """Say what is logged, and wait until the rows say it too."""
    node.api.put(LOGGING, {"metadata": {"name": "default", "uid": "u-logging"}, "spec": {"cluster": cluster}})
    wanted = {side: fields.get("log", False) for side, fields in cluster.items()}

    def is_so() -> bool:
        kernel = node.kernel()
        allowed = {bool(row.flags) for row in kernel["policies"].values()}
        denied = {bool(row.flags) for row in kernel["isolation"].values()}
        return (wanted.get("allow", False) in allowed or not allowed) and (wanted.get("deny", False) in denied or not denied)

    eventually(is_so, within=45, what=f"rows that log {wanted}")


def policy(name: str, *, annotated: bool = False, **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "default", "uid": f"uid-of-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"}
    metadata["annotations"] = {ALLOW_ANNOTATION: "true"} if annotated else {}
    return {"metadata": metadata, "spec": spec}


def opening(name: str, *, annotated: bool = False) -> dict[str, Any]:
    """The web pods' ingress: from friends, to `PORT`."""
    peers = [{"podSelector": {"matchLabels": {"role": "friend"}}}]
    ports = [{"protocol": protocol, "port": PORT} for protocol in ("TCP", "UDP")]
    return policy(name, annotated=annotated, podSelector={"matchLabels": {"app": "web"}}, ingress=[{"from": peers, "ports": ports}])


def lines(node: Agent) -> list[dict[str, Any]]:
    path = node.directory / "network" / ACTIVE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def about(node: Agent, client: End, **connection: Any) -> list[dict[str, Any]]:
    """The records of what `client` sent."""
    found = [line for line in lines(node) if line["connection"]["src_ip"] in client.addresses.values()]
    return [line for line in found if all(line["connection"].get(key) == value for key, value in connection.items())]


def send(client: End, server: End, port: int, *, family: int = 4, times: int = 1, source_port: int = 0) -> int:
    """Datagrams from one source port each, or from the one that is given; the last one's."""
    for _ in range(times):
        with client.open(family, socket.SOCK_DGRAM) as one:
            client.sockets.remove(one)
            one.bind(("", source_port))
            one.sendto(b"?", (server.addresses[family], port))
            used = int(one.getsockname()[1])
    return used


def is_silent(node: Agent, friend: End, web: End) -> None:
    """Connections make no lines. What was made before may still be on its way, so that is seen within a while."""

    def nothing_comes() -> bool:
        before = len(lines(node))
        reaches(friend, web)
        time.sleep(0.5)
        return len(lines(node)) == before

    eventually(nothing_comes, within=45, what="connections without a line")


def named(end: End) -> dict[str, str]:
    space = end.namespace
    return {"pod_name": end.name, "workload_kind": "Pod", "workload_name": end.name, "pod_namespace": space, "namespace": space}


def moment(record: dict[str, Any]) -> float:
    seconds, _, fraction = record["timestamp"].removesuffix("Z").partition(".")
    return datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp() + float(f"0.{fraction or 0}")


@pytest.mark.parametrize("family", [4, 6])
def test_allowed_connections_are_records_field_by_field(node: Agent, end: Make, family: int) -> None:
    node.start()
    web, friend = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"})
    node.api.put(POLICIES, opening("web"))
    log(node, allow={"log": True})
    reaches(friend, web, family=family)
    began = time.time()
    with friend.connect(web, family=family) as connection:
        port = connection.getsockname()[1]
        ended = time.time()
        friend.sockets.remove(connection)
    wanted = {"src_ip": friend.addresses[family], "dest_ip": web.addresses[family], "src_port": port, "dest_port": PORT}
    (record,) = eventually(lambda: about(node, friend, protocol="tcp"), within=45, what="the record")
    assert began - 0.01 <= moment(record) <= ended + 0.01
    del record["timestamp"]
    assert record == {
        "connection": {**wanted, "protocol": "tcp", "direction": "ingress"},
        "disposition": "allow",
        "policies": [{"kind": "NetworkPolicy", "name": "web", "namespace": "default"}],
        "src": named(friend),
        "dest": named(web),
        "count": 1,
        "node_name": "node-a",
    }
    port = send(friend, web, PORT, family=family)
    (record,) = eventually(lambda: about(node, friend, protocol="udp", src_port=port), within=45, what="the record of a datagram")
    assert (record["disposition"], record["connection"]["dest_port"]) == ("allow", PORT)


@pytest.mark.parametrize("family", [4, 6])
def test_denied_packets_are_one_record_with_their_count(node: Agent, end: Make, family: int) -> None:
    node.start()
    web, friend = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"})
    node.api.put(POLICIES, opening("web"))
    log(node, deny={"log": True})
    reaches(friend, web, family=family)
    began = time.time()
    send(friend, web, CLOSED_PORT, family=family, times=7)
    ended = time.time()
    (record,) = eventually(lambda: about(node, friend), within=45, what="the record")
    assert time.time() - began >= WINDOW_SECONDS
    assert began - 0.01 <= moment(record) <= ended + 0.01
    del record["timestamp"]
    ends = {"src_ip": friend.addresses[family], "dest_ip": web.addresses[family], "dest_port": CLOSED_PORT}
    assert record == {
        "connection": {**ends, "protocol": "udp", "direction": "ingress"},
        "disposition": "deny",
        "src": named(friend),
        "dest": named(web),
        "count": 7,
        "node_name": "node-a",
    }


def test_what_is_denied_on_the_way_out_is_egress_and_names_whom_it_was_for(node: Agent, end: Make) -> None:
    node.configure(policyLogDenyPolicies=True)
    node.start()
    locked = end("locked", labels={"app": "locked"})
    spec = {"podSelector": {"matchLabels": {"app": "locked"}}, "policyTypes": ["Egress"]}
    node.api.put(POLICIES, policy("no-way-out", **spec))
    log(node, deny={"log": True})

    def denied() -> list[dict[str, Any]]:
        # A datagram to nowhere: sent again until the rows that log it are there.
        with locked.open(4, socket.SOCK_DGRAM) as one, contextlib.suppress(OSError):
            locked.sockets.remove(one)
            one.sendto(b"?", ("203.0.113.9", 99))
        time.sleep(0.2)
        return about(node, locked)

    record = eventually(denied, within=60, what="the record")[0]
    assert record["connection"]["direction"] == "egress"
    assert (record["src"], record["dest"]) == (named(locked), {"instance": "203.0.113.9"})
    assert record["policies"] == [{"kind": "NetworkPolicy", "name": "no-way-out", "namespace": "default"}]


def test_delegated_annotations_of_policies_and_namespaces_decide(node: Agent, end: Make) -> None:
    node.api.put(NAMESPACES, namespace_document("quiet"))
    loud = namespace_document("loud")
    loud["metadata"]["annotations"] = {DENY_ANNOTATION: "true"}
    node.api.put(NAMESPACES, loud)
    node.start()
    web, friend = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"})
    node.api.put(POLICIES, opening("plain"))
    node.api.put(POLICIES, opening("asks", annotated=True))
    there = {name: end(f"shut-{name}", labels={"app": "shut"}, namespace=name) for name in ("quiet", "loud")}
    for name in there:
        shut = policy("shut", podSelector={}, policyTypes=["Ingress"])
        shut["metadata"]["namespace"] = name
        node.api.put(POLICIES, shut)
    log(node, allow={"log": True, "delegate": True}, deny={"log": True, "delegate": True})
    port = send(friend, web, PORT)
    record = eventually(lambda: about(node, friend, src_port=port), within=45, what="a record of the one that asks")[0]
    assert [row["name"] for row in record["policies"]] == ["asks"]
    for shut_pod in there.values():
        send(friend, shut_pod, PORT, times=3)
    (record,) = eventually(lambda: about(node, friend, dest_port=PORT, direction="ingress")[1:], within=45, what="a denial")
    assert (record["dest"]["namespace"], record["disposition"]) == ("loud", "deny")
    time.sleep(0.3)  # the other one, had it been logged, has the same window
    assert not [line for line in lines(node) if line["dest"].get("namespace") == "quiet"]
    # Without its annotation the policy's connections are not logged any more; the other one's never were.
    node.api.put(POLICIES, opening("asks"))
    eventually(lambda: not any(row.flags for row in node.kernel()["policies"].values()), within=45, what="rows that log nothing")
    is_silent(node, friend, web)


def test_what_an_agent_did_not_write_the_next_one_does(node: Agent, end: Make) -> None:
    node.start()
    web, friend = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"})
    node.api.put(POLICIES, opening("web"))
    log(node, allow={"log": True})
    reaches(friend, web)
    node.kill(signal.SIGKILL)
    ports = [send(friend, web, PORT) for _ in range(5)]
    sent = time.time()
    node.start()
    found = eventually(
        lambda: [line for line in about(node, friend) if line["connection"]["src_port"] in ports][4:] and about(node, friend),
        within=45,
        what="the records",
    )
    for record in found:
        assert (record["src"], record["dest"]) == (named(friend), named(web))
        assert record["policies"][0]["name"] == "web"
        assert moment(record) <= sent
    assert sorted(line["connection"]["src_port"] for line in found if line["connection"]["src_port"] in ports) == sorted(ports)


def test_without_the_object_nothing_is_logged_and_one_that_cannot_be_changes_nothing(node: Agent, end: Make) -> None:
    node.start()
    web, friend = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"})
    node.api.put(POLICIES, opening("web"))
    log(node, allow={"log": True})
    node.api.put(LOGGING, {"metadata": {"name": "default", "uid": "u-logging"}, "spec": {"cluster": {"deny": {"delegate": True}}}})
    eventually(lambda: any(event["reason"] == "InvalidNetworkLogging" for event in node.api.told.values()), within=45, what="the event")
    port = send(friend, web, PORT)
    eventually(lambda: about(node, friend, src_port=port), within=45, what="a record by the old configuration")
    node.api.remove(LOGGING, "default")
    eventually(lambda: not any(row.flags for row in node.kernel()["policies"].values()), within=45, what="rows that log nothing")
    eventually(lambda: "not logged; denied ones are not logged" in node.ask("status")["policyLog"]["logged"], what="status")
    is_silent(node, friend, web)


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """A file that is open for writing keeps a disk from becoming read-only: so another mount of the same is, and the file goes."""
    behind = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    run("mount", "--bind", str(directory), str(directory))
    try:
        run("mount", "-o", "remount,ro,bind", str(directory))
        os.unlink(ACTIVE, dir_fd=behind)
        with pytest.raises(OSError, match="Read-only"):
            (directory / "probe").write_text("")
        yield
    finally:
        run("umount", "-l", str(directory))
        os.close(behind)


def lost(node: Agent) -> dict[str, int]:
    return dict(node.ask("status")["policyLog"]["lost"])


def test_a_disk_that_is_full_or_read_only_costs_lines_that_are_counted_and_nothing_else(node: Agent, end: Make) -> None:
    directory = node.directory / "network"
    directory.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "pl-log", str(directory))
    try:
        node.start()
        web, friend = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"})
        node.api.put(POLICIES, opening("web"))
        log(node, allow={"log": True})
        filler = directory / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass

        def counted(reason: str) -> Any:
            reaches(friend, web)
            return lost(node).get(reason)

        eventually(lambda: counted("disk_full"), within=60, what="lines that are counted")
        assert all(line.endswith("}") for line in (directory / ACTIVE).read_text().splitlines())
        filler.unlink()

        def goes_on() -> Any:
            port = send(friend, web, PORT)
            time.sleep(0.3)
            return about(node, friend, src_port=port)

        eventually(goes_on, within=60, what="a line")
        with read_only(directory):
            eventually(lambda: counted("read_only"), within=60, what="lines that are counted")
        assert any(event["reason"] == "PolicyLogNotWritten" for event in node.api.told.values())
        eventually(goes_on, within=60, what="a line")
        text = run("ip", "netns", "exec", NODE, "curl", "-sS", "--max-time", "5", "http://127.0.0.1:9879/metrics").stdout
        assert f'policy_logging_drop_count{{reason="disk_full"}} {lost(node)["disk_full"]}' in text
        assert "policy_logging_ready 1" in text
        for line in (directory / ACTIVE).read_text().splitlines():
            json.loads(line)
        assert node.process is not None
        assert node.process.poll() is None
    finally:
        node.kill(signal.SIGKILL)
        run("umount", "-l", str(directory), check=False)


def denied(node: Agent) -> int:
    """Packets that were dropped by policies, as the programs count them."""
    return sum(row["packets"] for row in node.status()["drops"] if row["reason"] == DropReason.INGRESS_DENIED.name)


def test_a_flood_of_denied_packets_is_counted_to_the_last_one(node: Agent, end: Make) -> None:
    node.start()
    web, friend = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"})
    node.api.put(POLICIES, opening("web"))
    log(node, deny={"log": True})
    reaches(friend, web)
    before, began = denied(node), time.monotonic()
    with friend.open(4, socket.SOCK_DGRAM) as one:
        friend.sockets.remove(one)
        one.connect((web.addresses[4], CLOSED_PORT))
        for _ in range(20_000):
            with contextlib.suppress(OSError):
                os.write(one.fileno(), b"?")
    took = time.monotonic() - began
    met = denied(node) - before
    assert met > 10_000
    eventually(lambda: sum(line["count"] for line in about(node, friend)) >= met, within=60, what="all of them")
    assert sum(line["count"] for line in about(node, friend)) == met
    assert len(about(node, friend)) <= 3 + took / WINDOW_SECONDS
    assert lost(node) == {}
