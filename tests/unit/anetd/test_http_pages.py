"""The agent's HTTP ports: many of them from one thread, whatever clients do; health checks and kube-proxy's pages in kube-proxy's words."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from agent.datapath.maps import Usage
from agent.observe import httpd, kube_proxy
from agent.observe.events import Subject
from agent.observe.health_check import REASON, HealthChecks
from agent.observe.httpd import Answer, HttpLoop, by_path
from agent.observe.kube_proxy import KubeProxyPorts, ProxyState, healthz, livez
from agent.observe.policy_metrics import PolicyMetrics
from agent.observe.service_metrics import ServiceMetrics
from agent.observe.table_metrics import TableMetrics
from agent.reconcile.diff import Put
from agent.services.healthchecks import HealthCheck, health_check
from agent.watch.records import Endpoint, EndpointSlice, Key, Service

GOOD = ProxyState(last_sync=1000.0, pending_since=0.0, stalled=False, eligible=True, families=(4, 6))


class Told:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.events: list[tuple[Subject, str, str]] = []

    def warn(self, subject: Subject, reason: str, message: str) -> None:
        self.events.append((subject, reason, message))


@pytest.fixture
def loop() -> Iterator[HttpLoop]:
    made = HttpLoop()
    made.start()
    yield made
    made.stop()


def serve(loop: HttpLoop, pages: dict[str, httpd.Page]) -> int:
    """The port on which the pages are."""
    return int(loop.listen(0, by_path(pages)).getsockname()[1])


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, all different. Below the range from which the kernel gives ports to whoever asks for any."""
    found: list[int] = []
    for port in range(20000 + os.getpid() % 5000, 32000):
        with contextlib.suppress(OSError), socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True):
            found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no free ports")


def get(port: int, path: str = "/", *, host: str = "127.0.0.1", method: str = "GET") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode(), dict(response.headers)
    finally:
        connection.close()


def refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def eventually(probe: object, within: float = 20.0) -> None:
    end = time.monotonic() + within
    while not probe():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_pages_are_answered_in_both_families_and_on_many_ports_by_one_thread(loop: HttpLoop) -> None:
    before = threading.active_count()
    ports = [serve(loop, {"/a": lambda number=number: Answer(200, f"{number}\n")}) for number in range(20)]
    for number, port in enumerate(ports):
        assert get(port, "/a?x=1")[:2] == (200, f"{number}\n")
        assert get(port, "/a", host="::1")[:2] == (200, f"{number}\n")
    assert get(ports[0], "/b")[0] == 404
    assert threading.active_count() == before


def test_what_is_asked_in_another_way_gets_an_answer_too(loop: HttpLoop, caplog: pytest.LogCaptureFixture) -> None:
    port = serve(loop, {"/": lambda: Answer(200, "x" * 3_000_000), "/broken": lambda: Answer(200, str(1 // 0))})
    assert len(get(port)[1]) == 3_000_000
    status, body, headers = get(port, method="HEAD")
    assert (status, body, headers["Content-Length"]) == (200, "", "3000000")
    assert get(port, method="DELETE")[0] == 405
    assert get(port, "/broken")[0] == 500
    assert "ZeroDivisionError" in caplog.text
    for nonsense in (b"\r\n\r\n", b"\x16\x03\x01\n\n", b"GET /\r\n\r\n", b"x" * 9000):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(nonsense)
            assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_silent_slow_and_many_clients_keep_nobody_from_being_answered(loop: HttpLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "CLIENT_SECONDS", 3.0)
    port = serve(loop, {"/": lambda: Answer(200, "ok")})
    silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(httpd.MAX_CLIENTS // 2)]
    slow = socket.create_connection(("127.0.0.1", port), timeout=10)
    for piece in (b"GET / ", b"HTTP/1.1\r\n", b"\r\n"):
        slow.sendall(piece)
        assert get(port)[0] == 200
    assert slow.recv(100).startswith(b"HTTP/1.1 200 ")
    for client in silent:
        assert client.recv(1) == b""  # closed, for it took too long
        client.close()
    slow.close()
    crowd = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(httpd.MAX_CLIENTS + 20)]
    eventually(lambda: _answers(port))
    for client in crowd:
        client.close()


def _answers(port: int) -> bool:
    try:
        return get(port)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_health_checks_speak_as_kube_proxy_and_follow_changes(loop: HttpLoop) -> None:
    told, health = Told(), [True]
    checks = HealthChecks(loop, "node-a", told, lambda: health[0])
    one, two = free_ports(2)
    checks.follow({one: HealthCheck(Key("shop", "web"), 2), two: HealthCheck(Key("shop", "api"), 0)})
    status, body, headers = get(one, "/anything")
    assert status == 200
    assert json.loads(body) == {"service": {"namespace": "shop", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": True}
    assert headers["X-Load-Balancing-Endpoint-Weight"] == "2"
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    status, body, headers = get(two)
    assert (status, json.loads(body)["localEndpoints"], headers["X-Load-Balancing-Endpoint-Weight"]) == (503, 0, "0")
    health[0] = False
    status, body, _ = get(one)
    assert (status, json.loads(body)["serviceProxyHealthy"]) == (503, False)
    health[0] = True
    checks.follow({two: HealthCheck(Key("shop", "api"), 1)})
    assert get(two)[0] == 200
    eventually(lambda: refused(one))
    assert told.events == []


def test_a_health_check_port_that_is_taken_is_told_once_and_served_when_it_is_free(loop: HttpLoop) -> None:
    told = Told()
    checks = HealthChecks(loop, "node-a", told, lambda: True)
    (other,) = free_ports(1)
    with socket.create_server(("", 0)) as thief:
        taken = thief.getsockname()[1]
        wanted = {taken: HealthCheck(Key("shop", "web"), 1, "u-1"), other: HealthCheck(Key("shop", "api"), 1)}
        checks.follow(wanted)
        checks.follow(wanted)
        assert get(other)[0] == 200
        assert list(checks.refused) == [taken]
    ((subject, reason, message),) = told.events
    assert (subject, reason) == (Subject("Service", Key("shop", "web"), "u-1"), REASON)
    assert str(taken) in message
    checks.follow(wanted)
    assert get(taken)[0] == 200
    assert checks.refused == {}


def test_only_ready_endpoints_of_this_node_are_counted_each_address_once() -> None:
    def end(address: str, node: str, **conditions: bool) -> Endpoint:
        return Endpoint(ip_address(address), node=node, **conditions)

    service = Service(Key("n", "s"), (ip_address("10.96.0.1"),), (), health_check_node_port=30001, uid="u")
    slices = [
        EndpointSlice(Key("n", "s-1"), service.key, 4, (end("10.0.0.1", "a"), end("10.0.0.2", "b"), end("10.0.0.3", "a", ready=False)), ()),
        EndpointSlice(Key("n", "s-2"), service.key, 4, (end("10.0.0.1", "a"), end("10.0.0.4", "a", ready=False, terminating=True)), ()),
    ]
    assert health_check(service, slices, "a") == HealthCheck(service.key, 1, "u")
    assert health_check(service, slices, "c") == HealthCheck(service.key, 0, "u")
    assert health_check(Service(Key("n", "t"), (), ()), slices, "a") is None


@pytest.mark.parametrize(
    ("state", "health", "live"),
    [
        (GOOD, 200, 200),
        (ProxyState(1000.0, 1990.0, False, True, (4,)), 200, 200),  # a change is on its way
        (ProxyState(1000.0, 1930.0, False, True, (4,)), 503, 503),  # and this one is late
        (ProxyState(0.0, 0.0, False, True, (4,)), 503, 503),
        (ProxyState(1000.0, 0.0, True, True, (4,)), 503, 503),
        (ProxyState(1000.0, 0.0, False, False, (4,)), 503, 200),
    ],
)
def test_health_is_judged_as_kube_proxy_judges(state: ProxyState, health: int, live: int) -> None:
    assert healthz(state, 2000.0).status == health
    assert livez(state, 2000.0).status == live
    document = json.loads(healthz(state, 2000.0).body)
    assert document["nodeEligible"] is state.eligible
    assert document["currentTime"] == "1970-01-01T00:33:20.000000Z"
    assert document["lastUpdated"] == {200: "1970-01-01T00:33:20.000000Z", 503: document["status"]["IPv4"]["lastUpdated"]}[health]
    assert "nodeEligible" not in json.loads(livez(state, 2000.0).body)


def test_kube_proxys_ports_are_answered_and_a_kube_proxy_that_has_them_is_told(loop: HttpLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    told, (health_port,) = Told(), free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as real:
        monkeypatch.setattr(kube_proxy, "HEALTH_PORT", health_port)
        monkeypatch.setattr(kube_proxy, "STATUS_PORT", real.getsockname()[1])
        ports = KubeProxyPorts(loop, "node-a", told, lambda: GOOD, lambda: "metric 1\n")
        ports.open()
        ports.open()
        status, body, _ = get(health_port, "/healthz")
        assert status == 200
        assert "lastUpdated" in body
        assert get(health_port, "/livez")[0] == 200
        assert get(health_port, "/healthz", host="::1")[0] == 200
        ((subject, reason, message),) = told.events
        assert (subject.kind, reason) == ("Node", "PortInUse")
        assert "kube-proxy" in message
        assert list(ports.refused) == [kube_proxy.STATUS_PORT]
    ports.open()
    assert get(kube_proxy.STATUS_PORT, "/proxyMode")[:2] == (200, "ebpf")
    assert get(kube_proxy.STATUS_PORT, "/metrics")[1] == "metric 1\n"
    assert ports.refused == {}
    assert ports.answered == {("healthz", 200): 2, ("livez", 200): 1}


def test_metrics_have_kube_proxys_names_types_and_labels() -> None:
    metrics = ServiceMetrics()
    metrics.heard(5.0, 2, 3)
    metrics.synced(7.0, 0.003, [6.0, 6.9])
    metrics.heard(8.0, 1, 0)
    metrics.no_local_endpoints = {"external": 1, "internal": 0}
    lines = kube_proxy.render(metrics, (4, 6), {("healthz", 200): 4, ("healthz", 503): 1})
    types = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE"))
    assert types == {
        "kubeproxy_sync_proxy_rules_duration_seconds": "histogram",
        "kubeproxy_network_programming_duration_seconds": "histogram",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds": "gauge",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds": "gauge",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending": "gauge",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total": "counter",
        "kubeproxy_sync_proxy_rules_service_changes_pending": "gauge",
        "kubeproxy_sync_proxy_rules_service_changes_total": "counter",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total": "gauge",
        "kubeproxy_proxy_healthz_total": "counter",
        "kubeproxy_proxy_livez_total": "counter",
    }
    for line in (
        'kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.002"} 0',
        'kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv6",le="0.004"} 1',
        'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1',
        'kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le="+Inf"} 2',
        'kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 7.0',
        "kubeproxy_sync_proxy_rules_service_changes_total 3",
        "kubeproxy_sync_proxy_rules_service_changes_pending 1",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 3",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
        'kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy="external",ip_family="IPv6"} 1',
        'kubeproxy_proxy_healthz_total{code="503"} 1',
    ):
        assert line in lines
    assert metrics.pending_since == 8.0


def test_a_table_that_fills_up_is_told_once_until_it_is_emptier() -> None:
    told = Told()
    tables = TableMetrics("node-a", told)
    services = ServiceMetrics()
    for rows in (10, 90, 95, 85, 91, 79, 90):
        tables.looked_at({"conntrack": Usage(rows, 100)}, services)
    assert [reason for _, reason, _ in told.events] == ["TableNearlyFull"] * 2
    assert "90 of 100" in told.events[0][2]
    services.stands({"backends": 10}, {"backends": 10}, {"n/s": "backends"}, {})
    tables.looked_at({"conntrack": Usage(90, 100)}, services)
    assert "backends" in told.events[2][2]
    tables.collected(7, 0.25)
    services.row_counts.count(Put("frontends", dict.fromkeys(range(3))))
    services.stands({"frontends": 3}, {"frontends": 10}, {"n/s": "backends"}, {})
    lines = tables.render(services, PolicyMetrics())
    for line in (
        'anetd_table_rows{table="conntrack"} 90',
        'anetd_table_capacity{table="frontends"} 10',
        'anetd_table_pressure{table="frontends"} 0.3',
        'anetd_table_rows_written_total{table="frontends"} 3',
        "anetd_services_left_out 1",
        "anetd_conntrack_gc_runs_total 1",
        "anetd_conntrack_gc_removed_total 7",
    ):
        assert line in lines
