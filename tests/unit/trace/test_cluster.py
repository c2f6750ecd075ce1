"""The tool's side: the Job of a tracer, whose addresses are, and what people read."""

from __future__ import annotations

import pytest

from provisioner.trace import job, names, text


def test_a_tracer_has_no_more_rights_than_it_needs_and_an_end_of_its_own():
    made = job.document("trace-1", "node-0", "image:1", "drops", '{"port":53}', 90)
    assert (made["kind"], made["metadata"]["namespace"]) == ("Job", "kube-system")
    assert (made["spec"]["activeDeadlineSeconds"], made["spec"]["ttlSecondsAfterFinished"], made["spec"]["backoffLimit"]) == (90, 0, 0)
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    rights = container["securityContext"]
    assert rights["privileged"] is False
    assert rights["capabilities"] == {"drop": ["ALL"], "add": ["BPF", "PERFMON", "SYSLOG"]}
    assert not pod["automountServiceAccountToken"]
    assert (pod["nodeName"], container["image"], container["args"]) == ("node-0", "image:1", ["drops", '{"port":53}'])
    assert container["stdin"]
    assert container["stdinOnce"]


def waiting(reason):
    return {"status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": reason, "message": "because"}}}]}}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        ({}, ""),
        ({"status": {"phase": "Pending"}}, ""),
        (waiting("ContainerCreating"), ""),
        (waiting("ErrImagePull"), "ErrImagePull: because"),
        ({"status": {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}}, ""),
        ({"status": {"phase": "Failed", "reason": "Evicted", "message": "no room"}}, "its pod has ended: Evicted; no room"),
        (
            {"status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"message": "no such module\n"}}}]}},
            "its pod has ended: no such module",
        ),
        ({"status": {"phase": "Succeeded"}}, "its pod has ended: Succeeded"),
    ],
)
def test_what_keeps_a_tracer_from_running(pod, expected):
    assert job.hindrance(pod) == expected


def pod(name, *addresses, phase="Running", **spec):
    return {
        "metadata": {"namespace": "default", "name": name},
        "spec": spec,
        "status": {"phase": phase, "podIPs": [{"ip": a} for a in addresses]},
    }


def service(name, *cluster, ports, external=(), balancer=()):
    spec = {"clusterIPs": list(cluster), "externalIPs": list(external), "ports": ports}
    status = {"loadBalancer": {"ingress": [{"ip": a} for a in balancer]}}
    return {"metadata": {"namespace": "default", "name": name}, "spec": spec, "status": status}


NODES = [
    {
        "metadata": {"name": "node-0"},
        "spec": {"podCIDRs": ["10.0.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.30.0.10"}, {"type": "Hostname", "address": "n"}]},
    }
]


@pytest.fixture
def known():
    pods = [
        pod("a", "10.0.0.1", "fd00:0:0::1"),
        pod("over", "10.0.0.2", phase="Succeeded"),
        pod("b", "10.0.0.2"),
        pod("h", "172.30.0.10", hostNetwork=True),
    ]
    ports = [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]
    services = [service("web", "10.96.0.1", "fd96::1", ports=ports, external=["192.0.2.7"], balancer=["192.0.2.8"])]
    return names.gather(pods, [*services, service("headless", "None", ports=[{"port": 1}])], NODES)


def test_an_address_is_the_pods_that_has_it_now_and_not_a_host_network_ones(known):
    assert known.pods == {"10.0.0.1": "default/a", "fd00::1": "default/a", "10.0.0.2": "default/b"}
    assert known.nodes == {"172.30.0.10": "node-0"}


def test_a_pods_address_that_is_nobodys_yet_is_told_from_a_strangers(known):
    assert [known.lacks(address) for address in ("10.0.0.1", "10.0.0.77", "192.0.2.1", "fd00::1", "")] == [False, True, False, False, False]


@pytest.mark.parametrize(
    "frontend",
    [("10.96.0.1", 80, "TCP"), ("fd96::1", 53, "UDP"), ("192.0.2.7", 80, "TCP"), ("192.0.2.8", 53, "UDP"), ("172.30.0.10", 30080, "TCP")],
)
def test_a_service_is_known_by_each_of_its_addresses(known, frontend):
    assert known.services[frontend] == "default/web"


@pytest.mark.parametrize("frontend", [("10.96.0.1", 53, "TCP"), ("None", 1, "TCP"), ("172.30.0.10", 80, "TCP")])
def test_what_is_no_services_has_none(known, frontend):
    assert frontend not in known.services


def drop(**fields):
    document = {
        "type": "drop", "node": "node-0", "time": "2030-01-02T03:04:05.678901234Z", "reason": "NO_SOCKET", "ownReason": "", "program": "",
        "policySet": 0, "protocol": "UDP", "source": {"address": "10.0.0.1", "port": 4000, "pod": "node/said"},
        "destination": {"address": "10.0.0.2", "port": 53, "pod": ""}, "detail": "", "length": 99, "device": "eth0", "pod": "default/b", "function": "f",
    }  # fmt: skip
    return document | fields


def test_the_cluster_adds_what_the_node_does_not_know(known):
    named = names.name_ends(drop(), known)
    assert named["source"]["pod"] == "node/said"
    assert named["destination"]["pod"] == "default/b"
    asked = {"address": "10.96.0.1", "port": 80, "pod": ""}
    assert names.name_ends({"protocol": "TCP", "asked": asked}, known)["asked"]["service"] == "default/web"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ["03:04:05.678", "node-0", "UDP", "10.0.0.1:4000 node/said", "10.0.0.2:53", "NO_SOCKET: in default/b, 99 bytes"]),
        (
            {"ownReason": "EGRESS_DENIED", "program": "FROM_POD", "reason": "TC_INGRESS"},
            ["EGRESS_DENIED (from_pod): at default/b, 99 bytes"],
        ),
        ({"reason": "NOT_SPECIFIED", "function": "__dev_forward_skb2"}, ["NOT_SPECIFIED in __dev_forward_skb2: in default/b, 99 bytes"]),
        ({"source": {"address": "fd00::1", "port": 1}}, ["[fd00::1]:1"]),
        ({"source": {"address": "", "port": 0}, "detail": "SYN", "pod": ""}, ["-", "in eth0, SYN, 99 bytes"]),
    ],
)
def test_a_lost_packets_line(fields, words):
    line = text.line("drops", drop(**fields), 6)
    for word in words:
        assert word in line


def connect(**fields):
    document = {
        "type": "connect", "node": "node-0", "time": "2030-01-02T03:04:05.678901234Z", "pod": "default/a", "command": "curl", "process": 1,
        "protocol": "TCP", "outcome": "succeeded", "error": "", "errorText": "", "latencyMs": 0.1234,
        "source": {"address": "10.0.0.1", "port": 4000, "pod": "default/a"}, "asked": {"address": "10.96.0.1", "port": 80, "service": "default/web"},
        "destination": {"address": "10.0.0.2", "port": 8080, "pod": "default/b"}, "translatedBy": "socket",
    }  # fmt: skip
    return document | fields


def test_a_connections_line_says_whom_the_service_led_to():
    line = text.line("connect", connect(), 6)
    for word in ("default/a (curl)", "10.96.0.1:80 default/web", "succeeded", "0.123", "10.0.0.2:8080 default/b (at the socket)"):
        assert word in line
    assert "pod's device" in text.line("connect", connect(translatedBy="packets"), 6)
    direct = text.line("connect", connect(translatedBy="", error="ECONNREFUSED", pod=""), 6)
    assert "ECONNREFUSED" in direct
    assert "10.0.0.2:8080" not in direct
    assert "node-0 (curl)" in direct


def test_the_table_counts_by_reason_the_most_frequent_first_and_what_was_too_fast_too():
    summary = text.Summary()
    for document in (drop(), drop(), drop(ownReason="EGRESS_DENIED", reason="TC_INGRESS")):
        summary.add(document)
    summary.add({"type": "lost", "reason": "TC_INGRESS", "ownReason": "EGRESS_DENIED", "count": 40})
    first, *rows, last = summary.table("drops").splitlines()
    assert first.split() == ["REASON", "BY", "PACKETS", "MEANS"]
    assert [row.split()[:3] for row in rows] == [["EGRESS_DENIED", "anetd", "41"], ["NO_SOCKET", "kernel", "2"]]
    assert "no NetworkPolicy" in rows[0]
    assert last.startswith("40 of them")
    assert summary.document() == {
        "type": "summary",
        "rows": [{"by": "anetd", "reason": "EGRESS_DENIED", "count": 41}, {"by": "kernel", "reason": "NO_SOCKET", "count": 2}],
        "untold": 40,
    }


def test_where_the_kernel_gives_no_reason_the_function_is_counted_and_explained():
    summary = text.Summary()
    summary.add(drop(reason="NOT_SPECIFIED", function="__dev_forward_skb2"))
    assert "NOT_SPECIFIED in __dev_forward_skb2  kernel  1        larger than" in summary.table("drops")


def test_the_table_of_connections_and_of_nothing():
    summary = text.Summary()
    assert summary.table("connect") == "there was no connection\n"
    assert summary.table("drops") == "no packet was dropped\n"
    for error in ("", "", "ECONNREFUSED"):
        summary.add(connect(error=error))
    assert summary.table("connect").split() == ["RESULT", "CONNECTIONS", "succeeded", "2", "ECONNREFUSED", "1"]


def test_our_reasons_are_all_explained():
    from agent.datapath.abi import DropReason

    assert set(text.OWN) == {reason.name for reason in DropReason}
