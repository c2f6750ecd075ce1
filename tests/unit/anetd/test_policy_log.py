"""From the kernel's records to the log's lines: what they say, who is named, what is one line, and what is counted instead of written."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.datapath.abi import pack_address
from agent.datapath.policy_rows import Direction, unpack_verdict
from agent.policylog import names
from agent.policylog.aggregate import Aggregator, Budget
from agent.policylog.counts import Counts
from agent.policylog.form import Clock
from agent.policylog.names import Annotations, Directory, Numbers
from agent.policylog.pipeline import Pipeline
from agent.watch.policy_records import Logging, NetworkPolicy, Pod, Selector
from agent.watch.records import Key, Node

from .verdicts import ICMP, ICMP6, SCTP, TCP, UDP, verdict

SECOND = 10**9
EPOCH = 1_780_000_000 * SECOND  # 2026-05-28T20:26:40Z
EVERYTHING = Logging(allow=True, deny=True)
CLIENT, SERVER, OTHER = "10.244.0.5", "10.244.1.7", "10.244.1.9"
KEYS = ["connection", "disposition", "policies", "src", "dest", "count", "node_name", "timestamp"]


def pod(name: str, *addresses: str, workload: tuple[str, str] = ("Deployment", "web"), **fields: Any) -> Pod:
    key = Key("shop", name)
    return Pod(key, f"u-{name}", (), tuple(map(ip_address, addresses)), "demo-1", workload=workload, **fields)


def policy(name: str, *, log: bool = False) -> NetworkPolicy:
    return NetworkPolicy(Key("shop", name), f"u-{name}", Selector(), (), None, log_allowed=log)


class Lab:
    """A pipeline with two pods and two nodes; rule 1 is policy `a`, rule 2 is `a` and `b`."""

    def __init__(self, logging: Logging = EVERYTHING, sets: Numbers | None = None) -> None:
        self.untold: dict[bytes, tuple[int, int, int]] = {}
        self.directory = Directory()
        self.annotations, self.counts = Annotations(), Counts()
        self.learn({1: ["a"], 2: ["a", "b"]})
        find = lambda key: self.untold.get(key, (0, 0, 0))  # noqa: E731
        self.pipeline = Pipeline("demo-1", self.directory, self.annotations, self.counts, sets=sets, untold=find)
        self.pipeline.configure(logging)
        pods = [pod("client", CLIENT, "fd00::5", workload=("Job", "load")), pod("server", SERVER, "fd00::7")]
        self.directory.take_pods({each.key: each for each in pods}, {}, 0)
        nodes = [Node("demo-0", (), (ip_address("172.30.0.10"),)), Node("demo-1", (), (ip_address("172.30.0.11"),))]
        self.directory.take_nodes({Key("", each.name): each for each in nodes}, 0)

    def learn(self, rules: dict[int, list[str]]) -> None:
        self.annotations.rules.learn(rules, lambda rule: [Key("shop", name) for name in rules[rule]])

    def feed(self, *records: bytes, at: float = 0.0) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.texts(*records, at=at)]

    def texts(self, *records: bytes, at: float = 0.0) -> list[str]:
        return [line.text for line in self.pipeline.feed(records, int(at * SECOND), Clock(EPOCH))]


POD_A = '{"pod_name":"client","workload_kind":"Job","workload_name":"load","pod_namespace":"shop","namespace":"shop"}'
POD_B = '{"pod_name":"server","workload_kind":"Deployment","workload_name":"web","pod_namespace":"shop","namespace":"shop"}'
NODE = '{"node_name":"demo-0","workload_kind":"Node"}'
A = '"policies":[{"kind":"NetworkPolicy","name":"a","namespace":"shop"}],'
SAMPLES = {
    "an allowed connection": (
        verdict(CLIENT, SERVER, rule=1, time=123_456_789),
        (
            '{"connection":{"src_ip":"10.244.0.5","dest_ip":"10.244.1.7","src_port":40522,"dest_port":8080,"protocol":"tcp",'
            f'"direction":"ingress"}},"disposition":"allow",{A}"src":{POD_A},"dest":{POD_B},"count":1,"node_name":"demo-1",'
            '"timestamp":"2026-05-28T20:26:40.123456789Z"}\n'
        ),
    ),
    "two policies, outwards, IPv6": (
        verdict("fd00::5", "fd00::7", (40522, 53), UDP, direction=Direction.EGRESS, rule=2, time=500_000_000),
        (
            '{"connection":{"src_ip":"fd00::5","dest_ip":"fd00::7","src_port":40522,"dest_port":53,"protocol":"udp","direction":"egress"},'
            '"disposition":"allow","policies":[{"kind":"NetworkPolicy","name":"a","namespace":"shop"},'
            f'{{"kind":"NetworkPolicy","name":"b","namespace":"shop"}}],"src":{POD_A},"dest":{POD_B},"count":1,"node_name":"demo-1",'
            '"timestamp":"2026-05-28T20:26:40.5Z"}\n'
        ),
    ),
    "from a node": (
        verdict("172.30.0.10", SERVER, rule=1),
        (
            '{"connection":{"src_ip":"172.30.0.10","dest_ip":"10.244.1.7","src_port":40522,"dest_port":8080,"protocol":"tcp",'
            f'"direction":"ingress"}},"disposition":"allow",{A}"src":{NODE},"dest":{POD_B},"count":1,"node_name":"demo-1",'
            '"timestamp":"2026-05-28T20:26:40Z"}\n'
        ),
    ),
    "from nobody who is known": (
        verdict("203.0.113.9", SERVER, rule=1, time=60 * SECOND),
        (
            '{"connection":{"src_ip":"203.0.113.9","dest_ip":"10.244.1.7","src_port":40522,"dest_port":8080,"protocol":"tcp",'
            f'"direction":"ingress"}},"disposition":"allow",{A}"src":{{"instance":"203.0.113.9"}},"dest":{POD_B},"count":1,'
            '"node_name":"demo-1","timestamp":"2026-05-28T20:27:40Z"}\n'
        ),
    ),
    "a ping": (
        verdict(CLIENT, SERVER, (4711, 0), ICMP, rule=1),
        (
            '{"connection":{"src_ip":"10.244.0.5","dest_ip":"10.244.1.7","protocol":"icmp","direction":"ingress"},"disposition":"allow",'
            f'{A}"src":{POD_A},"dest":{POD_B},"count":1,"node_name":"demo-1","timestamp":"2026-05-28T20:26:40Z"}}\n'
        ),
    ),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_a_record_is_written_as_gke_writes_it(case: str) -> None:
    record, line = SAMPLES[case]
    assert Lab().texts(record) == [line]


def test_a_denied_connection_is_a_line_without_source_port_and_policies_when_its_window_ends() -> None:
    lab = Lab()
    denied = [verdict(CLIENT, SERVER, (port, 8080), time=port * 1000) for port in range(40000, 40003)]
    assert lab.feed(*denied) == []
    assert lab.feed(verdict(CLIENT, SERVER, count=10, time=2 * SECOND), at=4.9) == []
    (text,) = lab.texts(at=5.1)
    assert text == (
        '{"connection":{"src_ip":"10.244.0.5","dest_ip":"10.244.1.7","dest_port":8080,"protocol":"tcp","direction":"ingress"},'
        f'"disposition":"deny","src":{POD_A},"dest":{POD_B},"count":13,"node_name":"demo-1","timestamp":"2026-05-28T20:26:40.04Z"}}\n'
    )
    assert lab.pipeline.open_windows == 0


@pytest.mark.parametrize(
    ("protocol", "text"), [(TCP, "tcp"), (UDP, "udp"), (ICMP, "icmp"), (ICMP6, "unknown"), (SCTP, "unknown"), (47, "unknown")]
)
@pytest.mark.parametrize("rule", [0, 1])
def test_every_record_has_the_keys_in_order_and_ports_only_where_they_mean_something(protocol: int, text: str, rule: int) -> None:
    lab = Lab()
    (record,) = lab.feed(verdict(CLIENT, SERVER, (1, 2), protocol, rule=rule)) + lab.feed(at=6)
    assert list(record) == [key for key in KEYS if rule or key != "policies"]
    connection = record["connection"]
    assert connection["protocol"] == text
    assert ("dest_port" in connection) == (text in {"tcp", "udp"})
    assert ("src_port" in connection) == (text in {"tcp", "udp"} and rule != 0)
    assert [key for key in connection if "port" not in key] == ["src_ip", "dest_ip", "protocol", "direction"]
    assert list(connection)[2:4] == [*(key for key in ("src_port", "dest_port") if key in connection), "protocol", "direction"][:2]


@given(st.binary(min_size=64, max_size=64))
def test_whatever_the_kernel_writes_comes_out_as_the_value_of_the_record_says(data: bytes) -> None:
    """The pipeline reads bytes by itself for speed: it must read what `unpack_verdict` reads."""
    data = data[:45] + bytes([data[45] & 1, data[46] & 1]) + data[47:]
    lab = Lab()
    value = unpack_verdict(data)
    lab.learn({value.rule: ["a"]})
    out = lab.pipeline.feed([data], 1 << 62, Clock(-value.time))
    out += lab.pipeline.feed([], (1 << 64) + 6 * SECOND, Clock(-value.time))
    (line,) = out
    record = json.loads(line.text)
    connection = record["connection"]
    assert ip_address(connection["src_ip"]) == value.source
    assert ip_address(connection["dest_ip"]) == value.destination
    assert connection["direction"] == value.direction.name.lower()
    assert record["disposition"] == ("allow" if value.allowed else "deny")
    assert record["timestamp"] == "1970-01-01T00:00:00Z"
    assert record["count"] == (1 if value.allowed else value.count)
    if value.protocol in {6, 17}:
        assert connection.get("dest_port", 0) == value.destination_port
        assert connection.get("src_port", 0) == (value.source_port if value.allowed else 0)


def test_what_has_another_size_is_counted_and_nothing_else() -> None:
    lab = Lab()
    assert lab.feed(b"", b"x" * 63, verdict(CLIENT, SERVER, rule=1) + b"x") == []
    assert lab.counts.errors["unreadable"] == 3
    assert sum(lab.counts.events.values()) == 0


@pytest.mark.parametrize(
    ("logging", "said"),
    [
        (Logging(), []),
        (Logging(allow=True), ["allow"]),
        (Logging(deny=True), ["deny"]),
        (EVERYTHING, ["allow", "deny"]),
    ],
)
def test_only_what_is_asked_for_is_logged(logging: Logging, said: list[str]) -> None:
    lab = Lab(logging)
    records = lab.feed(verdict(CLIENT, SERVER, rule=1), verdict(CLIENT, SERVER)) + lab.feed(at=6)
    assert [record["disposition"] for record in records] == said


def test_delegated_to_policies_only_those_that_ask_for_it_are_named() -> None:
    lab = Lab(Logging(allow=True, delegate_allow=True))
    lab.annotations.take_policies({Key("shop", "a"): policy("a"), Key("shop", "b"): policy("b", log=True)})
    records = lab.feed(verdict(CLIENT, SERVER, rule=1), verdict(CLIENT, SERVER, rule=2))
    assert [[row["name"] for row in record["policies"]] for record in records] == [["b"]]
    assert lab.counts.flows == {"skipped": 1, "logged": 1}
    lab.annotations.take_policies({Key("shop", "a"): policy("a", log=True)})
    (record,) = lab.feed(verdict(CLIENT, SERVER, rule=2))
    assert [row["name"] for row in record["policies"]] == ["a", "b"]
    lab.annotations.take_policies({Key("shop", "b"): None})  # what it allowed before it went is still in the ring
    assert len(lab.feed(verdict(CLIENT, SERVER, rule=2))[0]["policies"]) == 2
    lab.annotations.take_policies({Key("shop", "b"): policy("b")})
    assert len(lab.feed(verdict(CLIENT, SERVER, rule=2))[0]["policies"]) == 1


def test_a_number_that_nobody_told_of_is_counted_and_the_latest_word_about_one_counts() -> None:
    lab = Lab()
    assert lab.feed(verdict(CLIENT, SERVER, rule=9)) == []
    assert lab.counts.errors["unknown_policy"] == 1
    lab.learn({9: ["c"]})
    assert [row["name"] for row in lab.feed(verdict(CLIENT, SERVER, rule=9))[0]["policies"]] == ["c"]
    lab.learn({9: ["d"], 2: []})
    assert [row["name"] for row in lab.feed(verdict(CLIENT, SERVER, rule=9))[0]["policies"]] == ["d"]
    assert len(lab.feed(verdict(CLIENT, SERVER, rule=2))[0]["policies"]) == 2  # gone, and remembered
    assert lab.counts.errors["unknown_policy"] == 1


def test_denials_name_who_isolates_the_pod_where_that_is_asked_for() -> None:
    sets = Numbers()
    sets.learn([7], lambda _: [Key("shop", "deny-all"), Key("shop", "web")])
    lab = Lab(sets=sets)
    other = verdict(CLIENT, SERVER, (1, 81))
    lab.feed(verdict(CLIENT, SERVER), other[:48] + (8).to_bytes(4, "little") + other[52:], at=0.1)
    first, second = lab.feed(at=6)
    assert [row["name"] for row in first["policies"]] == ["deny-all", "web"]
    assert list(first) == KEYS
    assert "policies" not in second
    lab.untold[verdict(CLIENT, SERVER)[8:40] + verdict(CLIENT, SERVER)[42:46]] = (3, 6 * SECOND, 7)
    lab.feed(at=7.3)
    (late,) = lab.feed(at=13)
    assert (late["count"], len(late["policies"])) == (3, 2)


# ---- names ----
def seen(directory: Directory, address: str, at: float) -> str:
    document = json.loads(directory.name(pack_address(ip_address(address)), int(at * SECOND)))
    return document.get("pod_name") or document.get("node_name") or document["instance"]


def take(directory: Directory, at: float, **pods: Pod | None) -> None:
    directory.take_pods({Key("shop", name): each for name, each in pods.items()}, {}, int(at * SECOND))


def test_an_address_is_named_as_of_the_time_of_the_packet() -> None:
    directory = Directory()
    take(directory, 10, old=pod("old", OTHER))
    assert seen(directory, OTHER, 9) == "old"  # it sent before its address was told
    take(directory, 20, old=None)
    assert [seen(directory, OTHER, at) for at in (19, 21, 29, 31)] == ["old", "old", "old", OTHER]
    take(directory, 25, new=pod("new", OTHER))
    assert [seen(directory, OTHER, at) for at in (19, 21, 24, 26)] == ["old", "new", "new", "new"]
    directory.forget(60 * SECOND)
    assert seen(directory, OTHER, 19) == "new"


def test_a_pod_keeps_its_name_for_moments_after_it_is_gone_and_then_nothing_of_it_is_kept() -> None:
    directory = Directory()
    for number in range(100):
        take(directory, number, churn=pod("churn", f"10.1.0.{number}"))
    take(directory, 100, churn=None)
    assert seen(directory, "10.1.0.99", 105) == "churn"
    directory.forget(200 * SECOND)
    assert seen(directory, "10.1.0.99", 200) == "10.1.0.99"
    assert not directory._spans
    assert not directory._pods
    assert not directory._ended


def test_of_two_that_have_an_address_the_later_counts_and_the_first_ones_end_changes_nothing() -> None:
    directory = Directory()
    take(directory, 1, first=pod("first", OTHER))
    take(directory, 2, second=pod("second", OTHER))
    take(directory, 3, first=None)
    assert [seen(directory, OTHER, at) for at in (1.5, 2.5, 3.5)] == ["first", "second", "second"]


def test_when_all_pods_are_told_anew_those_that_are_not_among_them_are_gone() -> None:
    directory = Directory()
    take(directory, 1, first=pod("first", OTHER), second=pod("second", SERVER))
    directory.keep_pods([Key("shop", "second")], 2 * SECOND)
    assert [seen(directory, OTHER, at) for at in (1.5, 2.5, 60)] == ["first", "first", OTHER]
    assert seen(directory, SERVER, 60) == "second"


def test_pods_of_this_node_are_named_from_the_moment_that_they_have_their_addresses() -> None:
    directory = Directory()
    key = Key("shop", "fresh")
    directory.take_pods({}, {key: (ip_address(OTHER),)}, SECOND)
    raw = pack_address(ip_address(OTHER))
    assert json.loads(directory.name(raw, SECOND)) == {"pod_name": "fresh", "pod_namespace": "shop", "namespace": "shop"}
    directory.take_pods({key: pod("fresh")}, {}, 2 * SECOND)  # its status has no address yet
    assert json.loads(directory.name(raw, 3 * SECOND))["workload_name"] == "web"
    directory.take_pods({key: None}, {}, 3 * SECOND)  # deleted by force, and its sandbox goes on
    assert json.loads(directory.name(raw, 3 * SECOND))["workload_name"] == "web"
    directory.take_pods({key: pod("fresh", OTHER)}, {key: None}, 4 * SECOND)
    assert seen(directory, OTHER, 5) == "fresh"
    take(directory, 6, fresh=None)
    assert seen(directory, OTHER, 60) == OTHER


def test_pods_on_the_nodes_network_and_finished_ones_name_nothing() -> None:
    directory = Directory()
    node = Node("demo-0", (), (ip_address("172.30.0.10"),))
    directory.take_nodes({Key("", "demo-0"): node}, 0)
    take(directory, 1, agent=pod("agent", "172.30.0.10", host_network=True), done=pod("done", OTHER, finished=True))
    assert seen(directory, "172.30.0.10", 2) == "demo-0"
    assert seen(directory, OTHER, 2) == OTHER


@pytest.mark.parametrize("limit", ["_MOST_STRANGERS", "_MOST_NUMBERS"])
def test_addresses_and_rules_without_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(names, limit, 10)
    lab = Lab()
    for number in range(1, 50):
        lab.learn({number: [f"p{number}"]})
        (record,) = lab.feed(verdict(f"203.0.113.{number}", SERVER, rule=number), at=number)
        assert record["src"] == {"instance": f"203.0.113.{number}"}
        assert record["policies"][0]["name"] == f"p{number}"
    rules = lab.annotations.rules
    kept = (lab.directory._strangers, lab.directory._texts) if limit == "_MOST_STRANGERS" else (rules._policies, rules._texts)
    assert max(map(len, kept)) <= 10


# ---- windows, budget, counts ----
def test_windows_end_five_seconds_after_their_first_packet_each_by_itself() -> None:
    windows = Aggregator()
    for key, at in ((b"a", 0.0), (b"b", 1.0), (b"a", 4.9), (b"c", 4.9)):
        windows.add(key, int(at * SECOND), 1)
    assert [w.key for w in windows.due(4_999_999_999)] == []
    assert [(w.key, w.count) for w in windows.due(5 * SECOND)] == [(b"a", 2)]
    windows.add(b"a", 5 * SECOND, 1)
    assert [w.key for w in windows.due(9_900_000_000)] == [b"b", b"c"]
    assert [(w.key, w.count) for w in windows.rest()] == [(b"a", 1)]


class Kernel:
    """The part of bpf/lib/policy.h that tells of denials, on one CPU and of one connection: what `denials` and the ring would have."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.key = lab, verdict(CLIENT, SERVER)[8:40] + verdict(CLIENT, SERVER)[42:46]
        self.told_at, self.untold, self.since = -SECOND, 0, 0
        self.ring: list[bytes] = []

    def deny(self, at: float) -> None:
        now = int(at * SECOND)
        if now - self.told_at < SECOND:
            self.since = self.since if self.untold else now
            self.untold += 1
        else:
            self.ring.append(verdict(CLIENT, SERVER, count=1 + self.untold, time=self.since if self.untold else now))
            self.told_at, self.untold = now, 0
        self.lab.untold[self.key] = (self.untold, self.since, 7)

    def read(self, at: float) -> list[dict[str, Any]]:
        records, self.ring = self.ring, []
        return self.lab.feed(*records, at=at)


def test_what_the_kernel_had_not_told_when_a_connection_gave_up_is_counted_all_the_same() -> None:
    lab = Lab()
    kernel = Kernel(lab)
    for at in (0.0, 0.2, 0.4, 1.1, 1.3):
        kernel.deny(at)
    kernel.read(2)
    (record,) = kernel.read(5.1)
    assert record["count"] == 5
    assert [kernel.read(at) for at in (6.4, 12.0)] == [[], []]
    kernel.deny(20.0)  # the kernel's sum holds the last one of before
    kernel.read(20.1)
    (record,) = kernel.read(25.2)
    assert (record["count"], record["timestamp"]) == (1, "2026-05-28T20:27:00.1Z")


def test_what_is_denied_right_after_a_window_ended_and_never_again_is_a_line_of_its_own() -> None:
    lab = Lab()
    kernel = Kernel(lab)
    for at in (0.0, 4.9):
        kernel.deny(at)
    kernel.read(4.95)
    assert [record["count"] for record in kernel.read(5.05)] == [2]
    kernel.deny(5.3)
    assert kernel.read(6.3) == []
    (record,) = kernel.read(10.4)
    assert (record["count"], record["timestamp"]) == (1, "2026-05-28T20:26:45.3Z")


@given(st.lists(st.integers(1, 3000), max_size=60), st.integers(20, 150))
def test_however_packets_come_the_lines_count_each_once(gaps: list[int], every: int) -> None:
    """Gaps between packets, and how often the ring is read, in ms."""
    lab = Lab(Logging(deny=True))
    kernel = Kernel(lab)
    packets, now = [], 0
    for gap in gaps:
        now += gap
        packets.append(now)
    total, clock = 0, 0
    while clock < now + 15_000:
        clock += every
        while packets and packets[0] <= clock:
            kernel.deny(packets.pop(0) / 1000)
        total += sum(record["count"] for record in kernel.read(clock / 1000))
    assert total == len(gaps)
    assert lab.pipeline.open_windows == 0


def test_of_connections_beyond_the_most_each_record_is_counted_and_those_known_go_on() -> None:
    lab = Lab(Logging(deny=True))
    flood = [verdict(CLIENT, SERVER, (1, port), time=0) for port in range(1, 3011)]
    lab.feed(*flood)
    assert lab.pipeline.open_windows == 3000
    assert lab.counts.dropped == {"aggregation_limit": 10}
    lab.feed(flood[0])
    assert lab.counts.dropped == {"aggregation_limit": 10}


def test_no_more_than_500_lines_a_second_and_the_rest_is_counted() -> None:
    lab = Lab()
    burst = [verdict(CLIENT, SERVER, rule=1)] * 700
    assert len(lab.feed(*burst, at=100)) == 500
    assert lab.counts.dropped == {"rate_limit": 200}
    assert len(lab.feed(*burst, at=100.5)) == 250
    assert len(lab.feed(*burst, at=200)) == 500
    assert lab.counts.flows["logged"] == 2100


def test_the_budget_is_never_more_than_a_seconds_worth() -> None:
    budget = Budget(10)
    budget.refill(SECOND)
    assert sum(budget.take() for _ in range(30)) == 10
    for tenth in range(11, 31):
        budget.refill(tenth * SECOND // 10)
        assert budget.take()
        assert not budget.take()
    budget.refill(SECOND)  # time does not go back
    assert not budget.take()


def test_open_windows_become_lines_at_the_end() -> None:
    lab = Lab()
    lab.feed(verdict(CLIENT, SERVER), verdict(SERVER, CLIENT))
    assert len(lab.pipeline.finish(SECOND, Clock(EPOCH))) == 2
    assert lab.pipeline.open_windows == 0


def test_everything_that_is_counted_is_shown_under_gkes_names() -> None:
    lab = Lab()
    lab.feed(verdict(CLIENT, SERVER, rule=1, time=0), verdict(CLIENT, SERVER), at=0.002)
    lab.feed(at=6)
    lab.counts.dropped["disk_full"] += 3
    lab.counts.enabled = True
    text = "\n".join(lab.counts.render())
    for expected in (
        "policy_logging_enabled 1",
        "policy_logging_ready 0",
        'policy_logging_event_count{disposition="allow"} 1',
        'policy_logging_event_count{disposition="deny"} 1',
        'policy_logging_drop_count{reason="disk_full"} 3',
        'policy_logging_drop_count{reason="rate_limit"} 0',
        'policy_logging_allowed_flow_processed_count{result="logged"} 1',
        'policy_logging_error_count{reason="unreadable"} 0',
        'policy_logging_allow_latency_microseconds_bucket{le="5000"} 1',
        "policy_logging_allow_latency_microseconds_sum 2000.0",
        'policy_logging_deny_latency_seconds_bucket{le="6.0"} 1',
        "policy_logging_deny_latency_seconds_count 1",
    ):
        assert expected in text.splitlines()


def test_times_follow_the_clock_that_was_set() -> None:
    clock = Clock(EPOCH)
    assert clock.text(0) == "2026-05-28T20:26:40Z"
    clock.offset += 3600 * SECOND
    assert clock.text(1) == "2026-05-28T21:26:40.000000001Z"
