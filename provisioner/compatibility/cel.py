"""A rule as CEL, for the API server to judge by. Pure; the same semantics as `conditions`, which a test on a real API server holds.

Fields are read with optionals, so an object that lacks one is no error. `object` may be any object of the kinds that the policy matches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from provisioner.compatibility.conditions import UNLIKE, parts, places
from provisioner.compatibility.model import Condition, Rule

_LEAVES: dict[str, Callable[[str, object], str]] = {
    "equals": lambda place, value: f"{place}.orValue(null) == {literal(value)}",
    "differs": lambda place, value: f"{place}.orValue(null) != {literal(value)}",
    "matches": lambda place, value: f"{place}.orValue('').matches({literal(value)})",
    "above": lambda place, value: f"{place}.orValue(0) > {literal(value)}",
    "below": lambda place, value: f"{place}.orValue(0) < {literal(value)}",
    "present": lambda place, _value: f"{place}.hasValue()",
}


def expression(rule: Rule, kind: str) -> str:
    """Holds for an object of `kind` that trips the rule. `true` where the kind alone does."""
    found = [_within("object", list(parts(place)), lambda place: _all(place, rule.when), 0) for place in places(rule, kind)]
    return " || ".join(found) if len(found) == 1 else " || ".join(f"({text})" for text in found)


def literal(value: object) -> str:
    """A value of JSON in CEL's words, which are the same."""
    return json.dumps(value, ensure_ascii=False)


def _all(element: str, conditions: Sequence[Condition]) -> str:
    found = [_condition(element, condition) for condition in conditions]
    return " && ".join(f"({text})" for text in found) if len(found) > 1 else "".join(found) or "true"


def _condition(element: str, condition: Condition) -> str:
    if condition.op == UNLIKE:
        own, other = _optional(element, list(parts(condition.path))), _optional(element, list(parts(condition.value)))
        return f"{own}.hasValue() && {other}.hasValue() && {own}.value() != {other}.value()"
    op = "present" if condition.op == "absent" else condition.op
    text = _within(element, list(parts(condition.path)), lambda place: _LEAVES[op](place, condition.value), 0, op)
    return f"!{text}" if condition.op == "absent" else text


def _within(element: str, names: Sequence[str], inner: Callable[[str], str], depth: int, op: str = "") -> str:
    """`inner` at a path below `element`, for any item where the path has a wildcard; nothing there is `false`.

    With an operator, the place is left an optional for its leaf; without one, it is a value that has to be there.
    """
    if "*" in names:
        star = names.index("*")
        item = f"{'i' if not op else 'c'}{len(element)}x{depth}"
        rest = _within(item, names[star + 1 :], inner, depth + 1, op)
        return f"{_optional(element, names[:star])}.orValue([]).exists({item}, {rest})"
    place = _optional(element, names)
    if op:
        return inner(place if names else f"optional.of({element})")
    if not names:
        return inner(element)
    item = f"o{depth}"
    return f"{place}.hasValue() && [{place}.value()].exists({item}, {inner(item)})"


def _optional(element: str, names: Sequence[str]) -> str:
    return element + "".join(f".?{name}" if name.isidentifier() else f"[?{literal(name)}]" for name in names)
