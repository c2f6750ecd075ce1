"""YAML and JSON texts as documents with line numbers, one at a time. Pure: takes a text or a stream, and opens nothing.

Made from the parser's events rather than from its nodes: a hostile text can nest so deeply that composing its nodes overruns the C
stack, and an alias is shared here instead of copied, so that what a text would expand to is known before anything walks through it.
Values are plain: text, whole numbers, booleans and null as YAML 1.1 reads them; every other scalar stays text, which no rule asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Protocol

# A Kubernetes object nests some 20 deep, a CustomResourceDefinition's schema 60.
MAX_DEPTH = 200
# What aliases may add to what is written out: anchors spare people some lines, never millions.
MAX_ADDED = 200_000
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_WORDS = {
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
}
_FIRST = frozenset("tTyYoOfFnN~+-0123456789")


class Readable(Protocol):
    """A text or binary stream."""

    def read(self, size: int = ...) -> Any: ...


class Unreadable(Exception):
    """The text is not YAML, or is not worth the memory it asks for. `line` is 1-based, 0 when unknown."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class Mapping(dict[Any, Any]):
    """A mapping that knows its line, those of its keys, and how many values it would be without aliases."""

    __slots__ = ("line", "lines", "size")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line, self.size = line, 1
        self.lines: dict[Any, int] = {}


class Items(list[Any]):
    """A list that knows the lines of its items."""

    __slots__ = ("line", "lines", "size")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line, self.size = line, 1
        self.lines: list[int] = []


def read(stream: str | bytes | Readable) -> Iterator[tuple[int, Any]]:
    """Line and value of every document, as the stream comes in. Raises `Unreadable`; documents before that are given."""
    import yaml

    loader: Any = yaml.CSafeLoader(stream)
    try:
        while not loader.check_event(yaml.StreamEndEvent):
            event = loader.get_event()
            if isinstance(event, yaml.DocumentStartEvent):
                line: int = event.start_mark.line + 1  # type: ignore[union-attr]
                yield line, _document(loader, yaml)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unreadable(f"is not YAML: {error.problem or error.context}", mark.line + 1 if mark else 0) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Unreadable(f"is not YAML: {' '.join(str(error).split())}", 0) from None
    finally:
        loader.dispose()


def _document(loader: Any, yaml: Any) -> Any:
    """The one value up to the document's end."""
    anchors: dict[str, Any] = {}
    building = _Building()
    scalar, mapping, sequence, alias = yaml.ScalarEvent, yaml.MappingStartEvent, yaml.SequenceStartEvent, yaml.AliasEvent
    ends = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
    while True:
        event = loader.get_event()
        kind = type(event)
        line = event.start_mark.line + 1
        if kind is scalar:
            value = _scalar(event)
            if event.anchor:
                anchors[event.anchor] = value
            building.put(value, line)
        elif kind is mapping or kind is sequence:
            value = Mapping(line) if kind is mapping else Items(line)
            if event.anchor:
                anchors[event.anchor] = value
            building.open(value, line)
        elif kind in ends:
            building.close()
        elif kind is alias:
            if event.anchor not in anchors:
                raise Unreadable(f"is not YAML: there is no anchor {event.anchor}", line)
            value = anchors[event.anchor]
            if building.is_open(value):
                raise Unreadable(f"contains itself by its anchor {event.anchor}", line)
            building.put(value, line)
        else:
            return building.root[0] if building.root else None


_NO_KEY = object()
_COMPLEX_KEY = "<a key that is no text>"


class _Building:
    """A document in the making. The stack holds what is open: containers, and each mapping's key that waits for its value."""

    __slots__ = ("keys", "root", "stack", "written")

    def __init__(self) -> None:
        self.root: list[Any] = []
        self.stack: list[Any] = [self.root]
        self.keys: list[Any] = [None]
        self.written = 0

    def open(self, container: Mapping | Items, line: int) -> None:
        if len(self.stack) > MAX_DEPTH:
            raise Unreadable(f"nests more than {MAX_DEPTH} deep", line)
        self.stack.append(container)
        self.keys.append(_NO_KEY)

    def close(self) -> None:
        self.keys.pop()
        container = self.stack.pop()
        self.put(container, container.line)

    def is_open(self, value: Any) -> bool:
        return any(value is container for container in self.stack)

    def put(self, value: Any, line: int) -> None:
        self.written += 1
        container = self.stack[-1]
        if type(container) is Mapping:
            self._put_into(container, value, line)
            return
        if type(container) is Items:
            self._grow(container, value, line)
            container.lines.append(line)
        container.append(value)

    def _put_into(self, container: Mapping, value: Any, line: int) -> None:
        if self.keys[-1] is _NO_KEY:
            key = _COMPLEX_KEY if isinstance(value, dict | list) else value
            self.keys[-1] = key
            container.lines[key] = line
            return
        key, self.keys[-1] = self.keys[-1], _NO_KEY
        self._grow(container, value, line)
        if key == "<<":
            _merge(container, value)
        else:
            container[key] = value

    def _grow(self, container: Mapping | Items, value: Any, line: int) -> None:
        container.size += getattr(value, "size", 1)
        if container.size > self.written + MAX_ADDED:
            raise Unreadable(f"would have more than {MAX_ADDED} values more once its aliases are written out", line)


def _merge(container: Mapping, value: Any) -> None:
    for source in value if isinstance(value, list) else [value]:
        if isinstance(source, dict):
            for key, item in source.items():
                if key not in container:
                    container[key] = item
                    container.lines[key] = getattr(source, "lines", {}).get(key, container.line)


def _scalar(event: Any) -> Any:
    text = event.value
    if not event.implicit[0] or event.style:
        return text
    if not text or text[0] in _FIRST:
        if text in _WORDS:
            return _WORDS[text]
        if _WHOLE.fullmatch(text):
            return int(text)
    return text


def line_of(document: Any, path: tuple[str | int, ...]) -> int:
    """The line of the value at a path, or of the nearest value around it; 0 for documents without lines."""
    line, value = getattr(document, "line", 0), document
    for part in path:
        lines = getattr(value, "lines", None)
        try:
            line = lines[part] if lines is not None else line
            value = value[part]
        except (KeyError, IndexError, TypeError):
            break
    return int(line)
