"""The tables of Services against a slow and obvious oracle, and the incremental compiler against one that begins anew.

The oracle is written from the Kubernetes API's documentation (Service, EndpointSlice, virtual IPs) in terms of the documents; it knows
nothing of records, groups or rows.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.datapath.abi import FrontendFlag, FrontendKey
from agent.reconcile.compiler import Compiler
from agent.reconcile.tables import KernelRows, Limits
from agent.services.hostports import HostPort
from agent.services.inputs import Inputs
from agent.services.vantage import Vantage
from agent.watch import records

from .objects import Document, Kernel, World, answer, canonical, place_key, socket_text

NODES = {"node-1": "zone-a", "node-2": "zone-a", "node-3": "zone-b"}
WHERE = {"10.1.0.1": "node-1", "10.1.0.2": "node-2", "10.1.0.3": "node-3", "fd00::1": "node-1", "fd00::2": "node-2", "192.0.2.200": ""}
PORTS = st.builds(
    lambda name, protocol, port, node_port: {"name": name, "protocol": protocol, "port": port, "nodePort": node_port},
    st.sampled_from(["", "p", "q"]), st.sampled_from(["TCP", "UDP"]), st.sampled_from([80, 81]), st.sampled_from([0, 30001, 30002]),
)  # fmt: skip
POLICY = st.sampled_from(["Cluster", "Local"])
NAMES = "abc"


@st.composite
def services(draw: st.DrawFn) -> Document:
    name = draw(st.sampled_from(NAMES))
    number = NAMES.index(name) + 1
    addresses = draw(st.sampled_from([[f"10.96.0.{number}"], [f"10.96.0.{number}", f"fd96::{number}"], [f"fd96::{number}"], []]))
    spec: Document = {
        "type": draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])),
        "clusterIPs": addresses or ["None"],
        "ports": draw(st.lists(PORTS, max_size=3, unique_by=(lambda p: (p["port"], p["protocol"]), lambda p: (p["name"], p["protocol"])))),
        "externalIPs": draw(st.lists(st.sampled_from(["192.0.2.1", "2001:db8::1", "10.96.0.1"]), max_size=2, unique=True)),
        "internalTrafficPolicy": draw(POLICY),
        "externalTrafficPolicy": draw(POLICY),
        "publishNotReadyAddresses": draw(st.booleans()),
        "sessionAffinity": draw(st.sampled_from(["None", "ClientIP"])),
        "loadBalancerSourceRanges": draw(st.lists(st.sampled_from(["203.0.113.0/24", "2001:db8:1::/48"]), max_size=2, unique=True)),
    }
    if spec["type"] == "ExternalName":
        spec["clusterIPs"] = []
    if spec["type"] == "ClusterIP":
        spec["ports"] = [{**port, "nodePort": 0} for port in spec["ports"]]
    ingress = draw(
        st.lists(
            st.builds(
                lambda ip, mode: {"ip": ip, **({"ipMode": mode} if mode else {})},
                st.sampled_from(["198.51.100.1", "192.0.2.1", "2001:db8::2"]),
                st.sampled_from(["", "VIP", "Proxy"]),
            ),
            max_size=2,
        )
    )
    created = draw(st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]))
    return {
        "metadata": {"namespace": "n", "name": name, "creationTimestamp": created},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress if spec["type"] == "LoadBalancer" else []}},
    }


@st.composite
def endpoints(draw: st.DrawFn) -> Document:
    address = draw(st.sampled_from(sorted(WHERE)))
    found: Document = {
        "addresses": [address],
        "conditions": {key: draw(st.sampled_from([True, False, None])) for key in ("ready", "serving", "terminating")},
    }
    if WHERE[address]:
        found["nodeName"] = WHERE[address]
    hints = draw(
        st.sampled_from([{}, {}, {"zone": "zone-a"}, {"zone": "zone-b"}, {"zone": "zone-a", "node": "node-1"}, {"node": "node-2"}])
    )
    if hints:
        found["hints"] = {
            **({"forZones": [{"name": hints["zone"]}]} if "zone" in hints else {}),
            **({"forNodes": [{"name": hints["node"]}]} if "node" in hints else {}),
        }
    return found


SLICES = st.builds(
    lambda name, of, family, ends, ports: {
        "metadata": {"namespace": "n", "name": name, "labels": {"kubernetes.io/service-name": of} if of else {}},
        "addressType": family,
        "endpoints": ends,
        "ports": ports,
    },
    st.sampled_from("xyz"), st.sampled_from([*NAMES, "missing", ""]), st.sampled_from(["IPv4", "IPv6", "FQDN"]),
    st.lists(endpoints(), max_size=4),
    st.lists(
        st.builds(
            lambda name, protocol, port: {"name": name, "protocol": protocol, "port": port},
            st.sampled_from(["", "p", "q"]), st.sampled_from(["TCP", "UDP"]), st.sampled_from([8080, 8081, 0, None]),
        ),
        max_size=3,
    ),
)  # fmt: skip


def documents(of: st.SearchStrategy[Document], at_most: int) -> st.SearchStrategy[list[Document]]:
    return st.lists(of, max_size=at_most, unique_by=lambda document: document["metadata"]["name"])


# The oracle.


def version(address: str) -> int:
    return ip_address(address).version


def frontends_of(service: Document) -> list[tuple[str, str, str, Document]]:
    """Kind, address ("" for a node port), port and the Service's port of everything at which a Service answers."""
    spec = service["spec"]
    if spec["type"] == "ExternalName" or not spec["clusterIPs"] or spec["clusterIPs"] == ["None"]:
        return []
    families = {version(address) for address in spec["clusterIPs"]}
    found = []
    for port in spec["ports"]:
        ingress = [row["ip"] for row in service["status"]["loadBalancer"]["ingress"] if row.get("ipMode", "VIP") == "VIP"]
        for kind, addresses in (("ClusterIP", spec["clusterIPs"]), ("LoadBalancer", ingress), ("ExternalIP", spec["externalIPs"])):
            found += [(kind, f"[{a}]" if version(a) == 6 else a, f"{port['port']}", port) for a in addresses if version(a) in families]
        if port["nodePort"]:
            found += [("NodePort", f"node{family}", f"{port['nodePort']}", port) for family in families]
    return found


def usable(service: Document, slices: list[Document], port: Document, family: int) -> list[tuple[str, Document]]:
    """The endpoints that offer a port, each once; of several that say different things about one the best counts."""
    found: dict[str, Document] = {}
    for each in sorted(slices, key=lambda s: s["metadata"]["name"]):
        if each["metadata"]["labels"].get("kubernetes.io/service-name") != service["metadata"]["name"]:
            continue
        if each["addressType"] != f"IPv{family}":
            continue
        for target in each["ports"]:
            if target["name"] != port["name"] or target["protocol"] != port["protocol"] or not target["port"]:
                continue
            for end in each["endpoints"]:
                address = end["addresses"][0]
                if version(address) != family:
                    continue
                text = f"[{address}]:{target['port']}" if family == 6 else f"{address}:{target['port']}"
                if text not in found or (says_ready(end), fading(end)) > (says_ready(found[text]), fading(found[text])):
                    found[text] = end
    return list(found.items())


def says_ready(end: Document) -> bool:
    return end["conditions"]["ready"] is not False


def fading(end: Document) -> bool:
    return end["conditions"]["serving"] is not False and end["conditions"]["terminating"] is True


def hinted(end: Document, key: str, name: str) -> bool:
    return name in {row["name"] for row in end.get("hints", {}).get(key, [])}


def chosen(service: Document, slices: list[Document], port: Document, family: int, node: str, policy: str) -> set[str] | str:
    ends = usable(service, slices, port, family)
    ready = [(text, end) for text, end in ends if says_ready(end) or service["spec"]["publishNotReadyAddresses"]]
    ending = [(text, end) for text, end in ends if fading(end)]
    if not ready and not ending:
        return "refused"
    if policy == "Local":
        mine = [text for text, end in ready if end.get("nodeName") == node] or [text for text, end in ending if end.get("nodeName") == node]
        return set(mine) or "dropped"
    if not ready:
        return {text for text, _ in ending}
    for key, name in (("forNodes", node), ("forZones", NODES[node])):
        if all(end.get("hints", {}).get(key) for _, end in ready) and any(hinted(end, key, name) for _, end in ready):
            return {text for text, end in ready if hinted(end, key, name)}
    return {text for text, _ in ready}


def oracle(all_services: list[Document], slices: list[Document], node: str, *, outside: bool) -> dict[str, set[str] | str]:
    """Place -> to which backends a client gets, or `refused` (nothing anywhere) or `dropped` (nothing here)."""
    found: dict[str, set[str] | str] = {}
    by_age = sorted(all_services, key=lambda s: (s["metadata"]["creationTimestamp"], s["metadata"]["name"]))
    claims = [(service, *frontend) for service in by_age for frontend in frontends_of(service)]
    for allocated in (True, False):  # nobody's external IP takes another's cluster IP
        for service, kind, address, number, port in claims:
            place = f"{address}:{number}/{port['protocol']}"
            if place in found or (kind == "ClusterIP") is not allocated:
                continue
            family = 6 if address.startswith("[") or address == "node6" else 4
            if kind == "ClusterIP":
                policy = service["spec"]["internalTrafficPolicy"]
            else:
                external_local = (
                    outside
                    and service["spec"]["externalTrafficPolicy"] == "Local"
                    and (service["spec"]["type"] in {"NodePort", "LoadBalancer"} or service["spec"]["externalIPs"])
                )
                policy = "Local" if external_local else "Cluster"
            found[place] = chosen(service, slices, port, family, node, policy)
    return found


def compiled(all_services: list[Document], slices: list[Document], node: str, ports: list[HostPort] | None = None) -> Kernel:
    inputs, kernel = Inputs(Vantage(node, NODES[node])), Kernel()
    inputs.take_services({records.key_of(each): records.service(each) for each in all_services})
    inputs.take_slices({records.key_of(each): records.endpoint_slice(each) for each in slices})
    inputs.take_host_ports(ports or [])
    kernel.apply(Compiler(inputs, KernelRows(), Limits()).plan())
    return kernel


def says(kernel: Kernel, *, outside: bool) -> dict[FrontendKey, set[str] | str]:
    return {key: answer(kernel, row, outside=outside) for key, row in kernel.frontends.items() if key.port}


@settings(deadline=None, max_examples=100)
@given(all_services=documents(services(), 3), slices=documents(SLICES, 3))
def test_every_client_on_every_node_gets_where_kubernetes_says(all_services: list[Document], slices: list[Document]) -> None:
    for node in NODES:
        kernel = compiled(all_services, slices, node)
        canonical(kernel)
        for outside in (False, True):
            wanted = {place_key(place): ends for place, ends in oracle(all_services, slices, node, outside=outside).items()}
            assert says(kernel, outside=outside) == wanted


@settings(deadline=None, max_examples=100)
@given(all_services=documents(services(), 3), slices=documents(SLICES, 3))
def test_nodes_agree_on_the_backend_of_a_client_outside(all_services: list[Document], slices: list[Document]) -> None:
    """Where their sets are the same: under policy Local, or with hints, they mean different backends."""
    rows: dict[tuple[FrontendKey, frozenset[str]], list[str]] = {}
    for node in NODES:
        kernel = compiled(all_services, slices, node)
        for key, row in kernel.frontends.items():
            if row.flags & FrontendFlag.MAGLEV:
                members = [socket_text(backend) for backend in kernel.maglev(row)]
                ends = answer(kernel, row, outside=True)
                assert set(members) == ends
                assert rows.setdefault((key, frozenset(ends)), members) == members


HOST_PORTS = st.lists(
    st.builds(
        HostPort,
        st.sampled_from([None, ip_address("192.0.2.1"), ip_address("2001:db8::1")]), st.sampled_from([80, 30001]), st.just(6),
        st.sampled_from([ip_address("10.1.0.1"), ip_address("10.1.0.2"), ip_address("fd00::1")]), st.sampled_from([8080, 8081]),
    ),
    max_size=3,
)  # fmt: skip
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("service"), services()),
        st.tuples(st.just("slice"), SLICES),
        st.tuples(st.just("no service"), st.sampled_from(NAMES)),
        st.tuples(st.just("no slice"), st.sampled_from("xyz")),
        st.tuples(st.just("node"), st.sampled_from(["zone-a", "zone-b"])),
        st.tuples(st.just("host ports"), HOST_PORTS),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("killed after rows"), st.integers(0, 12)),
        st.tuples(st.just("later"), st.none()),
    ),
    max_size=12,
)


class Killed(Exception):
    pass


class Edited:
    """A world that is edited, with the documents that it should be made of."""

    def __init__(self) -> None:
        self.world = World(Vantage("node-1", "zone-a"))
        self.services: dict[str, Document] = {}
        self.slices: dict[str, Document] = {}
        self.host_ports: list[HostPort] = []
        self.zone = "zone-a"
        self.lives: int | None = None

    def edit(self, kind: str, what: Any) -> None:
        metadata: Document = {"namespace": "n", "name": what}
        match kind:
            case "service":
                self.services[what["metadata"]["name"]] = what
                self.world.put(what)
            case "slice":
                self.slices[what["metadata"]["name"]] = what
                self.world.put(what)
            case "no service":
                self.services.pop(what, None)
                self.world.remove({"metadata": metadata})
            case "no slice":
                self.slices.pop(what, None)
                self.world.remove({"metadata": metadata, "addressType": ""})
            case "node":
                self.zone = what
                self.world.inputs.move(Vantage("node-1", what))
            case "host ports":
                self.host_ports = what
                self.world.inputs.take_host_ports(what)
            case "restart":
                self.world.restart()
            case "killed after rows":
                self.lives = what

    def fresh(self) -> Kernel:
        other = Edited()
        for document in (*self.services.values(), *self.slices.values()):
            other.world.put(document)
        other.world.inputs.take_host_ports(self.host_ports)
        other.world.inputs.move(Vantage("node-1", self.zone))
        other.world.sync()
        return other.world.kernel


def ends_of(kernel: Kernel) -> dict[FrontendKey, set[Any]]:
    found = {}
    for key, row in kernel.frontends.items():
        found[key] = {*kernel.group(row.service_id, row.count), *kernel.group(row.outside_id, row.outside_count)}
    return found


def watch(edited: Edited, wanted: Kernel) -> Callable[[], None]:
    """What has to hold at every moment on the way from what stands to `wanted`; and, if so told, the end of the process."""
    kernel = edited.world.kernel
    before, after = ends_of(kernel), ends_of(wanted)

    def moment() -> None:
        for key, row in kernel.frontends.items():
            allowed = before.get(key, set()) | after.get(key, set())
            for number, count in ((row.service_id, row.count), (row.outside_id, row.outside_count)):
                # While slots are rewritten one backend may stand in two of them.
                assert set(kernel.group(number, count)) <= allowed
            if row.flags & FrontendFlag.MAGLEV:
                assert set(kernel.maglev(row)) <= allowed
            if row.flags & FrontendFlag.SOURCE_RANGES:
                assert any(each.service_id == row.service_id for each in kernel.tables["source_ranges"])
        if edited.lives is not None:
            edited.lives -= 1
            if edited.lives < 0:
                raise Killed

    return moment


@settings(deadline=None, max_examples=150)
@given(edits=EDITS)
def test_after_every_edit_the_tables_are_what_a_fresh_compilation_gives_and_sound_at_every_moment(edits: list[tuple[str, Any]]) -> None:
    edited = Edited()
    world, kernel = edited.world, edited.world.kernel
    for kind, what in edits:
        edited.edit(kind, what)
        if kind in {"later", "killed after rows"}:
            continue  # with the next edit in one plan
        wanted = edited.fresh()
        kernel.moment = watch(edited, wanted)
        try:
            world.sync()
        except Killed:
            edited.lives = None
            world.restart()
            world.sync()
        edited.lives = None
        assert canonical(kernel) == canonical(wanted)
        world.sync()
        assert kernel.written == []


@settings(deadline=None, max_examples=100)
@given(edits=EDITS)
def test_a_number_means_one_thing_as_long_as_a_row_with_it_stands(edits: list[tuple[str, Any]]) -> None:
    edited = Edited()
    kernel = edited.world.kernel
    means: dict[int, Any] = {}

    def moment() -> None:
        rows = kernel.tables["backends"]
        for number in [number for number in means if number not in rows]:
            del means[number]
        for number, backend in rows.items():
            assert means.setdefault(number, backend) == backend

    kernel.moment = moment
    for kind, what in edits:
        edited.edit(kind, what)
        edited.lives = None
        edited.world.sync()


def test_the_oracle_itself_knows_what_the_documentation_says() -> None:
    """One Service by hand, so that oracle and compiler cannot be wrong together."""
    service = {
        "metadata": {"namespace": "n", "name": "a", "creationTimestamp": ""},
        "spec": {
            "type": "NodePort", "clusterIPs": ["10.96.0.1"], "externalIPs": [], "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Local", "publishNotReadyAddresses": False,
            "ports": [{"name": "p", "protocol": "TCP", "port": 80, "nodePort": 30001}],
        },
        "status": {"loadBalancer": {"ingress": []}},
    }  # fmt: skip
    unsaid = {"ready": None, "serving": None, "terminating": None}
    piece = {
        "metadata": {"namespace": "n", "name": "x", "labels": {"kubernetes.io/service-name": "a"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.1.0.1"], "nodeName": "node-1", "conditions": unsaid},
            {"addresses": ["10.1.0.2"], "nodeName": "node-2", "conditions": {**unsaid, "ready": False, "terminating": True}},
        ],
        "ports": [{"name": "p", "protocol": "TCP", "port": 8080}],
    }
    one = {"10.1.0.1:8080"}
    assert oracle([service], [piece], "node-3", outside=False) == {"10.96.0.1:80/TCP": one, "node4:30001/TCP": one}
    assert oracle([service], [piece], "node-3", outside=True) == {"10.96.0.1:80/TCP": one, "node4:30001/TCP": "dropped"}
    assert oracle([service], [piece], "node-2", outside=True)["node4:30001/TCP"] == {"10.1.0.2:8080"}
    assert oracle([service], [], "node-1", outside=True)["node4:30001/TCP"] == "refused"
