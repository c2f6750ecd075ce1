"""NetworkPolicies, pods and namespaces -> the changes of the policy tables. Pure but for its own state.

Invariants: the rows are those that a compilation from nothing gives, but for terms that no policy uses any more, which `apply(Changes())`
takes away when there is time; after every single row of a round each verdict is one that the round's changes, one after the other, give;
a local pod that is not known yet is closed; numbers of sets, classes and rules follow from what they name, so that a new process gives
the same.

What a change costs: a pod that is new, gone or relabelled its own row of `classes`, and rows for its class where no other pod has it; a
policy the rows of its own terms; a namespace the rows of its pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.datapath.abi import IPAddress, IPNetwork
from agent.datapath.policy_rows import Direction, Isolation, IsolationFlag
from agent.policy.classes import AddressSpace
from agent.policy.inputs import Changes, Limits, Rows, Trouble
from agent.policy.known import Policies, Policy
from agent.policy.networks import MAPPED_BITS
from agent.policy.rules import Rules
from agent.policy.selectors import matches
from agent.policy.sets import RuleSet, SetName
from agent.policy.settable import RowChanges, SetTable
from agent.policy.terms import RuleRef, port_numbers, rules_of
from agent.policy.troubles import find_troubles
from agent.watch.policy_records import Logging, Namespace, Pod
from agent.watch.records import Key

__all__ = ["Compiler", "Limits"]

UNUSED_TERMS = 1000
"""Terms that no policy uses any more, above which they are not left for a quiet moment."""
_NOTHING = Changes()
_LOG_FLAGS = {Direction.INGRESS: IsolationFlag.LOG_INGRESS, Direction.EGRESS: IsolationFlag.LOG_EGRESS}


@dataclass(eq=False, slots=True)
class _Local:
    """`pod`: as it was last known; it has its policies until its endpoint is gone."""

    addresses: tuple[IPAddress, ...] = ()
    pod: Pod | None = None
    policies: tuple[Key, ...] = ()
    sets: dict[Direction, RuleSet] = field(default_factory=dict)
    isolation: Isolation | None = None
    is_gone: bool = False


class Compiler:
    """Not for two threads at a time."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._logging = Logging()
        self._pods: dict[Key, Pod] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._local: dict[Key, _Local] = {}
        self._space = AddressSpace(self._limits.peers)
        self._policies = Policies(self._space, self._limits.networks)
        self._rules = Rules(self._is_logged)
        self._sets = SetTable(self._space, self._rules, self._policies.contributed, self._limits.set_rows, self._limits.policies)
        self._holders: dict[IPAddress, dict[Key, None]] = {}
        self._vacated: dict[IPAddress, None] = {}
        self._isolation: dict[IPAddress, Isolation] = {}
        self._rule_sweep = 1024
        self._troubles: tuple[Trouble, ...] = ()

    # What others ask.

    @property
    def unsettled(self) -> bool:
        """Whether `apply(Changes())` has something to tidy up; that can wait for a quiet moment."""
        return bool(self._space.unused)

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """What does not fit, in the order of the policies' names."""
        return self._troubles

    @property
    def counts(self) -> dict[str, int]:
        """Rows by table, and how many sets, classes and rules there are."""
        return {
            "policies": self._sets.rows,
            "classes": self._space.counts["rows"],
            "isolation": len(self._isolation),
            "sets": len(self._sets.sets),
            "peer_classes": self._space.counts["classes"],
            "rules": len(self._rules),
        }

    def rule(self, number: int) -> tuple[RuleRef, ...]:
        """The rules that a number of the rows names, or named lately; () if it is not known."""
        return self._rules.refs(number)

    def policies_in(self, number: int) -> tuple[Key, ...]:
        """The policies of a set that is, or was lately; () if it is not known, or the set of a pod that is not."""
        return self._sets.policies(number)

    def set_of(self, pod: Key) -> Isolation | None:
        """How a local pod's row stands (0: not isolated in that direction); None: it is not one of this node's, or not known yet."""
        local = self._local.get(pod)
        return local.isolation if local is not None and local.pod is not None else None

    def policies_of(self, pod: Key, direction: Direction | None = None) -> tuple[Key, ...]:
        """The policies that select a local pod, or those that isolate it in a direction, in the order of their names."""
        local = self._local.get(pod)
        if local is None or direction is None:
            return local.policies if local is not None else ()
        found = local.sets.get(direction)
        return tuple(policy for policy, _ in found.name.members) if found is not None else ()

    def owner(self, address: IPAddress) -> Key | None:
        """The pod that an address stands for as a peer."""
        return self._space.owner(address)

    def class_of(self, address: IPAddress) -> int:
        """The class of an address as a peer."""
        return self._space.class_at(address)

    # What changes.

    def apply(self, changes: Changes) -> Rows:
        """Take up changes, all of one moment. Without any: tidy up."""
        stale = dict(self._space.unused)
        policies = self._policies.take(changes.policies)
        self._sets.oversized = self._policies.oversized
        if any(_asks_for_log(old) != _asks_for_log(self._policies.by_key.get(key)) for key, old in policies.items()):
            self._rules.flags_changed()
        if changes == _NOTHING or len(stale) > UNUSED_TERMS:
            self._space.forget(stale)
        affected = self._take_namespaces(changes.namespaces)
        affected |= self._take_pods(changes.pods, changes.endpoints)
        if changes.logging is not None and changes.logging != self._logging:
            self._logging = changes.logging
            self._rules.flags_changed()
            self._sets.refresh_all()
            affected |= dict.fromkeys(self._local)
        classes = self._space.settle()
        for key, old in policies.items():
            affected |= self._selected(key, old)
        for each in self._place(affected):
            self._sets.release(each)
        for key, old in policies.items():
            self._change(key, old)
        self._sets.classes_born(classes.born)
        rows = RowChanges()
        self._sets.emit(rows)
        self._sets.sweep(self._space.sweep(), rows)
        self._sweep_rules()
        self._find_troubles()
        puts, deletes = self._isolate(affected)
        return Rows(
            {
                "policies": rows.puts,
                # From the longest: what is put is final for all that no longer row covers.
                "classes": dict(sorted(classes.puts.items(), key=lambda row: -_prefix(row[0]))),
                "isolation": puts,
            },
            {
                "policies": tuple(rows.deletes),
                # From the shortest: what falls to a shorter row finds a final one.
                "classes": tuple(sorted(classes.deletes, key=_prefix)),
                "isolation": deletes,
            },
        )

    def _take_namespaces(self, changed: Mapping[str, Namespace | None]) -> dict[Key, None]:
        """The local pods of namespaces that differ."""
        names = {name for name, record in changed.items() if record != self._namespaces.get(name)}
        for name in names:
            record = changed[name]
            if record is None:
                del self._namespaces[name]
            else:
                self._namespaces[name] = record
            self._space.set_namespace(name, dict(record.labels) if record is not None else None)
        return {key: None for key in self._local if key.namespace in names} if names else {}

    def _take_pods(self, pods: Mapping[Key, Pod | None], endpoints: Mapping[Key, tuple[IPAddress, ...] | None]) -> dict[Key, None]:
        """The local pods of those that differ."""
        affected: dict[Key, None] = {}
        for key in {**pods, **endpoints}:
            before = self._pods.get(key)
            now = pods.get(key) if key in pods else before
            local = self._local.get(key)
            if now == before and key not in endpoints:
                continue
            if now is None:
                self._pods.pop(key, None)
            else:
                self._pods[key] = now
            if local is not None or endpoints.get(key) is not None:
                local = self._local.setdefault(key, _Local())
                local.pod = now if now is not None else local.pod
                if key in endpoints:
                    self._rehome(key, local, endpoints[key])
                affected[key] = None
            own = local.addresses if local is not None else ()
            if now is None or now.host_network or now.finished or not (own or now.addresses):
                self._space.drop_pod(key)
            else:
                self._space.set_pod(now, (*own, *now.addresses), local=bool(own))
        return affected

    def _rehome(self, key: Key, local: _Local, addresses: tuple[IPAddress, ...] | None) -> None:
        for address in local.addresses:
            self._holders[address].pop(key)
        self._vacated.update(dict.fromkeys(local.addresses))
        local.addresses, local.is_gone = addresses or (), addresses is None
        for address in local.addresses:
            self._holders.setdefault(address, {})[key] = None

    def _selected(self, key: Key, old: Policy | None) -> dict[Key, None]:
        """The local pods for which it is another thing now whether, or as what, a policy selects them."""
        new = self._policies.by_key.get(key)
        records = [each.record for each in (old, new) if each is not None]
        if len({(r.pods, r.ingress is None, r.egress is None) for r in records}) == 1 and len(records) == 2:
            return {}
        local = ((each, found.pod) for each, found in self._local.items() if each.namespace == key.namespace)
        return {each: None for each, pod in local if pod is not None and any(matches(r.pods, dict(pod.labels)) for r in records)}

    def _place(self, affected: Iterable[Key]) -> list[RuleSet]:
        """Give local pods their sets; those that they had before."""
        left: list[RuleSet] = []
        for key in affected:
            local = self._local[key]
            left += local.sets.values()
            local.policies, local.sets, local.isolation = (), {}, None
            if local.is_gone:
                del self._local[key]
                continue
            if local.pod is not None:
                local.policies = self._policies.selecting(key.namespace, dict(local.pod.labels))
            for direction in Direction:
                name = self._set_name(local, direction)
                if name is not None:
                    local.sets[direction] = self._sets.acquire(name)
            local.isolation = self._isolation_of(key, local)
        return left

    def _set_name(self, local: _Local, direction: Direction) -> SetName | None:
        """None: nothing isolates the pod in that direction. A pod that is not known is isolated by no policy, and so from everybody."""
        if local.pod is None:
            return SetName(direction, ())
        policies = [self._policies.by_key[key] for key in local.policies]
        policies = [policy for policy in policies if rules_of(policy.record, direction) is not None]
        if not policies:
            return None
        names = {name for policy in policies for name in policy.names} if direction is Direction.INGRESS else set()
        numbers = tuple(sorted((name, number) for name, number in port_numbers(local.pod).items() if name in names)) if names else ()
        return SetName(direction, tuple((policy.record.key, policy.record.pods) for policy in policies), numbers)

    def _isolation_of(self, key: Key, local: _Local) -> Isolation:
        flags = IsolationFlag(0)
        namespace = self._namespaces.get(key.namespace)
        if self._logging.deny and (not self._logging.delegate_deny or (namespace is not None and namespace.log_denied)):
            for direction in local.sets:
                flags |= _LOG_FLAGS[direction]
        ingress, egress = (local.sets[d].id if d in local.sets else 0 for d in (Direction.INGRESS, Direction.EGRESS))
        return Isolation(ingress, egress, flags)

    def _change(self, key: Key, old: Policy | None) -> None:
        """Have the sets of a policy that is another now take that up."""
        new = self._policies.by_key.get(key)
        if new is None or old is None:
            return
        self._sets.change(
            key,
            lambda name: (key, new.record.pods) in name.members and rules_of(new.record, name.direction) is not None,
            all_of_it=old.record.log_allowed != new.record.log_allowed,
        )

    def _is_logged(self, refs: Iterable[RuleRef]) -> bool:
        if not self._logging.allow or not self._logging.delegate_allow:
            return self._logging.allow
        return any(self._policies.is_logged(ref.policy) for ref in refs)

    def _isolate(self, affected: Iterable[Key]) -> tuple[dict[IPAddress, Isolation], tuple[IPAddress, ...]]:
        """The rows of `isolation` to put and to delete."""
        addresses, self._vacated = self._vacated, {}
        for key in affected:
            if key in self._local:
                addresses |= dict.fromkeys(self._local[key].addresses)
        puts: dict[IPAddress, Isolation] = {}
        for address in addresses:
            row = self._isolation_at(address)
            if row is None or not (row.ingress_set or row.egress_set):
                continue
            if self._isolation.get(address) != row:
                puts[address] = row
        deletes = tuple(a for a in addresses if a in self._isolation and a not in puts and self._isolation_at(a) != self._isolation[a])
        self._isolation |= puts
        for address in deletes:
            del self._isolation[address]
        return puts, deletes

    def _isolation_at(self, address: IPAddress) -> Isolation | None:
        """Of two local pods with one address the younger counts, one that is not known yet before all."""
        holders = self._holders.get(address)
        if not holders:
            self._holders.pop(address, None)
            return None
        local = max(((key, self._local[key]) for key in holders), key=lambda each: _age(*each))[1]
        return local.isolation

    def _find_troubles(self) -> None:
        self._troubles = ()
        if self._sets.closed or self._space.left_out:
            users: dict[RuleSet, list[Key]] = {}
            for key, local in self._local.items():
                for each in local.sets.values():
                    users.setdefault(each, []).append(key)
            self._troubles = find_troubles(self._policies, self._sets, users, self._space.left_out, self._limits)

    def _sweep_rules(self) -> None:
        if len(self._rules) > self._rule_sweep:
            self._rules.keep({row.rule for each in self._sets.sets.values() for block in each.blocks.values() for row in block.values()})
            self._rule_sweep = max(1024, 2 * len(self._rules))


def _asks_for_log(policy: Policy | None) -> bool:
    return policy is not None and policy.record.log_allowed


def _age(key: Key, local: _Local) -> tuple[bool, str, str, str, str]:
    pod = local.pod
    return pod is None, pod.created if pod is not None else "", pod.uid if pod is not None else "", key.namespace, key.name


def _prefix(network: IPNetwork) -> int:
    """As the kernel counts."""
    return network.prefixlen + MAPPED_BITS[network.version]
