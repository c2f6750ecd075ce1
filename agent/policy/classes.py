"""The classes of addresses: who is the same to every policy. Pure but for its own state.

An address' class is the set of terms that hold for it: blocks, for every address, and selectors, for addresses of pods. The terms are
those of all policies of the cluster, whether a pod of this node needs them or not, so that the labels of one pod never change another's
class. Terms that no policy uses any more stay until `forget` is called: a policy that flaps then moves no address.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.datapath.abi import IPAddress, IPNetwork
from agent.datapath.policy_rows import CLASS_ANY, CLASS_NONE
from agent.policy.groups import NO_ATOMS, NUMBER_SHIFT, TERM_MASK, Atoms, Group, Groups, terms_in
from agent.policy.networks import Networks, Node, host_network, mapped
from agent.policy.terms import Term
from agent.reconcile.ids import free_number
from agent.watch.policy_records import Pod
from agent.watch.records import Key

Rank = tuple[bool, str, str]
"""Of pods that claim one address the highest has it: one that this node's CNI gave it to, then the younger one; the uid decides the
rest."""


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
class _Address:
    """`claims`: who says that it is theirs. `row`: the class that it has in a row of its own."""

    address: IPAddress
    number: int
    claims: list[tuple[Rank, Key, Group]] = field(default_factory=list)
    group: Group | None = None
    row: Class | None = None
    network: IPNetwork | None = None


class AddressSpace:
    """Terms, namespaces and pods in; rows of the table `classes` and the classes behind them out.

    `limit`: addresses that may have a row of their own. The others are classified by their networks alone, so no selector allows them
    anything.
    """

    def __init__(self, limit: int) -> None:
        self.by_term: dict[int, dict[Class, None]] = {}
        """Which classes a term is in, whatever the number of its port."""
        self.unused: dict[int, None] = {}
        """Terms that wait for `forget`."""
        self._limit, self._own_rows = limit, 0
        self._left_out: dict[_Address, None] = {}
        self._terms: dict[int, Term] = {}
        self._ids: dict[Term, int] = {}
        self._uses: dict[int, int] = {}
        self._digests: dict[int, bytes] = {}
        self._forgotten: list[int] = []
        self._next = 1
        self._groups = Groups()
        self._networks = Networks()
        self._named_blocks: dict[int, dict[int, None]] = {}
        self._pods: dict[Key, tuple[Group, tuple[_Address, ...]]] = {}
        self._addresses: dict[int, _Address] = {}
        self._order: list[int] = []
        self._dirty: dict[_Address, None] = {}
        self._nodes: dict[Node, Class] = {}
        self._classes: dict[Atoms, Class] = {}
        self._taken: set[int] = {CLASS_NONE, CLASS_ANY}
        self._born: list[Class] = []
        self._idle: dict[Class, None] = {}

    @property
    def left_out(self) -> int:
        """Addresses without the row that they should have."""
        return len(self._left_out)

    @property
    def counts(self) -> dict[str, int]:
        """Rows, and classes that some address has."""
        alone = sum(1 for node in self._nodes if self._has_own_row(node))
        return {"rows": self._own_rows + len(self._nodes) - alone, "classes": len(self._classes)}

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
        gone = {number for number in terms if number in self.unused}
        self._groups.remove({number for number in gone if self._terms[number].block is None})
        for number in gone:
            del self.unused[number]
            self._remove(number)

    def _add(self, term: Term) -> int:
        number, self._next = self._next, self._next + 1
        self._ids[term], self._terms[number], self._uses[number] = number, term, 0
        self._digests[number] = term.digest()
        self.by_term[number] = {}
        if term.block is None:
            self._groups.add(number, term)
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
            return
        if term.port is None:
            self._networks.remove(number, term.block)
        else:
            plain = Term(term.block)
            block = self._ids[plain]
            del self._named_blocks[block][number]
            if not self._named_blocks[block]:
                del self._named_blocks[block]
            self.release(plain)
            if block in self.unused:
                del self.unused[block]
                self._remove(block)
        self._touch(term.block.network)

    def _touch(self, network: IPNetwork) -> None:
        """All addresses of pods in a network may be of another class now."""
        first = mapped(network.network_address)
        last = first + network.num_addresses - 1
        for place in range(bisect_left(self._order, first), bisect_right(self._order, last)):
            self._dirty[self._addresses[self._order[place]]] = None

    # Namespaces and pods.

    def set_namespace(self, namespace: str, labels: Mapping[str, str] | None) -> None:
        """None: it is not known, and then nothing that is said of namespaces' labels holds for it."""
        self._groups.set_namespace(namespace, labels)

    def set_pod(self, pod: Pod, addresses: Iterable[IPAddress], *, local: bool) -> None:
        """A pod that may be a peer, with all addresses that it has."""
        group = self._groups.join(pod)
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
        self._groups.leave(group)

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
        for group in self._groups.settle():
            self._dirty.update(group.members)
        self._settle_nodes(changes)
        if self._own_rows < self._limit:
            self._dirty.update(self._left_out)
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
            self._taken -= {each.id} - {CLASS_NONE}
            for number in terms_in(each.atoms):
                self.by_term[number].pop(each, None)
        for number in self._forgotten:
            del self.by_term[number], self._digests[number]
        self._forgotten = []
        self._idle = {}
        return gone

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

    def _has_own_row(self, node: Node) -> bool:
        entry = self._addresses.get(mapped(node.network.network_address)) if node.network.prefixlen == node.network.max_prefixlen else None
        return entry is not None and entry.row is not None

    def _settle_address(self, entry: _Address, changes: ClassChanges) -> None:
        self._regroup(entry)
        self._left_out.pop(entry, None)
        node = self._networks.find(entry.address)
        alone = node is not None and node.network.prefixlen == node.network.max_prefixlen
        old, new = entry.row, None
        if entry.group is not None:
            below = node.terms if node is not None else NO_ATOMS
            atoms = self._atoms(entry.group, below)
            wanted = alone or atoms != below
            if wanted and old is None and self._own_rows >= self._limit:
                self._left_out[entry] = None
            elif wanted:
                new = old if old is not None and old.atoms == atoms else self._acquire(atoms)
        if new is old and not (new is None and alone):
            return
        network = entry.network = entry.network or host_network(entry.address)
        if new is not None:
            changes.puts[network] = new.id
        elif alone and node is not None:
            changes.puts[network] = self._nodes[node].id
        else:
            changes.deletes.append(network)
        self._own_rows += (new is not None) - (old is not None)
        entry.row = new
        self._release(old)

    def _regroup(self, entry: _Address) -> None:
        """Find out whose the address is now; one that nobody has is forgotten."""
        group = max(entry.claims, key=_rank)[2] if entry.claims else None
        if group is not entry.group:
            if entry.group is not None:
                entry.group.members.pop(entry, None)
            if group is not None:
                group.members[entry] = None
            entry.group = group
        if group is None:
            del self._addresses[entry.number]
            del self._order[bisect_left(self._order, entry.number)]

    def _atoms(self, group: Group, blocks: Atoms) -> Atoms:
        found = group.atoms | blocks if blocks else group.atoms
        if self._named_blocks and blocks:
            named = (number for block in blocks for number in self._named_blocks.get(block, ()))
            found |= {atom for number in named if (atom := group.atom(number, self._terms[number]))}
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


def _rank(claim: tuple[Rank, Key, Group]) -> tuple[Rank, str, str]:
    rank, key, _ = claim
    return rank, key.namespace, key.name
