"""The ends of a question about policies: a pod, an address or a Service, out of what was typed. Pure.

A Service stands for its backends, since policies are judged after the translation: each with the port that the Service's port leads to
there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from agent.datapath.abi import IPAddress
from agent.policy.objects import Objects, is_peer
from agent.policy.terms import port_numbers
from agent.policy.words import protocol_name
from agent.watch.policy_records import Pod
from agent.watch.records import EndpointSlice, Key, Service

SERVICE_PREFIX, POD_PREFIX = "service:", "pod:"


class PartyError(ValueError):
    """There is no such end; the text says what there is instead, or what to write."""


@dataclass(frozen=True, slots=True)
class Party:
    """An address, whose pod it is, and the node that it is on (of a pod) or of; port 0: none was asked for."""

    address: IPAddress
    pod: Pod | None = None
    node: str = ""
    port: int = 0

    def __str__(self) -> str:
        return str(self.pod.key) if self.pod is not None else f"node {self.node} ({self.address})" if self.node else str(self.address)

    @property
    def is_peer(self) -> bool:
        """Whether policies see a pod there."""
        return self.pod is not None and is_peer(self.pod)


def parties(objects: Objects, text: str) -> list[Party]:
    """The ends that NAMESPACE/POD or ADDRESS means, one an address. Raises `PartyError`."""
    if "/" not in text:
        return [_at(objects, _address(text))]
    key = _key(text.removeprefix(POD_PREFIX))
    pod = objects.pods.get(key)
    if pod is None:
        raise PartyError(f"there is no pod {key}")
    if not pod.addresses:
        raise PartyError(f"the pod {key} has no address yet")
    return [Party(address, pod, pod.node) for address in pod.addresses]


def targets(objects: Objects, text: str, protocol: int, port: str) -> list[Party]:
    """What NAMESPACE/POD, ADDRESS or NAMESPACE/SERVICE means as the end that is sent to, with the port there ("": none, 0). A pod is
    meant before a Service of its name; `service:` before it says otherwise. Raises `PartyError`."""
    service = _service(objects, text)
    if service is not None:
        return list(_backends(objects, service, protocol, port))
    found = parties(objects, text)
    return [Party(each.address, each.pod, each.node, _port(each, protocol, port)) for each in found]


def _service(objects: Objects, text: str) -> Service | None:
    if "/" not in text:
        address = _address(text)
        of = objects.services.values()
        return next((s for s in of if address in (*s.addresses, *s.external_ips, *s.load_balancer_ips)), None)
    key = _key(text.removeprefix(SERVICE_PREFIX).removeprefix(POD_PREFIX))
    if text.startswith(POD_PREFIX) or (key in objects.pods and not text.startswith(SERVICE_PREFIX)):
        return None
    if key not in objects.services:
        raise PartyError(
            f"there is neither a pod nor a Service {key}" if not text.startswith(SERVICE_PREFIX) else f"there is no Service {key}"
        )
    return objects.services[key]


def _backends(objects: Objects, service: Service, protocol: int, port: str) -> Iterator[Party]:
    slices = [each for each in objects.slices.values() if each.service == service.key]
    wanted = None
    if service.addresses:
        said = [each for each in service.ports if each.protocol == protocol and port in {str(each.port), each.name}]
        if not said:
            there = ", ".join(f"{protocol_name(each.protocol)} {each.port}" for each in service.ports)
            raise PartyError(f"the Service {service.key} has no port {protocol_name(protocol)} {port}; it has {there or 'none'}")
        wanted = said[0].name
    found: dict[IPAddress, Party] = {}
    for each in sorted(slices, key=lambda s: s.key.name):
        number = _slice_port(each, protocol, wanted, port)
        for end in each.endpoints if number else ():
            if end.ready or service.publish_not_ready:
                at = _at(objects, end.address)
                found.setdefault(end.address, Party(end.address, at.pod, at.node, number))
    if not found:
        raise PartyError(f"the Service {service.key} has no ready backend at that port")
    yield from found.values()


def _slice_port(each: EndpointSlice, protocol: int, name: str | None, text: str) -> int:
    """`name` None: the Service is headless, and its backends are sent to at the port that was typed."""
    for port in each.ports:
        if port.protocol == protocol and port.port and (port.name == name if name is not None else text in {str(port.port), port.name}):
            return port.port
    return int(text) if name is None and text.isdecimal() else 0


def _at(objects: Objects, address: IPAddress) -> Party:
    pod = objects.owner(address)
    if pod is not None:
        return Party(address, pod, pod.node)
    node = objects.node_at(address)
    return Party(address, None, node.name if node is not None else "")


def _port(party: Party, protocol: int, text: str) -> int:
    if not text:
        return 0
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    numbers = port_numbers(party.pod) if party.pod is not None else {}
    if (text, protocol) not in numbers:
        wanted = "write a number from 1 to 65535 or a container port's name"
        raise PartyError(f"{party} has no port {protocol_name(protocol)} {text}; {wanted}")
    return numbers[text, protocol]


def _key(text: str) -> Key:
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise PartyError(f"{text!r} is no NAMESPACE/NAME")
    return Key(namespace, name)


def _address(text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise PartyError(f"{text!r} is neither an address nor NAMESPACE/NAME") from None
