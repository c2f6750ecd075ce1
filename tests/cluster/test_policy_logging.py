"""The policy log on a cluster: what was sent against what the tool reads, field by field, from every node."""

from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from .kube import TOOLBOX_PORTS, Cluster, agent_on, eventually, ready, run, toolbox_pod, url

HTTP, UDP = TOOLBOX_PORTS["http"], TOOLBOX_PORTS["udp"]
CLOSED = 9999
SPACE, LOUD, QUIET = "policy-log", "policy-log-loud", "policy-log-quiet"
NET = "policy.network.gke.io"
OFF = {"log": False, "delegate": False}
ON = {"log": True, "delegate": False}
LEFT_TO_OTHERS = {"log": True, "delegate": True}
BINDING = "validatingadmissionpolicybinding/provisioner-unsupported"
WITHIN = 60.0

on = partial(pytest.mark.parametrize, "cluster", indirect=True)
one_kind = on(["native-dual"])
every_path = on(["native-dual", "vxlan-dual"])

Record = dict[str, Any]


def policy(name: str, namespace: str = SPACE, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": {"podSelector": {}, **spec}}


def opening(name: str) -> dict[str, Any]:
    """To the servers' ports, from clients."""
    peers = [{"podSelector": {"matchLabels": {"app": "client"}}}]
    ports = [{"port": HTTP}, {"port": UDP, "protocol": "UDP"}]
    return policy(name, podSelector={"matchLabels": {"role": "server"}}, ingress=[{"from": peers, "ports": ports}])


def set_logging(cluster: Cluster, *, allow: dict[str, bool] = OFF, deny: dict[str, bool] = OFF) -> None:
    patch = json.dumps({"spec": {"cluster": {"allow": allow, "deny": deny}}})
    cluster.kubectl("patch", "networklogging", "default", "--type=merge", "-p", patch)


def log_words(cluster: Cluster, *words: str) -> list[str]:
    return [cluster.provisioner, "policy", "log", "--kubeconfig", str(cluster.kubeconfig), "--output", "json", *words]


def records(cluster: Cluster, *words: str, **connection: Any) -> list[Record]:
    """What the tool reads, of connections with these fields."""
    found = [json.loads(line) for line in run(*log_words(cluster, *words), timeout=120).splitlines()]
    return [each for each in found if all(each["connection"].get(key) == value for key, value in connection.items())]


@pytest.fixture(scope="module")
def lab(cluster: Cluster) -> Iterator[Cluster]:
    """A client and a server on the first node, a server on the second, and the servers open to clients."""
    first, second = cluster.nodes()[:2]
    with cluster.namespace(SPACE), cluster.namespace(LOUD), cluster.namespace(QUIET):
        pods = [
            toolbox_pod(cluster, "client", first),
            toolbox_pod(cluster, "near", first, labels={"role": "server"}),
            toolbox_pod(cluster, "far", second, labels={"role": "server"}),
        ]
        for pod in pods:
            pod["metadata"]["namespace"] = SPACE
        cluster.apply(*pods, opening("web"))
        cluster.wait_ready(SPACE, "client", "near", "far")
        yield cluster
        set_logging(cluster)


@pytest.fixture(autouse=True)
def _off_again(lab: Cluster) -> Iterator[None]:
    yield
    set_logging(lab)


def ask(cluster: Cluster, address: str, local_port: int, port: int = HTTP) -> bool:
    """One TCP connection of the client from a port that the test chose; whether it was made."""
    words = ("curl", "-sS", "--max-time", "3", "--local-port", str(local_port), url(address, port, "/hostname"))
    return bool(cluster.exec(SPACE, "client", *words, check=False).strip())


_ports = iter(range(21_000, 30_000))


def asked(cluster: Cluster, address: str) -> int:
    """A connection that was made; the client's port."""
    ports: list[int] = []

    def once() -> bool:
        ports.append(next(_ports))
        return ask(cluster, address, ports[-1])

    eventually(once, within=WITHIN, what=f"a connection to {address}")
    return ports[-1]


def logged(cluster: Cluster, address: str, *words: str) -> Record:
    """The record of a connection to `address`, made again until there is one: what is logged changes a moment after it is said."""

    end = time.monotonic() + WITHIN
    while True:
        port = asked(cluster, address)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if found := records(cluster, *words, src_port=port):
                return found[0]
        assert time.monotonic() < end, "no record of any connection"


def send(cluster: Cluster, address: str, port: int, times: int) -> None:
    """Datagrams, each of a source port of its own."""
    script = f"for n in $(seq {times}); do echo x | nc -u -w 1 {address} {port} & done; wait"
    cluster.exec(SPACE, "client", "sh", "-c", script, timeout=60, check=False)


def denials(cluster: Cluster, address: str, port: int, *words: str) -> list[Record]:
    """The records of datagrams that a policy denies: sent until there is one."""
    end = time.monotonic() + WITHIN
    while True:
        send(cluster, address, port, 1)
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            if found := records(cluster, *words, dest_ip=address, dest_port=port):
                return found
        assert time.monotonic() < end, "no record of any denial"


def named(pod: str, namespace: str = SPACE) -> dict[str, str]:
    return {"pod_name": pod, "workload_kind": "Pod", "workload_name": pod, "pod_namespace": namespace, "namespace": namespace}


def moment(record: Record) -> float:
    seconds, _, fraction = record["timestamp"].removesuffix("Z").partition(".")
    assert re.fullmatch(r"\d{0,9}", fraction)
    return datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp() + float(f"0.{fraction or 0}")


@every_path
@pytest.mark.parametrize("server", ["near", "far"])
def test_allowed_connections_are_what_was_sent_field_by_field(lab: Cluster, server: str) -> None:
    set_logging(lab, allow=ON)
    node = lab.pod(SPACE, server)["spec"]["nodeName"]
    for family in lab.families:
        address = lab.pod_addresses(SPACE, server)[family]
        client = lab.pod_addresses(SPACE, "client")[family]
        record = logged(lab, address, "--namespace", SPACE)
        assert time.time() - WITHIN < moment(record) <= time.time() + 0.1
        port = record["connection"]["src_port"]
        del record["timestamp"]
        assert record == {
            "connection": {
                "src_ip": client,
                "dest_ip": address,
                "src_port": port,
                "dest_port": HTTP,
                "protocol": "tcp",
                "direction": "ingress",
            },
            "disposition": "allow",
            "policies": [{"kind": "NetworkPolicy", "name": "web", "namespace": SPACE}],
            "src": named("client"),
            "dest": named(server),
            "count": 1,
            "node_name": node,
        }
        assert len(records(lab, src_port=port)) == 1


@every_path
def test_denied_datagrams_are_one_record_with_their_number(lab: Cluster) -> None:
    set_logging(lab, deny=ON)
    for family, port in zip(lab.families, (CLOSED, CLOSED + 1), strict=True):
        address = lab.pod_addresses(SPACE, "far")[family]
        denials(lab, address, port + 10)  # the control: such are logged by now
        began = time.time()
        send(lab, address, port, 6)
        ended = time.time()
        client = lab.pod_addresses(SPACE, "client")[family]
        node = lab.pod(SPACE, "far")["spec"]["nodeName"]

        def found(address: str = address, port: int = port) -> list[Record]:
            """One, if the datagrams came within five seconds."""
            return records(lab, "--disposition", "deny", dest_ip=address, dest_port=port)

        eventually(lambda: sum(each["count"] for each in found()) == 6, within=WITHIN, what="six datagrams")
        for record in found():
            assert began - 0.1 < moment(record) < ended + 0.1
            assert record.pop("timestamp")
            assert record.pop("count") == 6 or ended - began > 5
            assert record == {
                "connection": {"src_ip": client, "dest_ip": address, "dest_port": port, "protocol": "udp", "direction": "ingress"},
                "disposition": "deny",
                "src": named("client"),
                "dest": named("far"),
                "node_name": node,
            }


@one_kind
def test_a_connection_through_a_service_names_the_backend_and_a_deployments_pod_what_runs_it(lab: Cluster) -> None:
    template = toolbox_pod(lab, "unused", lab.nodes()[1])
    labels = {"app": "backend", "role": "server"}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "backend"}}}
    spec["template"] = {"metadata": {"labels": labels}, "spec": template["spec"]}
    metadata = {"name": "backend", "namespace": SPACE}
    service = {"selector": {"app": "backend"}, "ports": [{"port": 80, "targetPort": HTTP}]}
    lab.apply(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    )
    lab.kubectl("rollout", "status", "-n", SPACE, "deployment/backend", "--timeout=60s", timeout=70)
    set_logging(lab, allow=ON)
    cluster_ip = lab.get("service", "-n", SPACE, "backend")["spec"]["clusterIP"]
    end = time.monotonic() + WITHIN
    found: list[Record] = []
    while not found:
        assert time.monotonic() < end
        lab.exec(SPACE, "client", "curl", "-sS", "--max-time", "3", f"http://{cluster_ip}/hostname", check=False)
        found = [each for each in records(lab, dest_port=HTTP) if each["dest"].get("workload_name") == "backend"]
    assert found[0]["dest"]["workload_kind"] == "Deployment"
    assert found[0]["dest"]["pod_name"].startswith("backend-")
    assert found[0]["connection"]["dest_ip"] != cluster_ip
    lab.kubectl("delete", "-n", SPACE, "deployment/backend", "service/backend", "--wait=false")


@one_kind
def test_what_is_delegated_annotations_decide(lab: Cluster) -> None:
    lab.apply(opening("asks"))
    lab.kubectl("annotate", "networkpolicy", "-n", SPACE, "asks", f"{NET}/enable-logging=true")
    lab.kubectl("annotate", "namespace", LOUD, f"{NET}/enable-deny-logging=true", "--overwrite")
    for space in (LOUD, QUIET):
        pod = toolbox_pod(lab, "shut", lab.nodes()[1])
        pod["metadata"]["namespace"] = space
        lab.apply(pod, policy("shut", space, policyTypes=["Ingress"]))
        lab.wait_ready(space, "shut")
    set_logging(lab, allow=LEFT_TO_OTHERS, deny=LEFT_TO_OTHERS)
    server = lab.pod_addresses(SPACE, "far")[4]
    record = logged(lab, server)
    while len(record["policies"]) != 1:  # a record of before
        record = logged(lab, server)
    assert record["policies"] == [{"kind": "NetworkPolicy", "name": "asks", "namespace": SPACE}]
    loud, quiet = (lab.pod_addresses(space, "shut")[4] for space in (LOUD, QUIET))
    send(lab, quiet, UDP, 1)
    assert denials(lab, loud, UDP)[0]["dest"] == named("shut", LOUD)
    send(lab, quiet, UDP, 1)
    denials(lab, loud, UDP + 1)
    assert records(lab, dest_ip=quiet) == []
    # Without an annotation there is nothing to log: the policy that never asked allows as before.
    lab.kubectl("delete", "networkpolicy", "-n", SPACE, "asks")
    lab.kubectl("annotate", "namespace", LOUD, f"{NET}/enable-deny-logging-")
    end = time.monotonic() + WITHIN
    while True:
        port = asked(lab, server)
        time.sleep(1)
        if not records(lab, src_port=port):
            break
        assert time.monotonic() < end


@one_kind
def test_an_object_that_cannot_be_is_refused_and_where_it_is_not_an_event_says_that_nothing_changed(lab: Cluster) -> None:
    set_logging(lab, allow=ON)
    server = lab.pod_addresses(SPACE, "near")[4]
    logged(lab, server)
    patch = json.dumps({"spec": {"cluster": {"allow": {"log": False, "delegate": True}}}})
    wrong = partial(
        run, lab.kubectl_path, "--kubeconfig", str(lab.kubeconfig), "patch", "networklogging", "default", "--type=merge", "-p", patch
    )
    with pytest.raises(AssertionError, match="delegate: true is legal only together with log: true"):
        wrong()
    actions = json.dumps(lab.get(BINDING)["spec"]["validationActions"])
    audit = '{"spec":{"validationActions":["Audit"]}}'
    lab.kubectl("patch", BINDING, "--type=merge", "-p", audit)
    try:
        eventually(lambda: wrong() or True, within=WITHIN, what="the API server takes it")

        def told() -> list[Any]:
            events = lab.get("events", "-n", "default")["items"]
            return [each for each in events if each["reason"] == "InvalidNetworkLogging" and each["type"] == "Warning"]

        event = eventually(told, within=WITHIN, what="the event")[-1]
        assert (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("NetworkLogging", "default")
        assert "spec.cluster.allow.delegate needs spec.cluster.allow.log" in event["message"]
        assert logged(lab, server)["disposition"] == "allow"
    finally:
        lab.kubectl("patch", BINDING, "--type=merge", "-p", f'{{"spec":{{"validationActions":{actions}}}}}')
        set_logging(lab)
    eventually(lambda: not _taken(wrong), within=WITHIN, what="it is refused again")
    set_logging(lab)


def _taken(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except AssertionError:
        return False
    return True


class Follower:
    """`provisioner policy log --follow`, and what it printed."""

    def __init__(self, cluster: Cluster, *words: str) -> None:
        self.process = subprocess.Popen(
            log_words(cluster, "--follow", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        self.errors: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self.seen: list[Record] = []
        for stream, take in ((self.process.stdout, self._lines.put), (self.process.stderr, self.errors.append)):
            threading.Thread(target=lambda stream=stream, take=take: [take(line) for line in stream], daemon=True).start()

    def until(self, wanted: Callable[[Record], bool], within: float = WITHIN) -> Record:
        end = time.monotonic() + within
        while True:
            try:
                record = json.loads(self._lines.get(timeout=max(0.01, end - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"nothing of that kind came: {self.errors}") from None
            self.seen.append(record)
            if wanted(record):
                return record


@contextmanager
def following(cluster: Cluster, *words: str) -> Iterator[Follower]:
    follower = Follower(cluster, *words)
    try:
        yield follower
    finally:
        follower.process.send_signal(signal.SIGINT)
        try:
            status = follower.process.wait(30)
        except subprocess.TimeoutExpired:
            follower.process.kill()
            raise
    assert status == 130, follower.errors


def readers(cluster: Cluster) -> int:
    """Readers of the log that run on the nodes."""
    script = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"
    return sum(cluster.in_member(node, "sh", "-c", script, check=False).count("policy-log --") for node in cluster.nodes())


@one_kind
def test_following_shows_each_record_once_also_when_a_file_is_put_away_and_an_agent_replaced(lab: Cluster) -> None:
    set_logging(lab, allow=ON)
    server, node = lab.pod_addresses(SPACE, "far")[4], lab.nodes()[1]
    logged(lab, server)
    ports = [asked(lab, server)]

    def comes(follower: Follower) -> None:
        ports.append(asked(lab, server))
        follower.until(lambda record: record["connection"].get("src_port") == ports[-1])

    with following(lab, "--namespace", SPACE, "--pod", "far") as follower:
        follower.until(lambda record: record["connection"].get("src_port") == ports[0])  # what was there before
        comes(follower)
        ports.append(asked(lab, server))  # may be in the file that is put away, or in the next one
        name = time.strftime("policy_action-%Y-%m-%dT%H-%M-%S.000.log")
        lab.in_member(node, "sh", "-c", f"cd /var/log/network && mv policy_action.log {name}")
        for _ in range(3):
            comes(follower)
        agent = agent_on(lab, node)
        lab.kubectl("delete", "pod", "-n", "kube-system", agent, "--wait=true", timeout=60)
        ports.append(asked(lab, server))  # while it is away
        eventually(lambda: agent_on(lab, node) != agent and ready(lab, node), within=WITHIN, what="the next agent")
        for _ in range(2):
            comes(follower)
        assert any("trying again" in line for line in follower.errors)
        found = [record["connection"].get("src_port") for record in follower.seen]
    assert [port for port in ports if found.count(port) != 1] == []
    eventually(lambda: readers(lab) == 0, within=WITHIN, what="no reader is left on the nodes")


@one_kind
def test_the_tool_filters_and_prints_a_table_of_all_nodes_in_the_order_of_time(lab: Cluster) -> None:
    set_logging(lab, allow=ON, deny=ON)
    for server in ("near", "far"):
        address = lab.pod_addresses(SPACE, server)[4]
        logged(lab, address)
        denials(lab, address, CLOSED + 20)
    times = [each["timestamp"] for each in records(lab)]
    assert len(times) > 3
    assert {each["node_name"] for each in records(lab)} == set(lab.nodes()[:2])
    seconds = [moment({"timestamp": each}) for each in times]
    assert seconds == sorted(seconds)
    assert {each["disposition"] for each in records(lab, "--disposition", "deny")} == {"deny"}
    assert {each["node_name"] for each in records(lab, "--node", lab.nodes()[1])} == {lab.nodes()[1]}
    assert {each["dest"]["pod_name"] for each in records(lab, "--pod", f"{SPACE}/near")} == {"near"}
    assert records(lab, "--namespace", "nobodys") == []
    table = run(lab.provisioner, "policy", "log", lab.name, "--disposition", "deny", "--pod", "far", timeout=120).splitlines()
    assert table[0].split() == ["TIME", "NODE", "VERDICT", "DIRECTION", "SOURCE", "DESTINATION", "COUNT", "POLICIES"]
    assert {tuple(line.split()[2:6]) for line in table[1:] if f":{CLOSED + 20}/" in line} == {
        ("deny", "ingress", f"{SPACE}/client", f"{SPACE}/far:{CLOSED + 20}/udp")
    }
