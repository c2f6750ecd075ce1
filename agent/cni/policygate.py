"""Between CNI and the policy loop: which addresses this node's pods have, and which pods may have their network.

A pod's host end comes up only after a round that knew its Pod object and its addresses has written what judges them. Invariants: the pods
that are told and taken back are seen by the loop in that order, so a round that lets a pod through has also removed whatever judged the
address for another before; nobody waits longer than `seconds`; what a failed round had taken is taken again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from agent.cni.protocol import Attachment, CniError, Code
from agent.cni.store import Record
from agent.datapath.abi import IPAddress
from agent.watch.policy_records import Pod
from agent.watch.records import Key

WAIT_SECONDS = 5.0
"""A Pod is known some milliseconds after kubelet has it. What takes longer is an outage, and the runtime asks again."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a round takes up: the addresses of pods that changed (None: of one that is gone), and who is let through by its success."""

    endpoints: Mapping[Key, tuple[IPAddress, ...] | None]
    admits: frozenset[Attachment]


@dataclass(frozen=True, slots=True)
class _Held:
    pod: Key
    uid: str
    addresses: tuple[IPAddress, ...]


def pod_key(name: str) -> Key | None:
    """The key in `namespace/name`; None for an attachment that kubelet did not ask for, which no policy selects."""
    namespace, _, pod = name.partition("/")
    return Key(namespace, pod) if pod else None


class PolicyGate:
    """`on_change` wakes the loop; `why` says in words what a pod is waiting for. All methods may be called from any thread."""

    def __init__(self, on_change: Callable[[], None], why: Callable[[Key, str], str], seconds: float = WAIT_SECONDS) -> None:
        self._on_change = on_change
        self._why = why
        self._seconds = seconds
        self._condition = threading.Condition()
        self._held: dict[Attachment, _Held] = {}
        self._changed: set[Key] = set()
        self._waiting: set[Attachment] = set()
        self._nameless: dict[IPAddress, Key | None] = {}

    def enter(self, record: Record, uid: str = "") -> None:
        """A pod has these addresses as of now; `admit` will say when it may use them. `uid` "": whatever Pod has the name."""
        pod = pod_key(record.pod)
        if pod is None:
            return
        with self._condition:
            self._held[record.attachment] = _Held(pod, uid, record.addresses)
            self._changed.add(pod)
            self._waiting.add(record.attachment)
        self._on_change()

    def admit(self, record: Record) -> None:
        """Return when the pod's policy is in the kernel. Raises `CniError` (try again later) when that takes too long."""
        pod = pod_key(record.pod)
        if pod is None:
            return
        end = time.monotonic() + self._seconds
        with self._condition:
            while record.attachment in self._waiting:
                left = end - time.monotonic()
                if left <= 0 or not self._condition.wait(left):
                    break
            else:
                return
            uid = self._held[record.attachment].uid if record.attachment in self._held else ""
        raise CniError(Code.TRY_AGAIN_LATER, f"pod {pod} gets no network before its policy is in force: {self._why(pod, uid)}")

    def leave(self, record: Record) -> None:
        """The pod has no address here any more. What judged it is gone before `admit` lets another have the address."""
        with self._condition:
            held = self._held.pop(record.attachment, None)
            self._waiting.discard(record.attachment)
            if held is None:
                return
            self._changed.add(held.pod)
            self._condition.notify_all()
        self._on_change()

    def adopt(self, addresses: Iterable[IPAddress]) -> None:
        """A pod runs here with these addresses, and nothing is written down of it: `identify` will say which it is."""
        with self._condition:
            self._nameless |= dict.fromkeys(addresses)

    def identify(self, pods: Mapping[Key, Pod]) -> None:
        """These are all Pods there are: whose are the addresses that were adopted?"""
        with self._condition:
            if not self._nameless:
                return
            for key, pod in pods.items():
                if not (pod.finished or pod.host_network):
                    self._nameless |= {address: key for address in pod.addresses if address in self._nameless}

    def give_up(self, addresses: Iterable[IPAddress]) -> None:
        """The pod that was adopted with these addresses is gone."""
        with self._condition:
            gone = [address for address in addresses if address in self._nameless]
            self._changed |= {self._nameless.pop(address) or Key("", str(address)) for address in gone}
        if gone:
            self._on_change()

    def endpoints(self) -> dict[Key, tuple[IPAddress, ...]]:
        """The addresses of every pod, those of all its attachments: a pod that gets a new sandbox may have two for a moment."""
        with self._condition:
            return self._all()

    def take(self, find: Callable[[Key], Pod | None]) -> Taken:
        """What changed since this was last asked. `find` must know no more Pods than the round takes up after this call."""
        with self._condition:
            changed, self._changed = self._changed, set()
            held = self._all() if changed else {}
            admits = frozenset(each for each in self._waiting if _is_meant(self._held[each], find))
            return Taken({pod: held.get(pod) for pod in changed}, admits)

    def applied(self, taken: Taken) -> None:
        """The round that took it is in the kernel."""
        if taken.admits:
            with self._condition:
                self._waiting -= taken.admits
                self._condition.notify_all()

    def _all(self) -> dict[Key, tuple[IPAddress, ...]]:
        found: dict[Key, tuple[IPAddress, ...]] = {}
        for held in self._held.values():
            found[held.pod] = (*found.get(held.pod, ()), *held.addresses)
        for address, key in self._nameless.items():
            # Of a pod that nobody knows nothing is known but that it runs: no policy of any Pod is its own.
            whose = key or Key("", str(address))
            found[whose] = (*found.get(whose, ()), address)
        return found


def _is_meant(held: _Held, find: Callable[[Key], Pod | None]) -> bool:
    """Whether the API's Pod is the one that the runtime makes, not an earlier one of the same name."""
    pod = find(held.pod)
    return pod is not None and held.uid in {"", pod.uid}
