"""Services of type LoadBalancer and a pool -> which Service has which addresses. Pure.

Invariants: the same Services in any order give the same answer; an address belongs to one Service, and of two that have it the older
keeps it; a Service that has an address of the pool keeps it for as long as it wants one of that family, unless it asks by
`spec.loadBalancerIP` for another that is free; a Service that names another loadBalancerClass, or that has an address from
elsewhere, is somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from agent.watch.records import Key, key_of

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

CLASS = "provisioner.dev/anetd"
"""The `spec.loadBalancerClass` that is ours; a Service without one is, too."""

USED_UP, NOT_IN_POOL, TAKEN, NO_FAMILY = (
    "LoadBalancerPoolUsedUp",
    "LoadBalancerIPNotInPool",
    "LoadBalancerIPTaken",
    "LoadBalancerPoolLacksFamily",
)
_FAMILIES = {"IPv4": 4, "IPv6": 6}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a Service of type LoadBalancer asks for and has. `created` is the API's text, which sorts as time does.

    `families` are 4 and 6 in the Service's order; `wanted` is `spec.loadBalancerIP`; `foreign`: what it has or names is not ours.
    """

    key: Key
    uid: str
    created: str
    families: tuple[int, ...]
    wanted: Address | None = None
    wanted_text: str = ""
    held: tuple[Address, ...] = ()
    foreign: bool = False
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a Service lacks an address that it asks for."""

    key: Key
    uid: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The addresses of every Service that is ours, in the order of its families, and what could not be given."""

    addresses: Mapping[Key, tuple[Address, ...]]
    problems: Sequence[Problem]


def claim(document: Mapping[str, Any]) -> Claim:
    """A claim from a Service's JSON."""
    spec, metadata = document.get("spec") or {}, document.get("metadata") or {}
    held: list[Address] = []
    foreign = (spec.get("loadBalancerClass") or CLASS) != CLASS
    for row in ((document.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ():
        try:
            held.append(ip_address(row.get("ip") or ""))
        except ValueError:
            foreign = True  # a host name: we give none
    text = spec.get("loadBalancerIP") or ""
    try:
        wanted = ip_address(text) if text else None
    except ValueError:
        wanted = None
    return Claim(
        key_of(document),
        metadata.get("uid") or "",
        metadata.get("creationTimestamp") or "",
        tuple(_FAMILIES[name] for name in spec.get("ipFamilies") or ["IPv4"] if name in _FAMILIES),
        wanted,
        text,
        tuple(held),
        foreign,
        bool(metadata.get("deletionTimestamp")),
    )


def allocate(claims: Iterable[Claim], pool: Sequence[Network]) -> Plan:
    """Who has which address of the pool."""
    ours = sorted((each for each in claims if _is_ours(each, pool)), key=lambda each: (each.created, each.key.namespace, each.key.name))
    taken: dict[Address, Key] = {}
    given: dict[Key, dict[int, Address]] = {each.key: _kept(each, taken) for each in ours}
    waiting = _fulfil_wishes([each for each in ours if each.wanted_text and not each.leaving], pool, taken, given)
    problems = list(waiting.values())
    free = {version: _free(pool, version, taken) for version in (4, 6)}
    for each in ours:
        if each.leaving or each.key in waiting:
            continue
        lacking = []
        for version in each.families:
            if version in given[each.key]:
                continue
            address = next(free[version], None)
            if address is None:
                lacking.append(version)
                continue
            taken[address] = each.key
            given[each.key][version] = address
        problems += _shortages(each, lacking, pool, given[each.key])
    return Plan({each.key: tuple(given[each.key][v] for v in each.families if v in given[each.key]) for each in ours}, problems)


def in_pool(address: Address, pool: Sequence[Network]) -> bool:
    """Whether the pool may give the address."""
    return any(network.version == address.version and address in network and _usable(address, network) for network in pool)


def _is_ours(each: Claim, pool: Sequence[Network]) -> bool:
    return not each.foreign and all(any(address in network for network in pool) for address in each.held)


def _kept(each: Claim, taken: dict[Address, Key]) -> dict[int, Address]:
    kept: dict[int, Address] = {}
    for address in each.held:
        if address.version in each.families and address.version not in kept and address not in taken:
            taken[address] = each.key
            kept[address.version] = address
    return kept


def _fulfil_wishes(
    claims: Sequence[Claim], pool: Sequence[Network], taken: dict[Address, Key], given: Mapping[Key, dict[int, Address]]
) -> dict[Key, Problem]:
    """What stands in the way of whom. A Service that gets its wish may leave an address that an older one waits for: hence the rounds."""
    while True:
        problems: dict[Key, Problem] = {}
        for each in claims:
            problem = _fulfil_wish(each, pool, taken, given[each.key])
            if problem is not None:
                problems[each.key] = problem
        if len(problems) == len(claims):
            return problems
        claims = [each for each in claims if each.key in problems]


def _fulfil_wish(each: Claim, pool: Sequence[Network], taken: dict[Address, Key], given: dict[int, Address]) -> Problem | None:
    """Give the Service the address that it names; if it cannot have it, it waits for it and keeps what it has."""

    def problem(reason: str, why: str) -> Problem:
        return Problem(each.key, each.uid, reason, f"spec.loadBalancerIP {each.wanted_text}: {why}")

    wanted = each.wanted
    if wanted is None or not in_pool(wanted, pool):
        return problem(NOT_IN_POOL, f"it is no address of the pool {_text(pool)}; name one of the pool, or leave the field out")
    if wanted.version not in each.families:
        return problem(NOT_IN_POOL, f"the Service has no IPv{wanted.version} in spec.ipFamilies; add it, or name another address")
    holder = taken.get(wanted)
    if holder == each.key:
        return None
    if holder is not None:
        return problem(TAKEN, f"Service {holder} has it; delete that one, or name another address")
    if wanted.version in given:
        del taken[given[wanted.version]]
    taken[wanted] = each.key
    given[wanted.version] = wanted
    return None


def _shortages(each: Claim, lacking: Sequence[int], pool: Sequence[Network], given: Mapping[int, Address]) -> Iterator[Problem]:
    for version in lacking:
        if any(network.version == version for network in pool):
            why = f"no IPv{version} address of the pool {_text(pool)} is free; delete a Service of type LoadBalancer"
            yield Problem(each.key, each.uid, USED_UP, why)
        elif not given:
            why = f"the pool {_text(pool)} has no IPv{version} addresses; use another of spec.ipFamilies"
            yield Problem(each.key, each.uid, NO_FAMILY, why)


def _free(pool: Sequence[Network], version: int, taken: Mapping[Address, Key]) -> Iterator[Address]:
    for network in pool:
        if network.version == version:
            hosts: Iterator[Address] = iter(network.hosts())
            yield from (address for address in hosts if address not in taken)


def _usable(address: Address, network: Network) -> bool:
    """As `hosts()`: neither the network's own address nor IPv4's broadcast, where there are others."""
    if network.prefixlen >= network.max_prefixlen - 1:
        return True
    return address != network.network_address and not (address.version == 4 and address == network.broadcast_address)


def _text(pool: Sequence[Network]) -> str:
    return ", ".join(map(str, pool))
