"""From a document's text and a command's flags to one ClusterSpec, with errors that name file, line and the way out. Pure.

A flag wins over the file. Every problem is told at once; the error's `field` is the first one's.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from provisioner import errors
from provisioner.spec.fields import GATE, INVALID, WHOLE
from provisioner.spec.models import API_VERSION, KIND, ClusterSpec
from provisioner.spec.networks import Path, Problem, dotted

# A document of this format needs five levels and some dozens of values; far beyond that it is an accident or an attack by aliases.
_MAX_DEPTH = 16
_MAX_NODES = 10_000


@dataclass(frozen=True, slots=True)
class Override:
    """A value that a flag gives: where it goes in the document, and the flag that errors name."""

    path: tuple[str, ...]
    value: Any
    flag: str


@dataclass(frozen=True, slots=True)
class _Source:
    """Where each value came from."""

    name: str
    lines: Mapping[Path, int]
    flags: Mapping[Path, str]

    def place(self, path: Path) -> str:
        """The flag or file:line that gave the value at `path`, or the nearest value around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.flags:
                return self.flags[path[:end]]
            if path[:end] in self.lines:
                return f"{self.name}:{self.lines[path[:end]]}"
        return ""

    def line(self, path: Path) -> int:
        """For telling problems in the document's order, those of flags last."""
        place = self.place(path).rpartition(":")[2]
        return int(place) if place.isdigit() else sys.maxsize


def load_spec(text: str | None, *, source: str = "", overrides: Sequence[Override] = ()) -> ClusterSpec:
    """The spec that a document (None: no file) and flags make together. `source` is the file's name, for errors.

    Raises `errors.SpecInvalid`, or `errors.RefusedByGate` for a dataplane that does not exist.
    """
    document: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND}
    lines: dict[Path, int] = {}
    if text is not None:
        document = _read(text, source, lines)
    _check_head(document, source, lines)
    for override in overrides:
        _put(document, override, source)
    if "metadata" not in document:
        document["metadata"] = {}
    origin = _Source(source, lines, {override.path: override.flag for override in overrides})
    try:
        return ClusterSpec.from_document(document)
    except ValidationError as error:
        gated = any(detail["type"] == GATE for detail in error.errors())
        problems = [problem for detail in error.errors() for problem in problems_of(detail)]
    raise _told(problems, origin, errors.RefusedByGate if gated else errors.SpecInvalid)


def problems_of(detail: ErrorDetails) -> Sequence[Problem]:
    """What one of pydantic's errors says, in the words of this project."""
    path, context = detail["loc"], detail.get("ctx", {})
    match detail["type"]:
        case t if t == WHOLE:
            return list(context["problems"])
        case t if t in {INVALID, GATE}:
            return [Problem(path, context["reason"], context["remedy"])]
        case "extra_forbidden":
            return [_unknown_field(path)]
        case "missing":
            remedy = "Give the cluster's name as an argument or as metadata.name." if path == ("metadata", "name") else "Add it."
            return [Problem(path, "is missing", remedy)]
        case "greater_than_equal":
            return [Problem(path, f"is {detail['input']!r}", f"Use {context['ge']} or more.")]
        case "less_than_equal":
            return [Problem(path, f"is {detail['input']!r}", f"Use {context['le']} or less.")]
        case "int_type":
            return [Problem(path, f"is {detail['input']!r}, which is not a whole number", "Write a number, without quotes.")]
        case "bool_type":
            return [Problem(path, f"is {detail['input']!r}", "Write true or false, without quotes.")]
        case "literal_error":
            return [Problem(path, f"is {detail['input']!r}", f"Use {context['expected']}.")]
        case "model_type" | "dict_type" | "model_attributes_type":
            return [Problem(path, "is not a mapping of fields", "Write its fields below it, indented, one `name: value` a line.")]
        case "tuple_type" | "list_type":
            return [Problem(path, "is not a list", "Write one `- item` a line.")]
        case _:
            return [Problem(path, detail["msg"][:1].lower() + detail["msg"][1:], "Correct the value; `provisioner schema` describes it.")]


def _read(text: str, source: str, lines: dict[Path, int]) -> dict[str, Any]:
    """The document's data; `lines` receives each value's line, a mapping's entries that of their key."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            data = _construct(loader, root, (), lines, source, [0], 0) if root is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}" if mark else source
        raise errors.SpecInvalid(f"{place}: {error.problem or error.context}", remedy="Correct the YAML there.") from None
    except yaml.YAMLError as error:
        raise errors.SpecInvalid(f"{source}: {error}".replace("\n", " "), remedy="Write the file as YAML in UTF-8.") from None
    if not isinstance(data, dict):
        what = "is empty" if data is None else "is not a mapping"
        raise errors.SpecInvalid(f"{source}: the document {what}", remedy=f"Begin it with apiVersion: {API_VERSION} and kind: {KIND}.")
    return data


def _construct(
    loader: yaml.SafeLoader, node: yaml.Node, path: Path, lines: dict[Path, int], source: str, count: list[int], depth: int
) -> Any:
    count[0] += 1
    if depth > _MAX_DEPTH or count[0] > _MAX_NODES:
        raise errors.SpecInvalid(
            f"{source}:{node.start_mark.line + 1}: the document is nested too deeply or too large", remedy="Leave YAML aliases out."
        )
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, index), lines, source, count, depth + 1) for index, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        plain = isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge"
        key = loader.construct_object(key_node) if plain else None
        if not isinstance(key, str):
            raise errors.SpecInvalid(f"{source}:{line}: a field's name must be text", remedy="Put it in quotes.", field=dotted(path))
        here = (*path, key)
        if key in mapping:
            raise errors.SpecInvalid(
                f"{source}:{line}: {dotted(here)} is given twice, first in line {lines[here]}",
                remedy="Keep one of them.",
                field=dotted(here),
            )
        lines[here] = line
        mapping[key] = _construct(loader, value_node, here, lines, source, count, depth + 1)
    return mapping


def _check_head(document: Mapping[str, Any], source: str, lines: Mapping[Path, int]) -> None:
    """apiVersion and kind first: with another format, every other complaint would mislead."""
    for field, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        given = document.get(field)
        if given != expected:
            line = lines.get((field,), 1)
            what = "is missing" if given is None else f"is {given!r}"
            raise errors.SpecInvalid(f"{source}:{line}: {field} {what}", remedy=f"Write {field}: {expected}.", field=field)


def _put(document: dict[str, Any], override: Override, source: str) -> None:
    where: dict[str, Any] = document
    for part in override.path[:-1]:
        inner = where.get(part)
        if inner is None:
            inner = where[part] = {}
        if not isinstance(inner, dict):
            raise errors.SpecInvalid(
                f"{source}: {part} is not a mapping of fields, so {override.flag} cannot be put into it",
                remedy="Write its fields below it, indented, one `name: value` a line.",
                field=dotted(override.path[:-1]),
            )
        where = inner
    where[override.path[-1]] = override.value


def _told(problems: Sequence[Problem], origin: _Source, kind: type[errors.ProvisionerError]) -> errors.ProvisionerError:
    def sentence(problem: Problem) -> str:
        place = origin.place(problem.path)
        head = f"{place}: " if place else ""
        return f"{head}{dotted(problem.path)} {problem.reason}"

    problems = sorted(problems, key=lambda problem: origin.line(problem.path))
    first = problems[0]
    if len(problems) == 1:
        return kind(sentence(first), remedy=first.remedy, field=dotted(first.path))
    told = "\n".join(f"  {sentence(problem)}. {problem.remedy}" for problem in problems)
    return kind(
        f"the spec has {len(problems)} problems:\n{told}", remedy="Correct them and run the command again.", field=dotted(first.path)
    )


def _unknown_field(path: Path) -> Problem:
    known = _fields_at(path[:-1])
    wanted = str(path[-1])
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(wanted.lower().replace("_", "").replace("-", ""), lowered, n=1, cutoff=0.6)
    remedy = f"Did you mean {lowered[close[0]]}?" if close else f"Known here: {', '.join(known)}." if known else "Leave it out."
    return Problem(path, "is not a known field", remedy)


def _fields_at(path: Path) -> Sequence[str]:
    """The names that the document may use at `path`."""
    model: type[BaseModel] = ClusterSpec
    for part in path:
        info = next((info for info in model.model_fields.values() if info.alias == part), None)
        inner = _model_in(info.annotation) if info is not None else None
        if inner is None:
            return ()
        model = inner
    return [info.alias or name for name, info in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
