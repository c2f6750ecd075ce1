"""What does not fit into the tables, in words and with the policies and pods that it is about. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.policy.inputs import Limits, Trouble
from agent.policy.known import Policies
from agent.policy.sets import RuleSet
from agent.policy.settable import SetTable
from agent.watch.records import Key

Users = Mapping[RuleSet, Iterable[Key]]
"""The local pods that each set judges."""


def find_troubles(policies: Policies, sets: SetTable, users: Users, left_out: int, limits: Limits) -> tuple[Trouble, ...]:
    """In the order of the policies' names. `left_out`: addresses of pods for which there is no room."""
    found: dict[tuple[Key, str], set[Key]] = {}
    for each in sets.closed:
        for policy, message in _blame(policies, sets, each, limits):
            found.setdefault((policy, message), set()).update(users.get(each, ()))
    if left_out:
        message = f"the table of classes of this node has no room for {left_out} addresses of pods: no selector lets them in"
        for each, pods in users.items():
            for policy, _ in each.name.members:
                if any(term.block is None for term in policies.by_key[policy].terms):
                    found.setdefault((policy, message), set()).update(pods)
    troubles = (
        Trouble(key, policies.by_key[key].record.uid, tuple(sorted(pods, key=str)), message) for (key, message), pods in found.items()
    )
    return tuple(sorted(troubles, key=lambda trouble: (str(trouble.policy), trouble.message)))


def _blame(policies: Policies, sets: SetTable, each: RuleSet, limits: Limits) -> list[tuple[Key, str]]:
    """The policies for which a set is closed: those whose networks do not fit, or else the one with the most rows."""
    direction = each.name.direction.name.lower()
    big = [policy for policy, _ in each.name.members if policy in policies.oversized]
    if big:
        room = f"the table of classes of this node has room for {limits.networks} networks of ipBlocks"
        return [
            (key, f"it names {policies.by_key[key].networks} networks, and {room}: all {direction} of its pods is denied") for key in big
        ]
    if each.size > limits.set_rows:
        room = f"one pod may have {limits.set_rows}"
    else:
        room = f"with those of other pods they are more than the {limits.policies} that this node has room for"
    return [(sets.heaviest(each), f"the {direction} rules of its pods are {each.size} rows, and {room}: all their {direction} is denied")]
