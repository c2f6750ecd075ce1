"""ADD, DEL, CHECK, STATUS and GC: what the node has for each pod, made, looked at and taken away.

Invariants: the intent is in the store before anything exists, and the record leaves it after everything is gone, so a killed agent
leaves nothing that the next start, ADD, DEL or GC does not find; one attachment is worked on by one thread at a time;
an ADD that fails takes back all that it made. A second ADD of the same attachment in the same namespace answers the
same result when everything is in place, and makes it anew when it is not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from agent.cni.ipam import Allocator, UsedUpError
from agent.cni.portmappings import conflict, host_ports
from agent.cni.protocol import Attachment, CniError, Code, Command, Request, Result, encode_result
from agent.cni.store import Record, State, Store, used_ids
from agent.datapath import links, netns, podnet
from agent.datapath.abi import Endpoint, IPAddress
from agent.datapath.errors import DatapathError
from agent.datapath.netlink import Netlink
from agent.services.hostports import HostPort

log = logging.getLogger(__name__)


PublishHostPorts = Callable[[Collection[HostPort]], None]
"""Makes these the node's host ports, all of them, before it returns. Raises `DatapathError`, `OSError`."""


class EndpointRows(Protocol):
    """The `endpoints` table."""

    def get(self, key: IPAddress, /) -> Endpoint | None: ...
    def put(self, key: IPAddress, value: Endpoint, /) -> None: ...
    def items(self) -> Iterator[tuple[IPAddress, Endpoint]]: ...


class PodDatapath(Protocol):
    """What of `agent.datapath.programs.Datapath` pods need."""

    @property
    def endpoints(self) -> EndpointRows: ...
    def attach_pod(self, ifname: str, ifindex: int) -> None: ...
    def detach_pod(self, ifname: str) -> None: ...
    def attached(self) -> frozenset[str]: ...
    def remove_endpoint_state(self, address: IPAddress) -> None: ...


class Gate(Protocol):
    """What of `agent.cni.policygate.PolicyGate` pods need: they tell of their addresses, and wait for what judges them."""

    def enter(self, record: Record, uid: str = "", /) -> None: ...
    def admit(self, record: Record, /) -> None: ...
    def leave(self, record: Record, /) -> None: ...
    def adopt(self, addresses: Iterable[IPAddress], /) -> None: ...
    def give_up(self, addresses: Iterable[IPAddress], /) -> None: ...


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds: `monotonic` for durations, `wall` for what outlives the process."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class _Locks:
    """A lock per attachment, there while somebody holds or awaits it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[Attachment, tuple[threading.Lock, int]] = {}

    @contextlib.contextmanager
    def hold(self, attachment: Attachment) -> Iterator[None]:
        with self._guard:
            lock, users = self._held.get(attachment, (threading.Lock(), 0))
            self._held[attachment] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._held[attachment]
                if users == 1:
                    del self._held[attachment]
                else:
                    self._held[attachment] = (lock, users - 1)


class PodNetwork:
    """The pods of this node. `perform` may be called from any thread."""

    def __init__(
        self,
        store: Store,
        allocator: Allocator,
        datapath: PodDatapath,
        nl: Netlink,
        *,
        mtu: int,
        gate: Gate,
        clock: Clock = Clock(),
        publish: PublishHostPorts = lambda _ports: None,
    ) -> None:
        self._store = store
        self._allocator = allocator
        self._datapath = datapath
        self._nl = nl
        self._mtu = mtu
        self._gate = gate
        self._clock = clock
        self._publish = publish
        self._locks = _Locks()
        self._allocating = threading.Lock()
        self._claiming = threading.Lock()
        self._publishing = threading.Lock()
        records = store.all()
        self._next_id = max(used_ids(records), default=0) + 1
        now, wall = clock.monotonic(), clock.wall()
        for record in records:
            allocator.reserve(record.addresses)
        allocator.rest({address: now - (wall - at) for address, at in store.released().items()})

    @property
    def allocator(self) -> Allocator:
        """The node's addresses."""
        return self._allocator

    def records(self) -> list[Record]:
        """Every attachment that is known."""
        return self._store.all()

    @staticmethod
    def link_name(record: Record) -> str:
        """The host end of an attachment."""
        return _plan(record).host_name

    def perform(self, request: Request) -> dict[str, Any] | None:
        """Do what was asked; the JSON object to print, None for nothing. Raises `CniError`."""
        try:
            match request.command:
                case Command.ADD:
                    return self._add(request)
                case Command.DEL:
                    self._delete(request)
                case Command.CHECK:
                    self._check(request)
                case Command.GC:
                    self._collect(request)
                case Command.STATUS:
                    pass  # who gets here serves pods
        except CniError as error:
            error.version = request.version
            raise
        return None

    def restore(self) -> None:
        """Bring store, kernel and datapath into agreement after a start.

        What was begun but not finished and what belongs to a namespace that is gone is taken away; the rest is attached again
        (which adopts what is pinned). What nobody knows of is removed, and the host ports are those of the pods that are there.
        """
        for record in self._store.all():
            with self._locks.hold(record.attachment):
                if record.state is State.INTENT or not _alive(record):
                    log.info(
                        "a pod is gone: its address is released", extra={"pod": record.pod, "addresses": list(map(str, record.addresses))}
                    )
                    self._undo(record)
                else:
                    self._gate.enter(record)
                    self._reattach(record)
        self._remove_strangers()
        try:
            self._publish_host_ports()
        except (OSError, DatapathError) as error:
            # Whoever keeps the tables has heard of them, and tries again with all else.
            log.error("host ports cannot be written", extra={"error": str(error)})

    def sweep(self) -> int:
        """Release what belongs to namespaces that are gone (their DEL never came); how many attachments."""
        count = 0
        for record in self._store.all():
            if record.state is State.READY and not _alive(record):
                with self._locks.hold(record.attachment):
                    if self._store.get(record.attachment) == record:
                        self._undo(record)
                        count += 1
        return count

    def _add(self, request: Request) -> dict[str, Any]:
        attachment = _attachment_of(request)
        with self._locks.hold(attachment), _namespace(request.netns) as namespace:
            identity = netns.identify(namespace)
            known = self._store.get(attachment)
            if known is not None:
                if known.port_mappings == request.port_mappings and self._is_complete(known, namespace, identity):
                    return self._result(request, known)
                self._undo(known)
            record = self._intend(request, attachment, identity)
            try:
                # Its policy is looked for while its devices are made.
                self._gate.enter(record, request.args.get("K8S_POD_UID", ""))
                self._make(record, namespace)
            except BaseException as error:
                self._undo_quietly(record)
                if isinstance(error, OSError | DatapathError):
                    raise CniError(Code.IO_FAILURE, f"the pod's network cannot be made: {_words(error)}") from error
                raise
            return self._result(request, record)

    def _is_complete(self, record: Record, namespace: int, identity: netns.NamespaceId) -> bool:
        if record.state is not State.READY or record.netns_id != (identity.device, identity.inode):
            return False
        return not podnet.problems(self._nl, namespace, _plan(record))

    def _intend(self, request: Request, attachment: Attachment, identity: netns.NamespaceId) -> Record:
        addresses = self._allocate()
        with self._allocating:
            number, self._next_id = self._next_id, self._next_id + 1
        record = Record(
            attachment=attachment,
            state=State.INTENT,
            addresses=addresses,
            netns=request.netns,
            netns_id=(identity.device, identity.inode),
            mtu=self._mtu,
            id=number,
            pod=request.pod,
            version=request.version,
            port_mappings=request.port_mappings,
        )
        try:
            self._claim(record)
        except BaseException:
            self._release(addresses)
            raise
        return record

    def _claim(self, record: Record) -> None:
        """Write an intent down, unless one of its host ports cannot be had or is another pod's."""
        try:
            host_ports(record.port_mappings, record.addresses)
        except ValueError as error:
            raise CniError(Code.INVALID_CONFIG, str(error)) from error
        for last in (False, True):
            with self._claiming:
                taken = self._taken_port(record)
                if not taken:
                    self._write_down(record)
                    return
            if last or not self.sweep():
                raise CniError(Code.TRY_AGAIN_LATER, taken, "delete one of the two pods, or give it another hostPort")

    def _write_down(self, record: Record) -> None:
        try:
            self._store.put(record)
        except OSError as error:
            raise CniError(
                Code.IO_FAILURE, f"the pod's address cannot be written down ({error.strerror}): free some space below /var/lib/anetd"
            ) from error

    def _taken_port(self, record: Record) -> str:
        for other in self._store.all():
            for mine in record.port_mappings:
                if other.attachment != record.attachment and any(conflict(mine, theirs) for theirs in other.port_mappings):
                    return f"hostPort {mine}: pod {other.pod or other.attachment.container_id} of this node has it"
        return ""

    def _publish_host_ports(self) -> None:
        with self._publishing:
            ready = [record for record in self._store.all() if record.state is State.READY]
            self._publish([port for record in ready for port in host_ports(record.port_mappings, record.addresses)])

    def _allocate(self) -> tuple[IPAddress, ...]:
        for last in (False, True):
            try:
                with self._allocating:
                    return self._allocator.allocate(self._clock.monotonic())
            except UsedUpError as error:
                if last or not self.sweep():
                    raise CniError(Code.ADDRESSES_USED_UP, str(error)) from error
        raise AssertionError("unreachable")

    def _release(self, addresses: Iterable[IPAddress]) -> None:
        with self._allocating:
            self._allocator.release(addresses, self._clock.monotonic())

    def _make(self, record: Record, namespace: int) -> None:
        pod = _plan(record)
        index = podnet.create(self._nl, namespace, pod)
        self._datapath.attach_pod(pod.host_name, index)
        self._gate.admit(record)
        self._write_endpoint(record, pod, index)
        podnet.connect_host_end(self._nl, index, pod)
        podnet.connect_pod_end(namespace, pod)
        self._store.put(record.ready())
        if record.port_mappings:
            self._publish_host_ports()

    def _write_endpoint(self, record: Record, pod: podnet.PodLink, index: int) -> None:
        row = Endpoint(ifindex=index, id=record.id, pod_mac=pod.pod_mac, host_mac=pod.host_mac)
        for address in record.addresses:
            self._datapath.endpoints.put(address, row)

    def _reattach(self, record: Record) -> None:
        pod = _plan(record)
        link = links.find(self._nl, pod.host_name)
        if link is None:
            log.warning(
                "a pod's host end is gone; the pod has no network until it is made anew", extra={"pod": record.pod, "link": pod.host_name}
            )
            return
        self._datapath.attach_pod(pod.host_name, link.index)
        self._write_endpoint(record, pod, link.index)
        podnet.connect_host_end(self._nl, link.index, pod)

    def _remove_strangers(self) -> None:
        """Take away what no record knows of, but for pods whose records were lost with the store's directory: they run on."""
        records = self._store.all()
        names = {_plan(record).host_name for record in records}
        addresses = {address for record in records for address in record.addresses}
        rows = list(self._datapath.endpoints.items())
        for link in links.list_pod_links(self._nl):
            held = [address for address, row in rows if row.ifindex == link.index and address not in addresses]
            if link.name in names:
                continue
            if not (held and link.up):
                links.delete(self._nl, link.name)
                continue
            log.warning(
                "a pod runs of which nothing is written down; it is left alone",
                extra={"link": link.name, "addresses": list(map(str, held))},
            )
            self._gate.adopt(held)
            self._datapath.attach_pod(link.name, link.index)
            self._allocator.reserve(held)
            self._next_id = max([self._next_id, *(row.id + 1 for _, row in rows)])
            names.add(link.name)
            addresses.update(held)
        for name in self._datapath.attached() - names:
            self._datapath.detach_pod(name)
        for address, _ in rows:
            if address not in addresses:
                self._datapath.remove_endpoint_state(address)

    def _remove_unrecorded(self, attachment: Attachment) -> None:
        name = links.pod_link_name(attachment.container_id, attachment.ifname)
        link = links.find(self._nl, name)
        self._remove_link(name)
        held = [address for address, row in self._datapath.endpoints.items() if link is not None and row.ifindex == link.index]
        for address in held:
            self._datapath.remove_endpoint_state(address)
        self._gate.give_up(held)
        self._release(held)

    def _delete(self, request: Request) -> None:
        attachment = _attachment_of(request)
        with self._locks.hold(attachment):
            record = self._store.get(attachment)
            try:
                if record is not None:
                    self._undo(record)
                else:
                    self._remove_unrecorded(attachment)
            except (OSError, DatapathError) as error:
                raise CniError(Code.IO_FAILURE, f"the pod's network cannot be taken away: {_words(error)}") from error

    def _remove_link(self, name: str) -> None:
        links.delete(self._nl, name)
        self._datapath.detach_pod(name)

    def _undo(self, record: Record) -> None:
        # The link goes first: nothing may pass it once its programs or its row are gone.
        self._remove_link(_plan(record).host_name)
        for address in record.addresses:
            self._datapath.remove_endpoint_state(address)
        self._gate.leave(record)
        self._store.remove(record.attachment)
        try:
            if record.port_mappings:
                # Before the address is anybody else's, no host port may lead to it.
                self._publish_host_ports()
        finally:
            self._release(record.addresses)

    def _undo_quietly(self, record: Record) -> None:
        try:
            self._undo(record)
        except (OSError, DatapathError) as error:
            # The record stays: the runtime's DEL, the next ADD or the next start takes up where this ended.
            log.warning("a failed ADD could not be taken back at once", extra={"pod": record.pod, "error": str(error)})

    def _check(self, request: Request) -> None:
        attachment = _attachment_of(request)
        with self._locks.hold(attachment), _namespace(request.netns) as namespace:
            record = self._store.get(attachment)
            if record is None or record.state is not State.READY:
                raise CniError(Code.UNKNOWN_CONTAINER, f"{attachment.ifname} of container {attachment.container_id} was never added")
            pod = _plan(record)
            wrong = podnet.problems(self._nl, namespace, pod)
            if pod.host_name not in self._datapath.attached():
                wrong.append(f"no programs are attached to {pod.host_name}")
            wrong += [
                f"no row of the endpoints table has {address}"
                for address in record.addresses
                if self._datapath.endpoints.get(address) is None
            ]
            if record.port_mappings != request.port_mappings:
                given, asked = (", ".join(map(str, ports)) or "none" for ports in (record.port_mappings, request.port_mappings))
                wrong.append(f"the pod was given the host ports {given}, and CHECK was asked for {asked}")
            if wrong:
                raise CniError(Code.CHECK_FAILED, "; ".join(wrong), "delete the pod to have its network made anew")

    def _collect(self, request: Request) -> None:
        valid = set(request.valid_attachments)
        for record in self._store.all():
            if record.attachment not in valid:
                with self._locks.hold(record.attachment):
                    if self._store.get(record.attachment) == record:
                        self._undo(record)

    def _result(self, request: Request, record: Record) -> dict[str, Any]:
        pod = _plan(record)
        result = Result(pod.host_name, pod.host_mac, pod.ifname, pod.pod_mac, request.netns, record.addresses, podnet.GATEWAYS, record.mtu)
        return encode_result(result, request.version)


def _plan(record: Record) -> podnet.PodLink:
    return podnet.plan_pod_link(record.attachment.container_id, record.attachment.ifname, record.addresses, record.mtu)


def _alive(record: Record) -> bool:
    found = netns.identify_path(record.netns)
    return found is not None and (found.device, found.inode) == record.netns_id


def _words(error: OSError | DatapathError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _attachment_of(request: Request) -> Attachment:
    if request.attachment is None:
        raise CniError(Code.INTERNAL, f"{request.command} came without an attachment")
    return request.attachment


@contextlib.contextmanager
def _namespace(path: str) -> Iterator[int]:
    try:
        fd = netns.open_namespace(path)
    except OSError as error:
        raise CniError(Code.UNKNOWN_CONTAINER, error.strerror or str(error)) from error
    try:
        yield fd
    finally:
        os.close(fd)
