"""The synchronizer: what it takes up, what it reads from the kernel and when, whom it tells, and what it counts."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.config import Config
from agent.observe.histogram import Histogram
from agent.observe.tables import services as as_table
from agent.reconcile.applier import ApplyError
from agent.reconcile.compiler import Notice
from agent.services.healthchecks import HealthCheck
from agent.services.hostports import HostPort
from agent.sync import Synchronizer
from agent.watch import records
from agent.watch.records import Key, Node

from .objects import Document, Kernel, answer, end, piece, place_key, service


class FakeTable:
    def __init__(self, rows: dict[Any, Any]) -> None:
        self.rows = rows
        self.max_entries = 1000
        self.fails = 0
        self.reads = 0

    def items(self) -> Iterator[tuple[Any, Any]]:
        self.reads += 1
        return iter(list(self.rows.items()))

    def put_many(self, rows: Any) -> None:
        for key, row in rows.items():
            if self.fails:
                self.fails -= 1
                raise OSError(errno.EIO, "Input/output error")
            self.rows[key] = row

    def delete_many(self, keys: Any) -> int:
        for key in keys:
            del self.rows[key]
        return len(keys)


class Node1:
    """A synchronizer over tables in memory."""

    def __init__(self, kernel: Kernel | None = None) -> None:
        self.kernel = kernel or Kernel()
        self.notices: list[Notice] = []
        self.calls: list[tuple[str, Any]] = []
        tables = {name: FakeTable(rows) for name, rows in self.kernel.tables.items()}
        self.tables = tables
        forget = lambda gone: self.calls.append(("forget", sorted(str(each.address) for each in gone.values())))  # noqa: E731
        datapath = SimpleNamespace(routes=FakeTable({}), forget_backends=forget, **tables)
        self.sync = Synchronizer(
            cast(Config, SimpleNamespace(load_balancer_pool=())),
            Node("node-1", (), ()),
            cast(Any, None),
            cast(Any, datapath),
            cast(Any, None),
            warn=self.notices.append,
            destroy_sockets=lambda backends: self.calls.append(("destroy", sorted(str(each.address) for each in backends))),
        )

    def put(self, *documents: Document) -> None:
        pieces = {records.key_of(each): records.endpoint_slice(each) for each in documents if "addressType" in each}
        self.sync.apply_services({records.key_of(each): records.service(each) for each in documents if "addressType" not in each}, pieces)

    def inside(self, place: str) -> set[str] | str:
        return answer(self.kernel, self.kernel.frontends[place_key(place)], outside=False)


WEB = service("web", uid="u", created="2026-02-01T00:00:00Z")
PIECE = piece("x", "web", [end("10.1.0.1", "node-1"), end("10.1.0.2")])


def test_the_kernel_is_read_once_and_again_after_a_failure_and_nothing_that_was_taken_up_is_lost() -> None:
    node = Node1()
    node.put(WEB)
    node.put(PIECE)
    assert node.tables["frontends"].reads == 1
    node.tables["backend_slots"].fails = 1
    with pytest.raises(ApplyError, match="backend_slots"):
        node.put(piece("x", "web", [end("10.1.0.3")]))
    node.sync.forget()
    node.sync.apply_services({}, {})
    assert node.tables["frontends"].reads == 2
    assert node.inside("10.96.0.1:80/TCP") == {"10.1.0.3:8080"}
    assert node.sync.metrics.failed_syncs == 1


def test_udp_flows_of_a_backend_that_is_gone_are_forgotten_at_once_and_others_by_and_by() -> None:
    node = Node1()
    dns = service("dns", ["10.96.0.2"], [{"port": 53, "protocol": "UDP"}])
    node.put(WEB, PIECE, dns, piece("y", "dns", [end("10.1.0.3")], [{"port": 53, "protocol": "UDP"}]))
    assert node.calls == []
    node.put(piece("x", "web", [end("10.1.0.2")]))
    assert node.calls == []
    node.put(piece("y", "dns", [end("10.1.0.4")], [{"port": 53, "protocol": "UDP"}]))
    assert node.calls == [("forget", ["10.1.0.3"]), ("destroy", ["10.1.0.3"])]
    node.put(piece("y", "dns", [end("10.1.0.4")], [{"port": 5353, "protocol": "UDP"}]))  # another target port is another backend
    assert node.calls[2:] == [("forget", ["10.1.0.4"]), ("destroy", ["10.1.0.4"])]
    node.sync.keep_house()
    node.sync.keep_house()
    assert node.calls[4:] == [("forget", ["10.1.0.1"])]
    node.put(piece("x", "web", [end("10.1.0.9")]))
    node.put(piece("x", "web", [end("10.1.0.2")]))  # it is back, as what it was
    node.sync.keep_house()
    assert node.calls[5:] == [("forget", ["10.1.0.9"])]


def test_host_ports_are_written_before_services_are_known_and_leave_those_of_an_earlier_process_alone() -> None:
    before = Node1()
    before.put(WEB, PIECE)
    node = Node1(before.kernel)
    node.sync.set_host_ports([HostPort(None, 80, 6, ip_address("10.1.0.1"), 8080)])
    assert node.inside("host4:80/TCP") == {"10.1.0.1:8080"}
    assert node.inside("10.96.0.1:80/TCP") == {"10.1.0.1:8080", "10.1.0.2:8080"}
    assert node.sync.metrics.last_sync == 0.0  # Services are not synced
    node.put(service("other", ["10.96.0.2"]))
    assert place_key("10.96.0.1:80/TCP") not in node.kernel.frontends
    assert node.inside("host4:80/TCP") == {"10.1.0.1:8080"}
    node.sync.set_host_ports([])
    assert place_key("host4:80/TCP") not in node.kernel.frontends


def test_a_host_port_that_cannot_be_written_is_an_error_of_who_asked_and_is_tried_again() -> None:
    node = Node1()
    node.tables["frontends"].fails = 1
    port = HostPort(None, 80, 6, ip_address("10.1.0.1"), 8080)
    with pytest.raises(ApplyError):
        node.sync.set_host_ports([port])
    node.sync.set_host_ports([port])
    assert node.inside("host4:80/TCP") == {"10.1.0.1:8080"}


def test_a_host_port_for_which_there_is_no_room_is_an_error_of_the_pod_that_brings_it_and_of_no_other() -> None:
    node = Node1()
    node.tables["frontends"].max_entries = 1
    first = HostPort(None, 80, 6, ip_address("10.1.0.1"), 8080)
    node.sync.set_host_ports([first])
    second = HostPort(None, 81, 6, ip_address("10.1.0.2"), 8080)
    with pytest.raises(ApplyError, match="frontends has no room for host port 81"):
        node.sync.set_host_ports([first, second])
    node.sync.set_host_ports([first, second])
    node.sync.set_host_ports([first])
    assert node.inside("host4:80/TCP") == {"10.1.0.1:8080"}


def test_health_knows_no_pending_change_when_what_was_heard_changes_nothing() -> None:
    node = Node1()
    node.sync.set_host_ports([])
    node.sync.apply_services({}, {})
    assert node.sync.metrics.last_sync > 0.0  # no Service at all is a state like any other
    stray = piece("stray", "", [end("10.9.9.9")])
    node.put(stray)
    assert node.sync.metrics.endpoint_changes == 1
    assert (node.sync.metrics.pending_endpoints, node.sync.metrics.pending_since) == (0, 0.0)


def test_what_is_written_deleted_and_how_long_it_took_is_counted() -> None:
    node = Node1()
    node.put(WEB, PIECE)
    metrics = node.sync.metrics
    assert metrics.row_counts.written == {"backends": 2, "backend_slots": 2, "frontends": 2}
    assert metrics.rows == {"backends": 2, "backend_slots": 2, "frontends": 2, "maglev": 0, "source_ranges": 0}
    assert metrics.rows_limit["maglev"] == 1000
    node.put(piece("x", "web", []))
    assert metrics.row_counts.deleted == {"backends": 2, "backend_slots": 2}
    assert (metrics.service_changes, metrics.endpoint_changes, metrics.syncs.count) == (1, 2, 2)
    assert metrics.pending_services == metrics.pending_endpoints == 0
    node.put()
    assert metrics.syncs.count == 2  # nothing to do is no round


def test_the_latency_of_programming_is_measured_from_the_slices_word_but_not_of_what_was_there_before() -> None:
    node = Node1()
    said = {**PIECE, "metadata": {**PIECE["metadata"], "annotations": {records.TRIGGER_ANNOTATION: "2026-01-01T00:00:00Z"}}}
    node.put(WEB, said)
    assert node.sync.metrics.latencies.count == 0
    node.put({**said, "endpoints": []})
    assert node.sync.metrics.latencies.count == 1
    assert node.sync.metrics.latencies.counts[-1] == 1  # long ago


def test_a_histogram_counts_by_upper_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum, histogram.count) == ([2, 1, 1], 12.0, 4)


def test_who_is_left_out_or_loses_a_frontend_is_told_and_counted() -> None:
    node = Node1()
    node.put(
        *(
            service(name, [f"10.96.0.{n}"], externalIPs=["192.0.2.1"], uid=name, internalTrafficPolicy="Local")
            for n, name in enumerate("ab", 1)
        )
    )
    assert [(str(each.service), each.reason) for each in node.notices] == [("n/b", "FrontendTaken")]
    assert node.sync.metrics.conflicts == {"n/b": 1}
    node.put(PIECE, piece("y", "a", [end("10.1.0.2")]))
    assert node.sync.metrics.no_local_endpoints == {"internal": 1, "external": 0}
    node = Node1()
    node.tables["frontends"].max_entries = 1
    node.put(WEB)
    assert node.sync.metrics.left_out == {"n/web": "frontends"}
    assert "left out" in as_table(node.sync.explain())


def test_health_checks_count_ready_endpoints_of_this_node() -> None:
    node = Node1()
    node.put(service("web", healthCheckNodePort=32000, type="LoadBalancer", externalTrafficPolicy="Local", uid="u"), PIECE)
    assert node.sync.health_checks == {32000: HealthCheck(Key("n", "web"), 1, "u")}


def test_services_are_explained_one_or_all_as_table_and_document() -> None:
    node = Node1()
    node.sync.set_host_ports([HostPort(None, 80, 6, ip_address("10.1.0.1"), 8080)])
    node.put(WEB, PIECE, service("other", ["fd96::1"]))
    assert [row["service"] for row in node.sync.explain()] == ["n/other", "n/web", ""]
    (web,) = node.sync.explain("n/web")
    assert web["frontends"] == [
        {
            "kind": "ClusterIP",
            "address": "10.96.0.1",
            "port": 80,
            "protocol": "TCP",
            "policyInside": "Cluster",
            "policyOutside": "Cluster",
            "flags": ["SOCKET"],
            "id": node.kernel.frontends[place_key("10.96.0.1:80/TCP")].service_id,
            "outsideId": 0,
            "heldBy": "",
        }
    ]
    assert web["backends"] == ["10.1.0.1:8080", "10.1.0.2:8080"]
    assert node.sync.explain("n/missing") == []
    lines = as_table(node.sync.explain()).splitlines()
    assert lines[0].split() == ["SERVICE", "PORT", "FRONTENDS", "BACKENDS", "LEFT", "OUT"]
    assert lines[1].split() == ["n/other", "-/TCP", "ClusterIP", "[fd96::1]:80", "none"]
    assert lines[2].split() == ["n/web", "-/TCP", "ClusterIP", "10.96.0.1:80", "10.1.0.1:8080"]
    assert lines[3].split() == ["10.1.0.2:8080"]
    assert lines[4].split() == ["-", "-/TCP", "HostPort", ":80", "10.1.0.1:8080"]
