"""Services, slices and the kernel's tables for tests: documents as the API server gives them, and tables that remember every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agent.datapath.abi import Backend, Frontend, FrontendFlag, FrontendKey, FrontendScope, MaglevRow, SlotKey, SourceRange
from agent.reconcile.applier import apply
from agent.reconcile.compiler import Compiler, Plan
from agent.reconcile.tables import KernelRows, Limits
from agent.services.inputs import Inputs
from agent.services.vantage import Vantage
from agent.watch import records

Document = dict[str, Any]
HERE = Vantage("here", "zone-1")
NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}


def service(name: str, addresses: Iterable[str] = ("10.96.0.1",), ports: Iterable[Document] = ({"port": 80},), **spec: Any) -> Document:
    """`created`, `uid`, `ingress` and `annotations` go where they belong, everything else into the spec."""
    listed = list(addresses)
    metadata = {
        "namespace": "n",
        "name": name,
        "creationTimestamp": spec.pop("created", "2026-01-01T00:00:00Z"),
        "uid": spec.pop("uid", ""),
    }
    metadata["annotations"] = spec.pop("annotations", {})
    ingress = spec.pop("ingress", [])
    if "/" in name:
        metadata["namespace"], _, metadata["name"] = name.partition("/")
    return {
        "metadata": metadata,
        "spec": {"clusterIP": listed[0] if listed else "None", "clusterIPs": listed or ["None"], "ports": list(ports), **spec},
        "status": {"loadBalancer": {"ingress": ingress}},
    }


def end(address: str, node: str = "there", zones: Iterable[str] = (), nodes: Iterable[str] = (), **conditions: bool | None) -> Document:
    """An endpoint."""
    hints: Document = {}
    if zones:
        hints["forZones"] = [{"name": zone} for zone in zones]
    if nodes:
        hints["forNodes"] = [{"name": each} for each in nodes]
    return {"addresses": [address], "conditions": conditions, "nodeName": node, **({"hints": hints} if hints else {})}


def piece(name: str, of: str, ends: Iterable[Document], ports: Iterable[Document] = ({"port": 8080},), family: str = "IPv4") -> Document:
    """A slice."""
    namespace, _, bare = of.rpartition("/")
    return {
        "metadata": {"namespace": namespace or "n", "name": name, "labels": {"kubernetes.io/service-name": bare}},
        "addressType": family,
        "endpoints": list(ends),
        "ports": [{"name": "", "protocol": "TCP", **port} for port in ports],
    }


class Kernel:
    """The five tables. `moment` is called after every row that changes: a packet may come by then."""

    def __init__(self, moment: Callable[[], None] = lambda: None) -> None:
        self.tables: dict[str, dict[Any, Any]] = {
            name: {} for name in ("frontends", "backend_slots", "backends", "maglev", "source_ranges")
        }
        self.moment = moment
        self.written: list[tuple[str, str, Any]] = []

    def table(self, name: str) -> _Table:
        return _Table(self, name)

    def apply(self, plan: Plan) -> None:
        self.written = []
        apply(plan.steps, self.table)

    def found(self) -> KernelRows:
        tables = self.tables
        return KernelRows(
            dict(tables["frontends"]),
            dict(tables["backend_slots"]),
            dict(tables["backends"]),
            {group: tuple(sorted(set(row))) for group, row in tables["maglev"].items()},
            list(tables["source_ranges"]),
        )

    @property
    def frontends(self) -> dict[FrontendKey, Frontend]:
        return self.tables["frontends"]

    def group(self, number: int, count: int) -> list[Backend]:
        """The backends of a group; every reference has to lead somewhere."""
        return [self.tables["backends"][self.tables["backend_slots"][SlotKey(number, slot)]] for slot in range(count)]

    def maglev(self, row: Frontend) -> list[Backend]:
        members: MaglevRow = self.tables["maglev"][row.outside_id or row.service_id]
        return [self.tables["backends"][number] for number in members]


class _Table:
    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel, self.name = kernel, name
        self.rows = kernel.tables[name]

    def put_many(self, rows: Mapping[Any, Any]) -> None:
        for key, row in rows.items():
            self.kernel.written.append(("put", self.name, key))
            self.rows[key] = row
            self.kernel.moment()

    def delete_many(self, keys: Iterable[Any]) -> int:
        for key in keys:
            self.kernel.written.append(("delete", self.name, key))
            del self.rows[key]
            self.kernel.moment()
        return 0


class World:
    """Objects, a compiler and a kernel: what is put is in the tables after `sync`."""

    def __init__(self, here: Vantage = HERE, limits: Limits | None = None) -> None:
        self.kernel = Kernel()
        self.limits = limits or Limits()
        self.inputs = Inputs(here)
        self.compiler = Compiler(self.inputs, KernelRows(), self.limits)

    def put(self, *documents: Document) -> None:
        for document in documents:
            key = records.key_of(document)
            if "addressType" in document:
                self.inputs.take_slices({key: records.endpoint_slice(document)})
            else:
                self.inputs.take_services({key: records.service(document)})

    def remove(self, *documents: Document) -> None:
        for document in documents:
            key = records.key_of(document)
            (self.inputs.take_slices if "addressType" in document else self.inputs.take_services)({key: None})

    def sync(self, *documents: Document) -> Plan:
        self.put(*documents)
        plan = self.compiler.plan()
        self.kernel.apply(plan)
        return plan

    def restart(self) -> None:
        """A new process, which finds the tables as they are."""
        self.compiler = Compiler(self.inputs, self.kernel.found(), self.limits)

    def row(self, place: str) -> Frontend | None:
        return self.kernel.frontends.get(place_key(place))

    def inside(self, place: str) -> set[str] | str:
        """Where a client of the cluster gets: to one of these, or `refused` or `dropped`."""
        row = self.row(place)
        assert row is not None, place
        return answer(self.kernel, row, outside=False)

    def outside(self, place: str) -> set[str] | str:
        row = self.row(place)
        assert row is not None, place
        return answer(self.kernel, row, outside=True)


def place_key(place: str) -> FrontendKey:
    """`10.96.0.1:80/TCP`, `[fd96::1]:80/UDP`, `node4:30000/TCP`, `host6:80/TCP`; `10.96.0.1` is the address' marker."""
    from ipaddress import ip_address

    scopes = {"node4": ("0.0.0.0", 1), "node6": ("::", 1), "host4": ("0.0.0.0", 2), "host6": ("::", 2)}
    if "/" not in place:
        return FrontendKey(ip_address(place), 0, 0)
    text, _, protocol = place.partition("/")
    address, _, port = text.rpartition(":")
    where, scope = scopes.get(address, (address.strip("[]"), 0))
    return FrontendKey(ip_address(where), int(port), NUMBERS[protocol], FrontendScope(scope))


def answer(kernel: Kernel, row: Frontend, *, outside: bool) -> set[str] | str:
    """What the programs make of a frontend for a client of either kind."""
    apart = outside and row.outside_id
    number, count = (row.outside_id, row.outside_count) if apart else (row.service_id, row.count)
    backends = kernel.group(number, count)
    assert len(backends) == len(set(backends))
    if not backends:
        return "dropped" if row.flags & (FrontendFlag.DROP_OUTSIDE if outside else FrontendFlag.DROP_INSIDE) else "refused"
    return {socket_text(backend) for backend in backends}


def socket_text(backend: Backend) -> str:
    return f"[{backend.address}]:{backend.port}" if backend.address.version == 6 else f"{backend.address}:{backend.port}"


def canonical(kernel: Kernel) -> dict[Any, Any]:
    """What the tables say, without numbers and without the order of slots; fails on a row that hangs loose."""
    found: dict[Any, Any] = {}
    groups: dict[int, int] = {}
    ranges: set[SourceRange] = set()
    balanced: set[int] = set()
    for key, row in kernel.frontends.items():
        if key.port == 0:
            found[key] = row
            continue
        assert row.service_id
        ends = []
        for number, count in ((row.service_id, row.count), (row.outside_id, row.outside_count)):
            if number:
                assert groups.setdefault(number, count) == count
            backends = kernel.group(number, count)
            assert len(set(backends)) == len(backends)
            assert {backend.protocol for backend in backends} <= {key.protocol}
            ends.append(frozenset(backends))
        guards = frozenset(each.network for each in kernel.tables["source_ranges"] if each.service_id == row.service_id)
        if row.flags & FrontendFlag.SOURCE_RANGES:
            assert guards
            ranges |= {each for each in kernel.tables["source_ranges"] if each.service_id == row.service_id}
        maglev = None
        if row.flags & FrontendFlag.MAGLEV:
            maglev = tuple(kernel.maglev(row))
            balanced.add(row.outside_id or row.service_id)
        found[key] = (
            row.flags,
            row.affinity_timeout,
            *ends,
            bool(row.outside_id),
            maglev,
            guards if row.flags & FrontendFlag.SOURCE_RANGES else None,
        )
    slots = {SlotKey(number, slot) for number, count in groups.items() for slot in range(count)}
    assert kernel.tables["backend_slots"].keys() == slots
    assert kernel.tables["backends"].keys() == {kernel.tables["backend_slots"][slot] for slot in slots}
    assert len(slots) == len(kernel.tables["backends"])  # an id belongs to one group
    assert kernel.tables["maglev"].keys() == balanced
    assert kernel.tables["source_ranges"].keys() == ranges
    return found
