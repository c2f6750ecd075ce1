"""Who had an address when, and which policies a rule stands for, as the log writes them. Pure.

An address is named as of the time of the packet: by the one who had it then; if nobody was known to have it yet, by the first who was seen
to have it afterwards (a pod sends before the API server knows its address); and by the one who had it last, if that was moments ago.
Addresses are 16 bytes, as in the tables; times are ns of CLOCK_MONOTONIC. Names are kept as the JSON that they are written as.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address

from agent.datapath.abi import IPAddress, pack_address
from agent.watch.policy_records import NetworkPolicy, Pod
from agent.watch.records import Key, Node

GRACE = 10 * 10**9
"""So long after it is gone a pod still names its address, if nobody else has it."""
_FOREVER = 1 << 63
_MOST_STRANGERS = 65536
_MOST_NUMBERS = 65536
_V4 = bytes(10) + b"\xff\xff"


@dataclass(slots=True)
class _Span:
    """`until` is when it ended; spans of an address stand in the order of time."""

    owner: Key
    text: str
    until: int = _FOREVER


@dataclass(slots=True)
class _Held:
    """What a pod has, by its object and by CNI."""

    pod: Pod | None = None
    endpoint: tuple[bytes, ...] = ()
    workload: tuple[str, str] = ("", "")
    """As last known: a pod may outlive its object."""


class Directory:
    """Names of addresses."""

    def __init__(self) -> None:
        self._spans: dict[bytes, list[_Span]] = {}
        self._holders: dict[Key, tuple[bytes, ...]] = {}
        self._pods: dict[Key, _Held] = {}
        self._strangers: dict[bytes, str] = {}
        self._texts: dict[bytes, str] = {}
        self._ended: list[tuple[int, bytes]] = []

    def keep_pods(self, pods: Iterable[Key], now: int) -> None:
        """Of all pods that were told these alone are there."""
        gone = self._pods.keys() - set(pods)
        self.take_pods(dict.fromkeys(gone), dict.fromkeys(gone), now)

    def take_pods(self, pods: Mapping[Key, Pod | None], endpoints: Mapping[Key, tuple[IPAddress, ...] | None], now: int) -> None:
        """Pods that are new, changed or gone, and the addresses that CNI gave to this node's own."""
        for key in {**pods, **endpoints}:
            held = self._pods.setdefault(key, _Held())
            if key in pods:
                held.pod = pods[key]
            if key in endpoints:
                held.endpoint = tuple(map(pack_address, endpoints[key] or ()))
            pod = held.pod
            held.workload = pod.workload if pod is not None else held.workload
            of_pod = () if pod is None or pod.host_network or pod.finished else tuple(map(pack_address, pod.addresses))
            self._hold(key, tuple(dict.fromkeys((*held.endpoint, *of_pod))), pod_name(key, held.workload), now)
            if pod is None and not held.endpoint:
                del self._pods[key]

    def take_nodes(self, nodes: Mapping[Key, Node | None], now: int) -> None:
        """Nodes that are new, changed or gone."""
        for key, node in nodes.items():
            addresses = () if node is None else tuple(map(pack_address, (*node.addresses, *node.other_addresses)))
            self._hold(Key("", key.name), addresses, node_name(key.name), now)

    def name(self, address: bytes, time: int) -> str:
        """The JSON object of whoever had it."""
        spans = self._spans.get(address)
        if spans is not None:
            for span in spans:
                if time < span.until:
                    return span.text
            if time < spans[-1].until + GRACE:
                return spans[-1].text
        text = self._strangers.get(address)
        if text is None:
            if len(self._strangers) >= _MOST_STRANGERS:
                self._strangers.clear()
            text = self._strangers[address] = json.dumps({"instance": self.text(address)}, separators=(",", ":"))
        return text

    def text(self, address: bytes) -> str:
        """As people write it."""
        text = self._texts.get(address)
        if text is None:
            if len(self._texts) >= _MOST_STRANGERS:
                self._texts.clear()
            text = "%d.%d.%d.%d" % tuple(address[12:]) if address[:12] == _V4 else IPv6Address(address).compressed  # noqa: UP031
            self._texts[address] = text
        return text

    def forget(self, now: int) -> None:
        """Drop what was gone so long ago that no record can be about it any more."""
        old = [entry for entry in self._ended if entry[0] + 2 * GRACE <= now]
        if not old:
            return
        self._ended = [entry for entry in self._ended if entry[0] + 2 * GRACE > now]
        for _, address in old:
            kept = [span for span in self._spans.get(address, ()) if span.until + 2 * GRACE > now]
            if kept:
                self._spans[address] = kept
            else:
                self._spans.pop(address, None)

    def _hold(self, owner: Key, addresses: tuple[bytes, ...], text: str, now: int) -> None:
        for address in self._holders.get(owner, ()):
            if address not in addresses:
                self._release(owner, address, now)
        for address in addresses:
            spans = self._spans.setdefault(address, [])
            if spans and spans[-1].until == _FOREVER:
                if spans[-1].owner == owner:
                    spans[-1].text = text
                    continue
                # Given to another before the first was told to be gone: the later word counts.
                spans[-1].until = now
                self._ended.append((now, address))
            spans.append(_Span(owner, text))
        if addresses:
            self._holders[owner] = addresses
        else:
            self._holders.pop(owner, None)

    def _release(self, owner: Key, address: bytes, now: int) -> None:
        spans = self._spans.get(address)
        if spans and spans[-1].owner == owner and spans[-1].until == _FOREVER:
            spans[-1].until = now
            self._ended.append((now, address))


def pod_name(key: Key, workload: tuple[str, str]) -> str:
    """The JSON object of a pod; of one whose Pod is not known yet, without its workload."""
    kind, name = workload
    document = {"pod_name": key.name}
    if name:
        document |= {"workload_kind": kind, "workload_name": name}
    return json.dumps({**document, "pod_namespace": key.namespace, "namespace": key.namespace}, separators=(",", ":"))


def node_name(name: str) -> str:
    """The JSON object of a node."""
    return json.dumps({"node_name": name, "workload_kind": "Node"}, separators=(",", ":"))


def policy_names(policies: Iterable[Key]) -> str:
    """The JSON array of policies, each once."""
    names = [{"kind": "NetworkPolicy", "name": key.name, "namespace": key.namespace} for key in dict.fromkeys(policies)]
    return json.dumps(names, separators=(",", ":")) if names else ""


class Numbers:
    """Policies by the number of a rule or a set, remembered from when it was written: a policy that is gone by now is still named."""

    def __init__(self, is_named: Callable[[Key], bool] = lambda _: True) -> None:
        """`is_named` may come to say another thing: `changed` then."""
        self._is_named = is_named
        self._policies: dict[int, tuple[Key, ...]] = {}
        self._texts: dict[int, str] = {}

    def learn(self, numbers: Iterable[int], find: Callable[[int], Iterable[Key]]) -> None:
        """Numbers that are written right now, and what finds their policies. What a number meant before counts no more."""
        for number in numbers:
            found = tuple(dict.fromkeys(find(number)))
            if found and self._policies.get(number) != found:
                if len(self._policies) >= _MOST_NUMBERS:
                    self._policies.clear()
                    self._texts.clear()
                self._policies[number] = found
                self._texts.pop(number, None)

    def knows(self, number: int) -> bool:
        """Whether its policies were told."""
        return number in self._policies

    def names(self, number: int) -> str:
        """The JSON array of its policies that are to be named; "" if there are none, or it is not known."""
        text = self._texts.get(number)
        if text is None:
            text = policy_names(key for key in self._policies.get(number, ()) if self._is_named(key))
            if number in self._policies:
                self._texts[number] = text
        return text

    def changed(self) -> None:
        """Others are to be named now."""
        self._texts.clear()


class Annotations:
    """The policies whose annotation asks for the log, and whether that counts."""

    def __init__(self) -> None:
        self.rules = Numbers(self._ask)
        """The rules by which connections were allowed."""
        self._delegate = False
        self._asking: set[Key] = set()

    def take_policies(self, policies: Mapping[Key, NetworkPolicy | None]) -> None:
        """Policies that are new or changed. One that is gone goes on asking, until it comes again and does not."""
        asking = {key for key, policy in policies.items() if policy is not None and policy.log_allowed}
        silent = {key for key, policy in policies.items() if policy is not None and not policy.log_allowed}
        after = (self._asking - silent) | asking
        if after != self._asking:
            self._asking = after
            self.rules.changed()

    def set_delegate(self, delegate: bool) -> None:
        """Whether only those that ask are named."""
        if delegate != self._delegate:
            self._delegate = delegate
            self.rules.changed()

    def _ask(self, policy: Key) -> bool:
        return not self._delegate or policy in self._asking
