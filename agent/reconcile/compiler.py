"""Changed Services, slices, nodes and host ports -> the steps that bring the tables up to date. Pure but for its own state.

One claimant (a Service, or a host port) is looked at a time: what it wants is resolved anew, and what differs from the rows that stand
becomes part of a round (see `agent.reconcile.mirror`). Invariants: after every single step of a plan each frontend leads to backends that
it had before or has after; the rows are those that a compilation from nothing would give, but for ids and the order of slots; a
claimant is in the tables as a whole or not at all; of two that want the same frontend the older has it, but a cluster IP is nobody else's.

If a step fails the tables are not what this takes them for: make a new compiler of what the kernel then has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.datapath.abi import Backend, Frontend, FrontendFlag, FrontendKey, FrontendScope, SourceRange
from agent.reconcile.diff import Step
from agent.reconcile.tables import FullError, KernelRows, Limits, Tables
from agent.services.frontends import EXTERNAL, GroupName, Kind, Resolved, Wanted, resolve, resolve_host_port
from agent.services.hostports import HostPort
from agent.services.inputs import Claimant, Inputs, Rank
from agent.watch.records import PROTOCOL_NAMES, Key

KUBERNETES = Key("default", "kubernetes")
"""Loses its last backend never: it is how the agent itself, and everybody else, reaches what could say better."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person should know about a Service."""

    service: Key
    uid: str
    reason: str
    message: str


@dataclass(slots=True)
class Plan:
    """What to do, in this order; which backends are gone then; and what to tell people."""

    steps: list[Step] = field(default_factory=list)
    gone: dict[int, Backend] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    freed: bool = False


@dataclass(frozen=True, slots=True)
class Placed:
    """What a claimant has in the tables. `lost`: frontends that another has."""

    frontends: tuple[FrontendKey, ...] = ()
    groups: tuple[tuple[GroupName, int], ...] = ()
    markers: tuple[FrontendKey, ...] = ()
    ranges: tuple[SourceRange, ...] = ()
    lost: tuple[FrontendKey, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Which table has no room, and for how many rows."""

    table: str
    rows: int


ROUND = 512
"""Claimants in one round at most: when thousands come at once the oldest, such as DNS, need not wait for the last."""
_NOTHING = Placed()
_SILENT, _ANNOUNCED = Frontend(0, 0), Frontend(0, 0, FrontendFlag.ANNOUNCED)
_INTERNAL = frozenset({Kind.CLUSTER_IP})
_MarkerHolder = tuple[Claimant, bool | None]


class Compiler:
    """Not for two threads at a time."""

    def __init__(self, inputs: Inputs, found: KernelRows, limits: Limits) -> None:
        self.left_out: dict[Claimant, LeftOut] = {}
        self.placed: dict[Claimant, Placed] = {}
        self.starved: dict[str, set[Claimant]] = {"internal": set(), "external": set()}
        """Whose policy Local finds nothing on this node, though there is something elsewhere."""
        self._inputs = inputs
        self._tables = Tables(found, limits)
        self._owners: dict[FrontendKey, Claimant] = {}
        self._waiting: dict[FrontendKey, set[Claimant]] = {}
        self._markers: dict[FrontendKey, tuple[_MarkerHolder, ...]] = {}
        self._claimed: set[int] = set()
        self._by_chance: set[Claimant] = set()
        inputs.changed.update(inputs.everyone())

    @property
    def conflicts(self) -> Mapping[Claimant, Placed]:
        """Claimants with a frontend that another has."""
        names = {claimant for waiting in self._waiting.values() for claimant in waiting}
        return {claimant: self.placed[claimant] for claimant in names}

    @property
    def limits(self) -> dict[str, int]:
        """Rows at most, by table."""
        return {mirror.table: mirror.limit for mirror in self._tables.mirrors}

    @property
    def rows(self) -> dict[str, int]:
        """Rows by table."""
        return {mirror.table: len(mirror.rows) for mirror in self._tables.mirrors}

    def frontend(self, key: FrontendKey) -> Frontend | None:
        """A row as it stands."""
        return self._tables.frontends.get(key)

    def has_backend(self, number: int) -> bool:
        """Whether a backend's row stands."""
        return self._tables.has_backend(number)

    def owner(self, key: FrontendKey) -> Claimant | None:
        """Who has a frontend."""
        return self._owners.get(key)

    def plan(self, *, prune: bool = True) -> Plan:
        """Take up everything that changed. `prune` False: Services are not all known yet, and stay as they were found."""
        plan = Plan()
        changed = {claimant for claimant in self._inputs.changed if prune or isinstance(claimant, HostPort)}
        self._inputs.changed -= changed
        self._work(changed, plan)
        if prune and self._tables.adopting:
            ranges = {each for placed in self.placed.values() for each in placed.ranges}
            self._tables.prune(self._claimed, self._owners.keys() | self._markers.keys(), ranges)
        self._close(plan)
        if plan.freed and (self.left_out or self._by_chance):
            again = {claimant for claimant, out in self.left_out.items() if self._tables.room(out.table) >= out.rows}
            self._work(again | self._by_chance, plan)
            self._close(plan)
        plan.gone = {number: backend for number, backend in plan.gone.items() if not self.has_backend(number)}
        return plan

    def _work(self, claimants: Iterable[Claimant], plan: Plan) -> None:
        for turn, claimant in enumerate(sorted(claimants, key=self._inputs.rank), 1):
            self._settle(claimant, plan)
            if turn % ROUND == 0:
                self._close(plan)

    def _settle(self, claimant: Claimant, plan: Plan) -> None:
        """Look at a claimant, and in the same round at those that lose a frontend to it or may have one that it left."""
        queue = deque([claimant])
        while queue:
            claimant = queue.popleft()
            try:
                queue.extend(self._place(claimant, self._resolve(claimant), plan))
                self.left_out.pop(claimant, None)
            except FullError as full:
                if self._tables.deletions:
                    self._close(plan)  # what goes makes room: look again
                    queue.appendleft(claimant)
                    continue
                if claimant not in self.left_out:
                    plan.notices += self._notices(claimant, "ServiceLeftOut", f"the table {full.table} of this node has no room for it")
                self.left_out[claimant] = LeftOut(full.table, full.growth)
                queue.extend(self._place(claimant, Resolved(), plan))

    def _close(self, plan: Plan) -> None:
        plan.freed = plan.freed or self._tables.deletions > 0
        steps, gone = self._tables.close()
        plan.steps += steps
        plan.gone |= gone

    def _resolve(self, claimant: Claimant) -> Resolved:
        if not self._inputs.has(claimant):
            return Resolved()
        if isinstance(claimant, Key):
            return resolve(self._inputs.services[claimant], self._inputs.slices(claimant), self._inputs.here)
        return resolve_host_port(claimant)

    def _place(self, claimant: Claimant, resolved: Resolved, plan: Plan) -> set[Claimant]:
        """Make the rows of a claimant those that it wants; who else has to be looked at then. Raises `FullError`, with nothing done."""
        old = self.placed.get(claimant, _NOTHING)
        held, lost = self._contend(claimant, resolved.frontends)
        numbers = self._numbers(claimant, old, held)
        self._tables.mark()
        counts = {name: self._tables.fill(group, self._backends(claimant, resolved, name, group)) for name, group in numbers.items()}
        spread = {wanted.maglev for wanted in held}
        balanced = {name for name, group in numbers.items() if self._tables.balance(group, wanted=name in spread and counts[name] > 0)}
        ranges = dict.fromkeys(SourceRange(numbers[wanted.inside], network) for wanted in held for network in wanted.source_ranges)
        self._tables.guard(ranges, ())
        for wanted in held:
            self._tables.frontends.put(wanted.key, _row(wanted, numbers, counts, balanced))
        markers = {FrontendKey(address, 0, 0): announced for address, announced in (resolved.markers or {}).items()}
        holders = {key: (*self._other_holders(key, claimant), (claimant, announced)) for key, announced in markers.items()}
        for key, entries in holders.items():
            self._tables.frontends.put(key, self._marker(entries))
        self._tables.check()
        # From here on nothing is added, and nothing can fail.
        self._tables.guard(ranges, old.ranges)
        again = self._change_hands(claimant, old, [wanted.key for wanted in held])
        self._wait(claimant, old, lost, plan)
        self._number(old, numbers)
        self._leave_markers(claimant, [key for key in old.markers if key not in markers])
        self._markers.update(holders)
        _tell(self._by_chance, claimant, is_in=any(counts[name] for name in numbers.keys() & spread - balanced))
        for starved, kinds, flag in (
            (self.starved["internal"], _INTERNAL, FrontendFlag.DROP_INSIDE),
            (self.starved["external"], EXTERNAL, FrontendFlag.DROP_OUTSIDE),
        ):
            _tell(starved, claimant, is_in=any(wanted.flags & flag for wanted in held if wanted.kind in kinds))
        now = Placed(tuple(wanted.key for wanted in held), tuple(numbers.items()), tuple(markers), tuple(ranges), tuple(lost))
        if now == _NOTHING:
            self.placed.pop(claimant, None)
        else:
            self.placed[claimant] = now
        return again

    def _contend(self, claimant: Claimant, frontends: Iterable[Wanted]) -> tuple[list[Wanted], list[FrontendKey]]:
        """Which frontends the claimant gets, and which another has that comes first."""
        held, lost = [], []
        for wanted in frontends:
            owner = self._owners.get(wanted.key)
            if owner is None or owner == claimant or self._precedence(claimant, wanted.key) < self._precedence(owner, wanted.key):
                held.append(wanted)
            else:
                lost.append(wanted.key)
        return held, lost

    def _precedence(self, claimant: Claimant, key: FrontendKey) -> tuple[bool, Rank]:
        """The lower has it. A cluster IP was given out by the API server: no external IP of another Service, however old, takes it."""
        service = self._inputs.services.get(claimant) if isinstance(claimant, Key) else None
        return service is None or key.address not in service.addresses, self._inputs.rank(claimant)

    def _numbers(self, claimant: Claimant, old: Placed, held: Sequence[Wanted]) -> dict[GroupName, int]:
        known, numbers = dict(old.groups), dict[GroupName, int]()
        for name in dict.fromkeys(name for wanted in held for name in (wanted.inside, wanted.outside) if name is not None):
            taken = numbers.values()
            number = known.get(name) or (self._adopted(name, held, taken) if self._tables.adopting else 0)
            numbers[name] = number or self._tables.new_group(f"{claimant!r} {tuple(name)}".encode(), taken)
        return numbers

    def _adopted(self, name: GroupName, held: Iterable[Wanted], taken: Collection[int]) -> int:
        """The number that the rows of an earlier process have for a group; 0 if there is none."""
        for wanted in held:
            row = self._tables.frontends.rows.get(wanted.key)
            if row is None or wanted.key in self._owners:
                continue
            number = row.service_id if wanted.inside == name else row.outside_id if wanted.outside == name else 0
            if number and number not in self._claimed and number not in taken:
                return number
        return 0

    def _backends(self, claimant: Claimant, resolved: Resolved, name: GroupName, group: int) -> tuple[Backend, ...]:
        wanted = (resolved.groups or {})[name]
        if not wanted and claimant == KUBERNETES:
            return tuple(backend for _, backend in self._tables.backends(group))
        return wanted

    def _change_hands(self, claimant: Claimant, old: Placed, held: Sequence[FrontendKey]) -> set[Claimant]:
        """Who loses a frontend to the claimant, and who may get one that it had."""
        again = set[Claimant]()
        for key in held:
            again.add(self._owners.get(key, claimant))
            self._owners[key] = claimant
            if key in self._waiting:
                mine = self._precedence(claimant, key)
                again.update(other for other in self._waiting[key] if self._precedence(other, key) < mine)
        for key in set(old.frontends).difference(held):
            if self._owners.get(key) == claimant:
                del self._owners[key]
                self._tables.frontends.drop(key)
                again |= self._waiting.get(key, set())
        return again - {claimant}

    def _wait(self, claimant: Claimant, old: Placed, lost: Sequence[FrontendKey], plan: Plan) -> None:
        for key in set(old.lost).difference(lost):
            self._waiting[key].discard(claimant)
            if not self._waiting[key]:
                del self._waiting[key]
        for key in lost:
            self._waiting.setdefault(key, set()).add(claimant)
            if key not in old.lost:
                owner = self._owners[key]
                why = "which is older" if self._precedence(owner, key)[0] else "whose cluster IP it is"
                text = f"{describe(key)} is served for {owner}, {why}; the rest of this Service is served"
                plan.notices += self._notices(claimant, "FrontendTaken", text)

    def _number(self, old: Placed, numbers: Mapping[GroupName, int]) -> None:
        kept = set(numbers.values())
        for _, group in old.groups:
            if group not in kept:
                self._tables.empty(group)
                self._claimed.discard(group)
        self._claimed |= kept
        self._tables.claim(kept)

    def _other_holders(self, key: FrontendKey, claimant: Claimant) -> tuple[_MarkerHolder, ...]:
        return tuple(holder for holder in self._markers.get(key, ()) if holder[0] != claimant)

    def _marker(self, holders: Iterable[_MarkerHolder]) -> Frontend:
        """One node announces an address, though several Services may have it: the oldest that cares decides."""
        said = [(self._inputs.rank(claimant), announced) for claimant, announced in holders if announced is not None]
        return _ANNOUNCED if said and min(said)[1] else _SILENT

    def _leave_markers(self, claimant: Claimant, keys: Iterable[FrontendKey]) -> None:
        for key in keys:
            rest = self._other_holders(key, claimant)
            if rest:
                self._markers[key] = rest
                self._tables.frontends.put(key, self._marker(rest))
            else:
                del self._markers[key]
                self._tables.frontends.drop(key)

    def _notices(self, claimant: Claimant, reason: str, message: str) -> list[Notice]:
        if isinstance(claimant, HostPort):
            return []
        service = self._inputs.services.get(claimant)
        return [Notice(claimant, service.uid if service is not None else "", reason, message)]


def describe(key: FrontendKey) -> str:
    """A frontend for people."""
    protocol = PROTOCOL_NAMES.get(key.protocol, str(key.protocol))
    if key.scope is FrontendScope.ADDRESS:
        address = f"[{key.address}]" if key.address.version == 6 else str(key.address)
        return f"{address}:{key.port}/{protocol}"
    return f"{'node' if key.scope is FrontendScope.NODE_PORT else 'host'} port {key.port}/{protocol}"


def _tell(claimants: set[Claimant], claimant: Claimant, *, is_in: bool) -> None:
    (claimants.add if is_in else claimants.discard)(claimant)


def _row(wanted: Wanted, numbers: Mapping[GroupName, int], counts: Mapping[GroupName, int], balanced: Collection[GroupName]) -> Frontend:
    inside, outside = wanted.inside, wanted.outside
    flags = wanted.flags | FrontendFlag.MAGLEV if wanted.maglev in balanced else wanted.flags
    if outside is None:
        return Frontend(numbers[inside], counts[inside], flags, affinity_timeout=wanted.affinity_timeout)
    return Frontend(numbers[inside], counts[inside], flags, numbers[outside], counts[outside], wanted.affinity_timeout)
