"""Where the members of the kernel's structures are, out of the kernel's own description of its types (BTF). Pure.

BCC compiles against header files, and no package of headers fits every kernel that a node may run. So a probe uses no header's structure:
it reads at offsets that the running kernel names in /sys/kernel/btf/vmlinux.
Source: Documentation/bpf/btf.rst of the kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

_MAGIC = 0xEB9F
_PTR, _ARRAY, _STRUCT, _UNION, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT = 1, 3, 4, 5, 8, 9, 10, 11
_TYPE_TAG = 18
_SEEN_THROUGH = frozenset({_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG})
# Of each kind: bytes behind the head of 12, and bytes for each of its `vlen` parts. Source: struct btf_* of <linux/btf.h>.
_FIXED = (0, 4, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 4, 0, 0)
_EACH = (0, 0, 0, 0, 12, 12, 8, 0, 0, 0, 0, 0, 0, 8, 0, 12, 0, 0, 0, 12)
_HEAD = struct.Struct("=III")
_INFO = struct.Struct("=I")


class UnknownLayout(Exception):
    """The kernel does not describe this structure, or it has no such member."""


class Types:
    """The types of one kernel. `data` is what /sys/kernel/btf/vmlinux holds; raises `UnknownLayout` if it is not BTF of this machine."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 24 or struct.unpack_from("=H", data)[0] != _MAGIC:
            raise UnknownLayout("the kernel's description of its types cannot be read")
        header, types_at, types_size, strings_at, strings_size = struct.unpack_from("=IIIII", data, 4)
        self._data = data
        self._strings = data[header + strings_at : header + strings_at + strings_size]
        self._types = _positions(data, header + types_at, header + types_at + types_size)
        self._structs: dict[str, int] = {}

    def offset(self, path: str) -> int:
        """Bytes from the start of a structure to a member: "sk_buff.dev", "sock.__sk_common.skc_daddr". Members of unnamed parts count."""
        name, *members = path.split(".")
        position, total = self._struct(name), 0
        for member in members:
            found = self._member(position, member)
            if found is None:
                raise UnknownLayout(f"this kernel's {name} has no {'.'.join(members)}")
            offset, type_id = found
            total += offset
            position = self._resolved(type_id)
        return total

    def has(self, path: str) -> bool:
        try:
            self.offset(path)
        except UnknownLayout:
            return False
        return True

    def _struct(self, name: str) -> int:
        if name not in self._structs:
            wanted = self._strings.find(b"\0" + name.encode() + b"\0") + 1
            data, info = self._data, _HEAD.unpack_from
            for position in self._types[1:] if wanted else ():
                at, flags, _ = info(data, position)
                if at == wanted and (flags >> 24) & 31 in {_STRUCT, _UNION} and flags & 0xFFFF:
                    self._structs[name] = position
                    break
            else:
                raise UnknownLayout(f"this kernel does not describe its structure {name}")
        return self._structs[name]

    def _member(self, position: int, name: str) -> tuple[int, int] | None:
        """The offset and type of a member, looked for in unnamed members too."""
        _, flags, _ = _HEAD.unpack_from(self._data, position)
        if (flags >> 24) & 31 not in {_STRUCT, _UNION}:
            return None
        for index in range(flags & 0xFFFF):
            at, type_id, where = _HEAD.unpack_from(self._data, position + 12 + 12 * index)
            bits = where & 0xFFFFFF if flags >> 31 else where  # the upper eight are a bit field's size then
            if at == 0:
                inner = self._member(self._resolved(type_id), name)
                if inner is not None:
                    return bits // 8 + inner[0], inner[1]
            elif self._text(at) == name:
                return bits // 8, type_id
        return None

    def _resolved(self, type_id: int) -> int:
        """The position of a type, names and qualifiers seen through."""
        while True:
            position = self._types[type_id]
            _, flags, target = _HEAD.unpack_from(self._data, position)
            if not type_id or (flags >> 24) & 31 not in _SEEN_THROUGH:
                return position
            type_id = target

    def _text(self, at: int) -> str:
        return self._strings[at : self._strings.index(b"\0", at)].decode()


def offsets(data: bytes, paths: Iterable[str]) -> dict[str, int]:
    """The offsets of members. Raises `UnknownLayout` for the first that is not there."""
    types = Types(data)
    return {path: types.offset(path) for path in paths}


def _positions(data: bytes, position: int, end: int) -> list[int]:
    """Where each type begins, by its number; 0, which is void, has none. A tight loop: there are more than a hundred thousand."""
    found = [position]
    add, info = found.append, _INFO.unpack_from
    try:
        while position < end:
            add(position)
            (flags,) = info(data, position + 4)
            kind = (flags >> 24) & 31
            position += 12 + _FIXED[kind] + _EACH[kind] * (flags & 0xFFFF)
    except (IndexError, struct.error) as error:
        raise UnknownLayout("the kernel describes its types in a way that is newer than this program") from error
    return found
