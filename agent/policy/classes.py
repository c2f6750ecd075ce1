"""The classes of addresses: who is the same to every policy. Pure but for its own state.

An address' class is the set of terms that hold for it: blocks, for every address, and selectors, for addresses of pods. The terms are
those of all policies of the cluster, whether a pod of this node needs them or not, so that the labels of one pod never change another's
class. Pods of one namespace with the same labels and ports are a group and matched once.

An *atom* is a term's id, and in the upper 32 bits the number that a named port has at this address. Terms that no policy uses any more stay
until `forget` is called: a policy that flaps then moves no address.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.datapath.abi import IPAddress, IPNetwork
from agent.datapath.policy_rows import CLASS_ANY, CLASS_NONE
from agent.policy.networks import Networks, Node, host_network, mapped
from agent.policy.selectors import EVERYTHING, SelectorIndex, matches
from agent.policy.terms import PortName, Term, port_numbers
from agent.reconcile.ids import free_number
from agent.watch.policy_records import ContainerPort, Labels, Pod, Selector
from agent.watch.records import Key

Atoms = frozenset[int]
Rank = tuple[bool, str, str]
"""Of pods that claim one address the highest has it: one that this node's CNI gave it to, then the younger one; the uid decides the
rest."""

Shape = tuple[Labels, tuple[ContainerPort, ...]]
"""Labels and named ports: what pods of a namespace are told apart by."""

NUMBER_SHIFT = 32
TERM_MASK = (1 << NUMBER_SHIFT) - 1
NO_ATOMS: Atoms = frozenset()
SCAN_AT_MOST = 50_000
"""Comparisons of new selectors with groups, above which it is cheaper to look up every group anew."""


@dataclass(eq=False, slots=True)
class Class:
    """`count`: nodes and addresses that have it."""

    id: int
    atoms: Atoms
    count: int = 0


@dataclass(slots=True)
class ClassChanges:
    """Rows of `classes` that are new or different, those that go, and the classes that came to be."""

    puts: dict[IPNetwork, int] = field(default_factory=dict)
    deletes: list[IPNetwork] = field(default_factory=list)
    born: list[Class] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Scope:
    """The pod selectors that are asked in the namespaces that a selector selects, or in the one that is named."""

    which: str | Selector
    terms: SelectorIndex[int] = field(default_factory=SelectorIndex)


@dataclass(eq=False, slots=True)
class _Group:
    namespace: str
    shape: Shape
    labels: dict[str, str]
    ports: dict[PortName, int]
    atoms: Atoms = NO_ATOMS
    addresses: dict[_Address, None] = field(default_factory=dict)
    pods: int = 0


@dataclass(eq=False, slots=True)
class _Address:
    """`claims`: who says that it is theirs. `row`: the class that it has in a row of its own."""

    address: IPAddress
    number: int
    claims: list[tuple[Rank, Key, _Group]] = field(default_factory=list)
    group: _Group | None = None
    row: Class | None = None
    network: IPNetwork | None = None


class AddressSpace:
    """Terms, namespaces and pods in; rows of the table `classes` and the classes behind them out."""

    def __init__(self) -> None:
        self.by_term: dict[int, dict[Class, None]] = {}
        """Which classes a term is in, whatever the number of its port."""
        self.unused: dict[int, None] = {}
        """Terms that wait for `forget`."""
        self._terms: dict[int, Term] = {}
        self._ids: dict[Term, int] = {}
        self._uses: dict[int, int] = {}
        self._digests: dict[int, bytes] = {}
        self._next = 1
        self._networks = Networks()
        self._named_blocks: dict[int, dict[int, None]] = {}
        self._scopes: dict[str | Selector, _Scope] = {}
        self._scope_index: SelectorIndex[_Scope] = SelectorIndex()
        self._namespaces: dict[str, tuple[Mapping[str, str], list[_Scope]]] = {}
        self._groups: dict[str, dict[Shape, _Group]] = {}
        self._pods: dict[Key, tuple[_Group, tuple[_Address, ...]]] = {}
        self._addresses: dict[int, _Address] = {}
        self._order: list[int] = []
        self._nodes: dict[Node, Class] = {}
        self._classes: dict[Atoms, Class] = {}
        self._taken: set[int] = {CLASS_NONE, CLASS_ANY}
        self._new_terms: list[int] = []
        self._forgotten: list[int] = []
        self._dirty_groups: dict[_Group, None] = {}
        self._dirty: dict[_Address, None] = {}
        self._born: list[Class] = []
        self._idle: dict[Class, None] = {}

    # Terms.

    def hold(self, term: Term) -> int:
        """The id of a term, which is one more time in use."""
        number = self._ids.get(term)
        if number is None:
            number = self._add(term)
        self._uses[number] += 1
        self.unused.pop(number, None)
        return number

    def release(self, term: Term) -> None:
        """Undo one `hold`."""
        number = self._ids[term]
        self._uses[number] -= 1
        if not self._uses[number]:
            self.unused[number] = None

    def id_of(self, term: Term) -> int:
        """Of a term that is known."""
        return self._ids[term]

    def forget(self, terms: Iterable[int]) -> None:
        """Let those of these terms go that nobody uses."""
        gone = {number: None for number in terms if number in self.unused}
        self.unused = {number: None for number in self.unused if number not in gone}
        for groups in self._groups.values() if gone else ():
            for group in groups.values():
                if any(atom & TERM_MASK in gone for atom in group.atoms):
                    self._set_atoms(group, frozenset(atom for atom in group.atoms if atom & TERM_MASK not in gone))
        for number in gone:
            self._remove(number)

    def _add(self, term: Term) -> int:
        number, self._next = self._next, self._next + 1
        self._ids[term], self._terms[number], self._uses[number] = number, term, 0
        self._digests[number] = term.digest()
        self.by_term[number] = {}
        if term.block is None:
            self._scope(term.namespaces).terms.add(term.pods, number)
            self._new_terms.append(number)
            return number
        if term.port is None:
            self._networks.add(number, term.block)
        else:
            # The block in its own right cuts the space; pods that have the port are told apart below it.
            self._named_blocks.setdefault(self.hold(Term(term.block)), {})[number] = None
        self._touch(term.block.network)
        return number

    def _remove(self, number: int) -> None:
        term = self._terms.pop(number)
        del self._ids[term], self._uses[number]
        self._forgotten.append(number)
        if term.block is None:
            scope = self._scopes[term.namespaces]
            scope.terms.discard(term.pods, number)
            if not len(scope.terms):
                self._drop_scope(scope)
            return
        if term.port is None:
            self._networks.remove(number, term.block)
        else:
            plain = Term(term.block)
            others = self._named_blocks[self._ids[plain]]
            del others[number]
            if not others:
                del self._named_blocks[self._ids[plain]]
            self.release(plain)
            block = self._ids[plain]
            if block in self.unused:
                del self.unused[block]
                self._remove(block)
        self._touch(term.block.network)

    def _scope(self, which: str | Selector) -> _Scope:
        scope = self._scopes.get(which)
        if scope is None:
            scope = self._scopes[which] = _Scope(which)
            if isinstance(which, Selector):
                self._scope_index.add(which, scope)
                for labels, scopes in self._namespaces.values():
                    if matches(which, labels):
                        scopes.append(scope)
        return scope

    def _drop_scope(self, scope: _Scope) -> None:
        del self._scopes[scope.which]
        if isinstance(scope.which, Selector):
            self._scope_index.discard(scope.which, scope)
            for _, scopes in self._namespaces.values():
                if scope in scopes:
                    scopes.remove(scope)

    def _touch(self, network: IPNetwork) -> None:
        """All addresses of pods in a network may be of another class now."""
        first = mapped(network.network_address)
        last = first + network.num_addresses - 1
        for place in range(bisect_left(self._order, first), bisect_right(self._order, last)):
            self._dirty[self._addresses[self._order[place]]] = None

    # Namespaces and pods.

    def set_namespace(self, namespace: str, labels: Mapping[str, str] | None) -> None:
        """None: it is not known, and then nothing that is said of namespaces' labels holds for it."""
        known = self._namespaces.get(namespace)
        if labels is None:
            self._namespaces.pop(namespace, None)
        elif known is None or known[0] != labels:
            self._namespaces[namespace] = (labels, list(self._scope_index.match(labels)))
        else:
            return
        self._dirty_groups.update(dict.fromkeys(self._groups.get(namespace, {}).values()))

    def set_pod(self, pod: Pod, addresses: Iterable[IPAddress], *, local: bool) -> None:
        """A pod that may be a peer, with all addresses that it has."""
        shape = (pod.labels, pod.ports)
        groups = self._groups.setdefault(pod.key.namespace, {})
        group = groups.get(shape)
        if group is None:
            group = groups[shape] = _Group(pod.key.namespace, shape, dict(pod.labels), port_numbers(pod))
            self._dirty_groups[group] = None
        group.pods += 1
        self.drop_pod(pod.key)
        entries = tuple(self._entry(address) for address in dict.fromkeys(addresses))
        for entry in entries:
            entry.claims.append(((local, pod.created, pod.uid), pod.key, group))
            self._dirty[entry] = None
        self._pods[pod.key] = group, entries

    def drop_pod(self, key: Key) -> None:
        """It is nobody's peer (any more)."""
        if key not in self._pods:
            return
        group, entries = self._pods.pop(key)
        for entry in entries:
            entry.claims = [claim for claim in entry.claims if claim[1] != key]
            self._dirty[entry] = None
        group.pods -= 1
        if not group.pods:
            del self._groups[group.namespace][group.shape]
            if not self._groups[group.namespace]:
                del self._groups[group.namespace]

    def owner(self, address: IPAddress) -> Key | None:
        """The pod whose address it is for policies."""
        entry = self._addresses.get(mapped(address))
        return max(entry.claims, key=_rank)[1] if entry is not None and entry.claims else None

    def class_at(self, address: IPAddress) -> int:
        """The class that the rows give an address."""
        entry = self._addresses.get(mapped(address))
        if entry is not None and entry.row is not None:
            return entry.row.id
        node = self._networks.find(address)
        return self._nodes[node].id if node is not None else CLASS_NONE

    def _entry(self, address: IPAddress) -> _Address:
        number = mapped(address)
        entry = self._addresses.get(number)
        if entry is None:
            entry = self._addresses[number] = _Address(address, number)
            insort(self._order, number)
        return entry

    # Classes.

    def settle(self) -> ClassChanges:
        """Take up all that was said since the last time. Classes that nothing has any more are there until `sweep`."""
        changes = ClassChanges()
        self._match_new_terms()
        for group in self._dirty_groups:
            self._set_atoms(group, self._match(group))
        self._dirty_groups = {}
        self._settle_nodes(changes)
        for entry in self._dirty:
            self._settle_address(entry, changes)
        self._dirty = {}
        changes.born, self._born = self._born, []
        return changes

    def sweep(self) -> list[Class]:
        """The classes that nothing has any more; they are forgotten."""
        gone = [each for each in self._idle if not each.count]
        for each in gone:
            del self._classes[each.atoms]
            self._taken.discard(each.id)
            for number in terms_in(each.atoms):
                self.by_term[number].pop(each, None)
        for number in self._forgotten:
            del self.by_term[number], self._digests[number]
        self._forgotten = []
        self._idle = {}
        return gone

    def _match_new_terms(self) -> None:
        new, self._new_terms = [n for n in self._new_terms if n in self._terms], []
        total = sum(map(len, self._groups.values()))
        if len(new) * total > SCAN_AT_MOST:
            for groups in self._groups.values():
                self._dirty_groups.update(dict.fromkeys(groups.values()))
            return
        for number in new:
            term = self._terms[number]
            for group in self._groups_in(term.namespaces):
                atom = _atom(number, term, group) if group not in self._dirty_groups and matches(term.pods, group.labels) else 0
                if atom:
                    self._set_atoms(group, group.atoms | {atom})

    def _groups_in(self, which: str | Selector) -> Iterator[_Group]:
        if isinstance(which, str):
            yield from self._groups.get(which, {}).values()
            return
        for namespace, groups in self._groups.items():
            known = self._namespaces.get(namespace)
            if matches(which, known[0]) if known is not None else which == EVERYTHING:
                yield from groups.values()

    def _match(self, group: _Group) -> Atoms:
        known = self._namespaces.get(group.namespace)
        scopes = [self._scopes.get(group.namespace), *(known[1] if known is not None else [self._scopes.get(EVERYTHING)])]
        numbers = {number for scope in scopes if scope is not None for number in scope.terms.match(group.labels)}
        found = frozenset(atom for number in numbers if (atom := _atom(number, self._terms[number], group)))
        same = self._classes.get(found)
        return same.atoms if same is not None else found

    def _set_atoms(self, group: _Group, atoms: Atoms) -> None:
        if atoms != group.atoms:
            group.atoms = atoms
            self._dirty.update(group.addresses)

    def _settle_nodes(self, changes: ClassChanges) -> None:
        dirty, gone = self._networks.take()
        for node in gone:
            old = self._nodes.pop(node, None)
            if not self._is_of_pod(node) and old is not None:
                changes.deletes.append(node.network)
            self._release(old)
        for node in dirty:
            terms = self._networks.resolve(node)
            old = self._nodes.get(node)
            if old is None or terms != node.terms:
                node.terms = terms
                self._nodes[node] = self._acquire(terms)
                self._release(old)
                if not self._is_of_pod(node):
                    changes.puts[node.network] = self._nodes[node].id

    def _is_of_pod(self, node: Node) -> bool:
        """Whether it is one address that a pod has, or has just left; then the row is the address' business."""
        if node.network.prefixlen < node.network.max_prefixlen:
            return False
        entry = self._addresses.get(mapped(node.network.network_address))
        if entry is not None:
            self._dirty[entry] = None
        return entry is not None

    def _settle_address(self, entry: _Address, changes: ClassChanges) -> None:
        group = max(entry.claims, key=_rank)[2] if entry.claims else None
        if group is not entry.group:
            if entry.group is not None:
                entry.group.addresses.pop(entry, None)
            if group is not None:
                group.addresses[entry] = None
            entry.group = group
        node = self._networks.find(entry.address)
        alone = node is not None and node.network.prefixlen == node.network.max_prefixlen
        old, new = entry.row, None
        if group is not None:
            below = node.terms if node is not None else NO_ATOMS
            atoms = self._atoms(group, below)
            if alone or atoms != below:
                new = old if old is not None and old.atoms == atoms else self._acquire(atoms)
        else:
            del self._addresses[entry.number]
            del self._order[bisect_left(self._order, entry.number)]
        if new is old and not (new is None and alone):
            return
        network = entry.network = entry.network or host_network(entry.address)
        if new is not None:
            changes.puts[network] = new.id
        elif alone and node is not None:
            changes.puts[network] = self._nodes[node].id
        else:
            changes.deletes.append(network)
        entry.row = new
        self._release(old)

    def _atoms(self, group: _Group, blocks: Atoms) -> Atoms:
        found = group.atoms | blocks if blocks else group.atoms
        if self._named_blocks and blocks:
            named = (number for block in blocks for number in self._named_blocks.get(block, ()))
            found |= {atom for number in named if (atom := _atom(number, self._terms[number], group))}
        return found

    def _acquire(self, atoms: Atoms) -> Class:
        found = self._classes.get(atoms)
        if found is None:
            found = self._classes[atoms] = Class(self._class_id(atoms), atoms)
            self._born.append(found)
            for number in terms_in(atoms):
                self.by_term[number][found] = None
        found.count += 1
        return found

    def _release(self, each: Class | None) -> None:
        if each is not None:
            each.count -= 1
            if not each.count:
                self._idle[each] = None

    def _class_id(self, atoms: Atoms) -> int:
        if not atoms:
            return CLASS_NONE
        names = (self._digests[atom & TERM_MASK] + (atom >> NUMBER_SHIFT).to_bytes(2, "big") for atom in atoms)
        number = free_number(b"".join(sorted(names)), self._taken.__contains__)
        self._taken.add(number)
        return number


def terms_in(atoms: Atoms) -> Iterable[int]:
    """The terms, each once."""
    return {atom & TERM_MASK for atom in atoms}


def port_number(atom: int) -> int:
    """What the peer's named port is, of a term that asks for one."""
    return atom >> NUMBER_SHIFT


def _atom(number: int, term: Term, group: _Group) -> int:
    """0: the group lacks the port."""
    if term.port is None:
        return number
    port = group.ports.get(term.port, 0)
    return port << NUMBER_SHIFT | number if port else 0


def _rank(claim: tuple[Rank, Key, _Group]) -> tuple[Rank, str, str]:
    rank, key, _ = claim
    return rank, key.namespace, key.name
