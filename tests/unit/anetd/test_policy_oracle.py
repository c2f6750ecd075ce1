"""The rows of NetworkPolicy against a slow and obvious oracle, looked up as the kernel does it; and the incremental compiler against one that
begins anew, and against itself in the middle of a round."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_address as parsed
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.datapath.policy_rows import CLASS_ANY, PREFIX_ANY, Direction, IsolationFlag, PolicyFlag, PolicyKey
from agent.policy.inputs import Changes, Rows
from agent.policy.portprefix import Span, covers, one_port
from agent.policy.verdict import Tables

from .policy_objects import NUMBERS, Cluster, Document, Node, ask, changes, key, name_of, namespace, pod, policy, walk

LIGHT = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
ip_address = lru_cache(maxsize=None)(parsed)
NAMESPACES = ("a", "b", "c")
PODS = ("a/p", "a/q", "a/r", "b/p", "b/q", "c/p")
POLICIES = ("a/one", "a/two", "b/one", "b/two")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.2", "10.1.0.1", "fd00::1", "fd00::1:1", "fd00:1::1")
OUTSIDE = ("192.0.2.1", "10.0.0.9", "10.2.0.1", "fd00::9", "2001:db8::1")
NETWORKS = {
    "10.0.0.0/8": ("10.0.0.0/24", "10.0.0.2/32", "10.0.0.0/16"),
    "10.0.0.0/24": ("10.0.0.0/30", "10.0.0.2/32"),
    "10.0.0.2/32": (),
    "0.0.0.0/0": ("10.0.0.0/8", "192.0.2.0/24"),
    "::/0": ("fd00::/16", "fd00::1/128"),
    "fd00::/64": ("fd00::1:0/112",),
    "fd00::1/128": (),
}
INGRESS, EGRESS = ("ingress", "from"), ("egress", "to")
PROBES = (("TCP", 80), ("TCP", 81), ("TCP", 443), ("TCP", 8080), ("UDP", 80), ("SCTP", 80), ("ICMP", 0))
LABELS = st.fixed_dictionaries({"app": st.sampled_from("xy")}, optional={"tier": st.sampled_from("12")})
SELECTORS = st.one_of(
    st.just({}),
    st.builds(lambda labels: {"matchLabels": labels}, LABELS),
    st.builds(
        lambda name, operator, values: {
            "matchExpressions": [{"key": name, "operator": operator, **({"values": values} if operator.endswith("In") else {})}]
        },
        st.sampled_from(["app", "tier", "kubernetes.io/metadata.name"]),
        st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
        st.lists(st.sampled_from(["x", "y", "1", "2", "a", "b"]), min_size=1, max_size=2, unique=True),
    ),
)
BLOCKS = st.sampled_from(sorted(NETWORKS)).flatmap(
    lambda cidr: st.builds(
        lambda excepts: {"ipBlock": {"cidr": cidr, **({"except": excepts} if excepts else {})}},
        st.lists(st.sampled_from(NETWORKS[cidr]), max_size=2, unique=True) if NETWORKS[cidr] else st.just([]),
    )
)
PEERS = st.one_of(
    BLOCKS,
    st.builds(lambda s: {"podSelector": s}, SELECTORS),
    st.builds(lambda s: {"namespaceSelector": s}, SELECTORS),
    st.builds(lambda p, n: {"podSelector": p, "namespaceSelector": n}, SELECTORS, SELECTORS),
)
PORTS = st.one_of(
    st.builds(lambda p: {"protocol": p}, st.sampled_from(["TCP", "UDP", "SCTP"])),
    st.builds(lambda p, n: {"protocol": p, "port": n}, st.sampled_from(["TCP", "UDP"]), st.sampled_from([80, 81, 443, "web", "alt"])),
    st.builds(lambda n, size: {"port": n, "endPort": n + size}, st.sampled_from([79, 80, 81, 400]), st.sampled_from([0, 1, 6, 8000])),
)
CONTAINER_PORTS = st.lists(
    st.tuples(st.sampled_from(["web", "alt"]), st.sampled_from(["TCP", "UDP"]), st.sampled_from([80, 81, 8080])), max_size=3
)


def rules(peers: str) -> st.SearchStrategy[list[Document]]:
    """Mostly with peers, and seldom none at all, so that there is much to tell apart."""
    some = st.fixed_dictionaries({peers: st.lists(PEERS, min_size=1, max_size=2)}, optional={"ports": st.lists(PORTS, max_size=2)})
    one = st.one_of(some, some, some, st.fixed_dictionaries({}, optional={peers: st.just([]), "ports": st.lists(PORTS, max_size=2)}))
    return st.lists(one, min_size=1, max_size=2)


@st.composite
def policies(draw: st.DrawFn, name: str) -> Document:
    spec: Document = {"podSelector": draw(st.one_of(st.just({}), SELECTORS))}
    for direction, peers in draw(st.sampled_from([(INGRESS,), (INGRESS,), (EGRESS,), (EGRESS, INGRESS), ()])):
        spec[direction] = draw(rules(peers)) if draw(st.integers(0, 5)) else []
    types = draw(st.sampled_from([None, None, ["Ingress"], ["Egress"], ["Ingress", "Egress"]]))
    if types:
        spec["policyTypes"] = types
    return policy(name, log=draw(st.booleans()), **spec)


@st.composite
def pods(draw: st.DrawFn, name: str) -> Document:
    return pod(
        name,
        *draw(st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=2, unique_by=lambda a: ":" in a)),
        labels=draw(LABELS),
        ports=draw(CONTAINER_PORTS),
        created=draw(st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"])),
        phase=draw(st.sampled_from(["Running"] * 8 + ["Succeeded"])),
        host=draw(st.sampled_from([False] * 8 + [True])),
    )


NAMESPACE = st.sampled_from(NAMESPACES).flatmap(
    lambda n: st.builds(lambda labels, log: namespace(n, labels, log=log), LABELS, st.booleans())
)
LOGGING = st.builds(
    lambda allow, deny: {"metadata": {"name": "default"}, "spec": {"cluster": {"allow": allow, "deny": deny}}},
    *(st.sampled_from([{}, {"log": True}, {"log": True, "delegate": True}]) for _ in range(2)),
)
KINDS = ["policy"] * 8 + ["pod"] * 4 + ["namespace", "namespace", "logging", "no pod", "no policy", "no policy", "no namespace"]
Edit = tuple[str, str, Document | None]


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    kind = draw(st.sampled_from(KINDS))
    if kind == "pod":
        name = draw(st.sampled_from(PODS))
        return kind, name, draw(pods(name))
    if kind == "policy":
        name = draw(st.sampled_from(POLICIES))
        return kind, name, draw(policies(name))
    if kind == "namespace":
        found = draw(NAMESPACE)
        return kind, name_of(found), found
    if kind == "logging":
        return kind, "", draw(LOGGING)
    return kind, draw(st.sampled_from({"no pod": PODS, "no policy": POLICIES, "no namespace": NAMESPACES}[kind])), None


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    cluster = Cluster()
    for name in PODS:
        edit(cluster, ("pod", name, draw(pods(name))))
    for name in draw(st.sampled_from([POLICIES, POLICIES, POLICIES[:2]])):
        cluster.policies[name] = draw(policies(name))
    for name in NAMESPACES:
        cluster.namespaces[name] = namespace(name, draw(LABELS), log=draw(st.booleans()))
    cluster.logging = draw(LOGGING)
    return cluster


def edit(cluster: Cluster, change: Edit) -> Changes:
    """Take a change into the documents; what the compiler is told of it. Pods in a and b are this node's, if an address is theirs alone."""
    kind, name, document = change
    if kind == "logging":
        cluster.logging = document or {}
        return changes(logging=document)
    if kind in {"policy", "no policy", "namespace", "no namespace"}:
        table = cluster.policies if "policy" in kind else cluster.namespaces
        if document is None:
            table.pop(name, None)
        else:
            table[name] = document
        return changes(policies={name: document}) if "policy" in kind else changes(namespaces={name: document})
    before = cluster.local.pop(name, None)
    if document is None:
        cluster.pods.pop(name, None)
    else:
        cluster.pods[name] = document
        addresses = tuple(row["ip"] for row in document["status"]["podIPs"])
        taken = {address for each in cluster.local.values() for address in each}
        if not name.startswith("c") and not document["spec"]["hostNetwork"] and taken.isdisjoint(addresses):
            cluster.local[name] = addresses
    now = cluster.local.get(name)
    return changes(pods={name: document}, local={} if before is None and now is None else {name: now})


Question = tuple[str, str, str, str, str, int]
Step = tuple[str, str, Any]


def questions(cluster: Cluster, probes: tuple[tuple[str, int], ...] = PROBES) -> Iterator[Question]:
    """Each pod of this node with each address, in both directions."""
    for name, own in cluster.local.items():
        for address in own:
            for peer in (*ADDRESSES, *OUTSIDE):
                if peer not in own and ip_address(peer).version == ip_address(address).version:
                    for direction in ("ingress", "egress"):
                        for protocol, port in probes:
                            yield name, address, peer, direction, protocol, port


def check(cluster: Cluster, node: Node, probes: tuple[tuple[str, int], ...] = PROBES) -> None:
    """Every verdict, which rules it names, and what of it is logged."""
    spec = (cluster.logging.get("spec") or {}).get("cluster") or {}
    allow, deny = spec.get("allow") or {}, spec.get("deny") or {}
    for question in questions(cluster, probes):
        name, address, peer, direction, protocol, port = question
        wanted = ask(cluster, name, peer, direction, protocol, port)
        found = node.tables.judge(ip_address(address), ip_address(peer), Direction[direction.upper()], NUMBERS[protocol], port)
        assert (found.allowed, bool(found.set)) == (wanted.allowed, wanted.isolated), question
        if not wanted.isolated:
            continue
        assert tuple(map(str, node.compiler.policies_in(found.set))) == wanted.policies, question
        if found.row is not None:
            refs = node.compiler.rule(found.row.rule)
            assert {(str(ref.policy), ref.direction.name.lower(), ref.index) for ref in refs} == wanted.by, question
            annotated = any(cluster.policies[each]["metadata"]["annotations"] for each, _, _ in wanted.by)
            assert bool(found.row.flags & PolicyFlag.LOG) == bool(allow.get("log") and (annotated or not allow.get("delegate"))), question
        where = cluster.namespaces.get(cluster.pods[name]["metadata"]["namespace"])
        told = bool(where and where["metadata"]["annotations"])
        flag = IsolationFlag.LOG_INGRESS if direction == "ingress" else IsolationFlag.LOG_EGRESS
        row = node.tables.isolation[ip_address(address)]
        assert bool(row.flags & flag) == bool(deny.get("log") and (told or not deny.get("delegate"))), question


def fresh(cluster: Cluster) -> Node:
    node = Node()
    node.apply(cluster.everything())
    return node


@given(clusters())
@LIGHT
def test_every_verdict_and_the_rules_it_names_are_the_documentations(cluster: Cluster) -> None:
    check(cluster, fresh(cluster))


@given(clusters(), st.lists(edits(), min_size=3, max_size=6))
@LIGHT
def test_after_each_change_the_rows_are_those_of_a_compilation_from_nothing(cluster: Cluster, changed: list[Edit]) -> None:
    node = fresh(cluster)
    for each in changed:
        node.apply(edit(cluster, each))
        check(cluster, node)
        if each[0].startswith("no"):
            continue  # what a policy leaves behind stays for the next changes
        node.apply(Changes())
        assert node.tables == fresh(cluster).tables
        assert not node.compiler.unsettled
    node.apply(Changes())
    assert node.tables == fresh(cluster).tables


def copied(tables: Tables) -> Tables:
    return Tables(dict(tables.policies), dict(tables.classes), dict(tables.isolation))


class Walker:
    """Answers questions to tables that change row by row: allowed if any row covers it, as all rows allow."""

    def __init__(self, tables: Tables) -> None:
        self.tables = copied(tables)
        self.spans: dict[tuple[int, int], set[Span]] = {}
        self.classes: dict[str, int] = {}
        for row in tables.policies:
            self.spans.setdefault((row.set, row.peer_class), set()).add(span_of(row))

    def write(self, step: Step) -> None:
        action, table, row = step
        if table == "policies":
            spans = self.spans.setdefault((row.set, row.peer_class), set())
            (spans.add if action == "put" else spans.discard)(span_of(row))
        elif table == "classes":
            self.classes = {}

    def allows(self, question: Question) -> bool:
        _, address, peer, direction, protocol, port = question
        row = self.tables.isolation.get(ip_address(address))
        number = 0 if row is None else row.ingress_set if direction == "ingress" else row.egress_set
        if not number:
            return True
        if peer not in self.classes:
            self.classes[peer] = self.tables.class_of(ip_address(peer))
        asked = one_port(NUMBERS[protocol], port)
        return any(covers(span, asked) for of in (self.classes[peer], CLASS_ANY) for span in self.spans.get((number, of), ()))


def span_of(row: PolicyKey) -> Span:
    return row.prefix - PREFIX_ANY, row.protocol << 16 | row.port


def walk_through(node: Node, rows: Rows, asked: list[Question]) -> None:
    """Write a round; after every row each verdict is that before or after."""
    old, new = Walker(node.tables), copied(node.tables)
    new.apply(rows)
    final = Walker(new)
    wanted = {question: {old.allows(question), final.allows(question)} for question in asked}
    walker = Walker(node.tables)
    for step in walk(walker.tables, rows):
        walker.write(step)
        for question, answers in wanted.items():
            assert walker.allows(question) in answers, (question, step)
    assert walker.tables == new
    node.tables = new


def walk_edits(cluster: Cluster, changed: list[Edit]) -> None:
    node = fresh(cluster)
    for each in changed:
        before = dict(cluster.local)
        rows = node.compiler.apply(edit(cluster, each))
        asked = [q for q in questions(cluster, PROBES[:2]) if before.get(q[0]) == cluster.local[q[0]]]
        walk_through(node, rows, asked)
        walk_through(node, node.compiler.apply(Changes()), asked)
        check(cluster, node, PROBES[:1])


@given(clusters(), st.lists(edits(), min_size=2, max_size=4))
@LIGHT
def test_in_the_middle_of_a_round_each_verdict_is_that_before_or_after(cluster: Cluster, changed: list[Edit]) -> None:
    walk_edits(cluster, changed)


@st.composite
def edits_of_one_policy(draw: st.DrawFn) -> tuple[Cluster, list[Edit]]:
    """Of networks in networks, for pods that have rows of their own and others that have none."""
    cluster = Cluster(namespaces={name: namespace(name) for name in NAMESPACES})
    for name, address in (("a/p", "10.0.0.1"), ("a/q", "10.0.0.2"), ("b/p", "10.0.1.1"), ("c/p", "10.1.0.1")):
        edit(cluster, ("pod", name, pod(name, address, labels=draw(LABELS))))
    cluster.policies["a/two"] = policy("a/two", ingress=[{"from": draw(st.lists(PEERS, min_size=1, max_size=1))}])
    changed: list[Edit] = []
    for _ in range(4):
        own = draw(st.sampled_from([{}, {}, {}, {"matchLabels": {"app": "x"}}]))
        peers = draw(st.lists(st.one_of(BLOCKS, BLOCKS, PEERS), min_size=1, max_size=2))
        rule = {"from": peers, "ports": [{"port": draw(st.sampled_from([80, 81]))}]}
        document = policy("a/one", podSelector=own, ingress=[rule]) if draw(st.integers(0, 4)) else None
        changed.append(("policy" if document else "no policy", "a/one", document))
    return cluster, changed


@given(edits_of_one_policy())
@settings(LIGHT, max_examples=120)
def test_in_the_middle_of_a_policys_edit_each_verdict_is_that_before_or_after(story: tuple[Cluster, list[Edit]]) -> None:
    walk_edits(*story)


@given(clusters(), st.lists(edits(), min_size=2, max_size=6))
@LIGHT
def test_changes_that_come_together_are_taken_up_together(cluster: Cluster, changed: list[Edit]) -> None:
    node = fresh(cluster)
    parts = [edit(cluster, each) for each in changed]
    whole = Changes(
        {k: v for part in parts for k, v in part.pods.items()},
        {k: v for part in parts for k, v in part.namespaces.items()},
        {k: v for part in parts for k, v in part.policies.items()},
        {k: v for part in parts for k, v in part.endpoints.items()},
        next((part.logging for part in reversed(parts) if part.logging is not None), None),
    )
    node.apply(whole)
    check(cluster, node)
    node.apply(Changes())
    assert node.tables == fresh(cluster).tables


def test_the_oracle_denies_and_allows() -> None:
    cluster = Cluster({"a/p": pod("a/p", "10.0.0.1")}, {"a": namespace("a")}, {"a/one": policy("a/one")}, {"a/p": ("10.0.0.1",)})
    assert not ask(cluster, "a/p", "10.0.0.2", "ingress", "TCP", 80).allowed
    assert ask(cluster, "a/p", "10.0.0.2", "egress", "TCP", 80).allowed
    assert key("a/p").name == "p"
