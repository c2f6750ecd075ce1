"""Look into a document: paths with [*], and the operators of a rule's conditions. Pure.

A path is dotted names; `a[*].b` reaches the `b` of every item of the list `a`, and `a['c.d']` a name that has dots itself. What is not
there is not an error: it is a value that is absent. What a Terraform plan cannot know yet is `Unknown`, and no condition holds for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from provisioner.compatibility import versions
from provisioner.compatibility.model import Condition, Rule

Path = tuple[str | int, ...]

_PART = re.compile(r"([^.\[\]']+|\[\*\])|\['([^']+)'\]")


class Unknown:
    """A value that is known after an apply only."""


UNKNOWN: Final = Unknown()


def _older(value: Any, floors: Any) -> bool:
    return isinstance(value, str) and versions.is_older(value, floors) is True


# The condition's value is the name of another field of the same element; both have to be there, and differ.
UNLIKE: Final = "unlike"
# Operator -> (value found, value of the condition) -> whether it holds. Only those of _OF_ABSENT may hold for what is not there.
OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "equals": lambda found, wanted: bool(found == wanted and type(found) is type(wanted)),
    "differs": lambda found, wanted: bool(found != wanted),
    "matches": lambda found, wanted: isinstance(found, str) and re.search(wanted, found) is not None,
    "above": lambda found, wanted: isinstance(found, int) and not isinstance(found, bool) and found > wanted,
    "below": lambda found, wanted: isinstance(found, int) and not isinstance(found, bool) and found < wanted,
    UNLIKE: lambda found, wanted: bool(found != wanted),
    "older": _older,
    "present": lambda _found, _wanted: True,
    "absent": lambda _found, _wanted: False,
}
_OF_ABSENT = frozenset({"absent", "differs"})
# Where the kinds that run pods keep a pod's spec.
POD_SPEC: Mapping[str, str] = {
    "Pod": "spec",
    "batch/CronJob": "spec.jobTemplate.spec.template.spec",
    "apps/DaemonSet": "spec.template.spec",
    "apps/Deployment": "spec.template.spec",
    "apps/ReplicaSet": "spec.template.spec",
    "apps/StatefulSet": "spec.template.spec",
    "batch/Job": "spec.template.spec",
}


def parts(path: str) -> Iterator[str]:
    """The names and wildcards of a path: `a[*].b['c.d']` is a, *, b, c.d."""
    for name, quoted in _PART.findall(path):
        yield quoted or ("*" if name == "[*]" else name)


def resolve(document: Any, path: str, start: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value at a path with the exact place it was found at."""
    found: list[tuple[Path, Any]] = [(start, document)]
    for part in parts(path):
        inner: list[tuple[Path, Any]] = []
        for where, value in found:
            if part == "*":
                inner += [((*where, index), item) for index, item in enumerate(value)] if isinstance(value, list) else []
            elif isinstance(value, dict) and part in value:
                inner.append(((*where, part), value[part]))
            elif value is UNKNOWN:
                inner.append(((*where, part), UNKNOWN))
        found = inner
    yield from found


def trips(rule: Rule, kind: str, document: Mapping[str, Any]) -> Iterator[Path]:
    """The places at which every condition of the rule holds; () is the document as a whole."""
    for place in places(rule, kind):
        for where, value in resolve(document, place):
            paths = [_holds(condition, value, where) for condition in rule.when]
            if None not in paths:
                yield max((where, *(path for path in paths if path is not None)), key=len)


def places(rule: Rule, kind: str) -> Sequence[str]:
    """`each`, with `pod` written out for the kind."""
    if not rule.each:
        return ("",)
    prefix = POD_SPEC.get(kind, "spec")
    return [prefix + place[3:] if place == "pod" or place.startswith("pod.") else place for place in rule.each]


def _holds(condition: Condition, element: Any, start: Path) -> Path | None:
    """Where it holds first, None when it does not. What is absent holds at the element that lacks it."""
    found = list(resolve(element, condition.path, start))
    values = [(path, value) for path, value in found if value is not None and value is not UNKNOWN]
    if condition.op in _OF_ABSENT and not values:
        return start if not any(value is UNKNOWN for _, value in found) else None
    operator = OPERATORS[condition.op]
    if condition.op == UNLIKE:
        others = [value for _, value in resolve(element, condition.value, start)]
        return next((path for path, value in values if any(other not in (None, UNKNOWN) and other != value for other in others)), None)
    return next((path for path, value in values if operator(value, condition.value)), None)


def dotted(path: Path) -> str:
    """spec.ports[0].protocol"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
