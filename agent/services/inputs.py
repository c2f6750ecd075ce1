"""What the tables of Services follow from, with the changes taken up since they were last computed. Pure but for its own state.

Slices may come before their Service, name one that does not exist, or move from one to another: each is kept under the Service that it
names, and both the old and the new one are looked at again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from agent.datapath.abi import FrontendKey
from agent.services.frontends import resolve_host_port
from agent.services.hostports import HostPort
from agent.services.vantage import Vantage
from agent.watch.records import EndpointSlice, Key, Service

Claimant = Key | HostPort
"""Who wants frontends: a Service, by its key, or a host port."""
Rank = tuple[str, str, str]
"""Of two that want the same frontend the lower has it."""


class Inputs:
    """Not for two threads at a time."""

    def __init__(self, here: Vantage) -> None:
        self.here = here
        self.services: dict[Key, Service] = {}
        self.host_ports: Mapping[FrontendKey, HostPort] = {}
        self.changed: set[Claimant] = set()
        self.triggers: list[float] = []
        """Times of what slices told of since this was emptied, in seconds since 1970."""
        self._slices: dict[Key, tuple[EndpointSlice, ...]] = {}
        self._service_of: dict[Key, Key] = {}

    def slices(self, service: Key) -> tuple[EndpointSlice, ...]:
        """The slices that name a Service, by name."""
        return self._slices.get(service, ())

    def take_services(self, changes: Mapping[Key, Service | None]) -> None:
        """Services that are new, changed, or (None) gone."""
        for key, service in changes.items():
            if service is None:
                self.services.pop(key, None)
            else:
                self.services[key] = service
            self.changed.add(key)

    def take_slices(self, changes: Mapping[Key, EndpointSlice | None]) -> None:
        """Slices that are new, changed, or (None) gone."""
        for key, each in changes.items():
            old = self._service_of.pop(key, None)
            if old is not None:
                self._without(old, key)
            if each is not None and each.service.name:
                self._service_of[key] = each.service
                members = (*self._slices.get(each.service, ()), each)
                self._slices[each.service] = tuple(sorted(members, key=lambda one: one.key.name)) if len(members) > 1 else members
                self.changed.add(each.service)
                if each.triggered is not None:
                    self.triggers.append(each.triggered)

    def take_host_ports(self, ports: Collection[HostPort]) -> None:
        """All host ports there are. Of two for the same frontend the later one is meant: the other's pod is on its way out."""
        now = {wanted.key: port for port in ports for wanted in resolve_host_port(port).frontends}
        self.changed |= set(now.values()) ^ set(self.host_ports.values())
        self.host_ports = now

    def move(self, here: Vantage) -> None:
        """This node or the others changed: look again at the Services that may come out differently."""
        old, self.here = self.here, here
        if (old.node, old.zone) != (here.node, here.zone):
            self.changed.update(self.services)
        elif old != here:
            self.changed.update(key for key, each in self.services.items() if each.external_ips or each.load_balancer_ips)

    def everyone(self) -> Iterator[Claimant]:
        """Every Service and every host port."""
        yield from self.services
        yield from self.host_ports.values()

    def has(self, claimant: Claimant) -> bool:
        """Whether it exists."""
        return claimant in self.services if isinstance(claimant, Key) else claimant in self.host_ports.values()

    def rank(self, claimant: Claimant) -> Rank:
        """The older Service first, then by name; host ports, which do not say when they came, last."""
        if isinstance(claimant, HostPort):
            return "~", str(claimant.pod_address), f"{claimant.host_ip} {claimant.host_port} {claimant.protocol} {claimant.pod_port}"
        service = self.services.get(claimant)
        return service.created if service is not None else "", claimant.namespace, claimant.name

    def _without(self, service: Key, key: Key) -> None:
        rest = tuple(each for each in self._slices[service] if each.key != key)
        if rest:
            self._slices[service] = rest
        else:
            del self._slices[service]
        self.changed.add(service)
