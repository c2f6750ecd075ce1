"""What a kernel says of its tracepoints and structures, read as it stands there: of kernels that differ, and of what is none."""

from __future__ import annotations

import struct

import pytest

from agent.trace import btf, formats

NEW = """name: kfree_skb
ID: 2310
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:void * skbaddr;	offset:8;	size:8;	signed:0;
	field:void * rx_sk;	offset:24;	size:8;	signed:0;
	field:unsigned short protocol;	offset:32;	size:2;	signed:0;
	field:enum skb_drop_reason reason;	offset:36;	size:4;	signed:0;

print fmt: "skbaddr=%p reason: %s", REC->skbaddr, __print_symbolic(REC->reason, { 2, "NOT_SPECIFIED" }, { 3, "NO_SOCKET" }, { 0x4, "SOCKET_CLOSE" })
"""
OLD = """name: kfree_skb
ID: 1200
format:
	field:void * skbaddr;	offset:8;	size:8;	signed:0;
	field:void * location;	offset:16;	size:8;	signed:0;
	field:unsigned short protocol;	offset:24;	size:2;	signed:0;

print fmt: "skbaddr=%p protocol=%u location=%p", REC->skbaddr, REC->protocol, REC->location
"""
STATES = """name: inet_sock_set_state
format:
	field:__u8 saddr_v6[16];	offset:40;	size:16;	signed:0;

print fmt: "%s %s", __print_symbolic(REC->family, { 2, "AF_INET" }, { 10, "AF_INET6" }), __print_symbolic(REC->state, { TCP_CLOSE, "TCP_CLOSE" })
"""


def test_fields_are_where_the_kernel_says_and_its_reasons_have_its_names():
    found = formats.parse(NEW)
    assert found.name == "kfree_skb"
    assert (found.fields["skbaddr"], found.fields["reason"]) == (formats.Field(8, 8), formats.Field(36, 4))
    assert found.names["reason"] == {2: "NOT_SPECIFIED", 3: "NO_SOCKET", 4: "SOCKET_CLOSE"}


def test_a_kernel_without_reasons_has_none():
    found = formats.parse(OLD)
    assert "reason" not in found.fields
    assert not found.names
    assert found.fields["protocol"] == formats.Field(24, 2)


def test_arrays_and_several_words_lists_are_told_apart_and_words_without_numbers_are_passed_over():
    found = formats.parse(STATES)
    assert found.fields == {"saddr_v6": formats.Field(40, 16)}
    assert found.names == {"family": {2: "AF_INET", 10: "AF_INET6"}}


@pytest.mark.parametrize("text", ["", "no format at all", "name: x\n", "field:int a; offset:0; size:4;"])
def test_what_is_no_format_is_refused(text):
    with pytest.raises(ValueError, match="not the format"):
        formats.parse(text)


INT, POINTER, STRUCT, UNION, TYPEDEF, CONST, ENUM = 1, 2, 4, 5, 8, 10, 6


class Kernel:
    """BTF as a kernel would write it, type by type; each method gives the new type's number."""

    def __init__(self) -> None:
        self.types, self.strings, self.count = b"", b"\0", 0

    def text(self, name: str) -> int:
        if not name:
            return 0
        at = self.strings.find(b"\0" + name.encode() + b"\0")
        if at >= 0:
            return at + 1
        self.strings += name.encode() + b"\0"
        return len(self.strings) - len(name) - 1

    def add(self, name: str, kind: int, size: int, parts: bytes = b"", vlen: int = 0, flag: int = 0) -> int:
        self.types += struct.pack("=III", self.text(name), flag << 31 | kind << 24 | vlen, size) + parts
        self.count += 1
        return self.count

    def compound(self, name: str, *members: tuple[str, int, int], kind: int = STRUCT, bits: bool = False) -> int:
        """Members are name, type, offset in bits; with `bits` as the kernel writes them where there are bit fields."""
        parts = b"".join(struct.pack("=III", self.text(member), type_, at | (1 << 24 if bits else 0)) for member, type_, at in members)
        return self.add(name, kind, 64, parts, len(members), int(bits))

    def data(self) -> bytes:
        head = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings))
        return head + self.types + self.strings


@pytest.fixture
def kernel() -> Kernel:
    made = Kernel()
    number = made.add("int", INT, 4, struct.pack("=I", 32))
    made.add("colour", ENUM, 4, struct.pack("=II", 0, 0) * 3, vlen=3)
    inner = made.compound("inner", ("head", number, 0), ("inum", number, 96))
    made.compound("sk_buff_other", ("dev", number, 8))
    named = made.add("inner_t", TYPEDEF, made.add("", CONST, inner))
    nameless = made.compound("", ("scratch", number, 0), ("dev", number, 64))
    union = made.compound("", ("", nameless, 0), ("rbnode", number, 0), kind=UNION)
    made.add("sk_buff", 7, 0)  # a forward declaration, which says nothing
    made.compound("sk_buff", ("first", number, 0), ("", union, 128), ("ns", named, 512))
    made.compound("flags", ("a", number, 3), ("b", number, 64), bits=True)
    return made


def test_members_are_found_through_unnamed_parts_and_other_names_for_a_type(kernel):
    assert btf.offsets(kernel.data(), ["sk_buff.first", "sk_buff.dev", "sk_buff.rbnode", "sk_buff.ns.inum", "flags.b"]) == {
        "sk_buff.first": 0,
        "sk_buff.dev": 24,
        "sk_buff.rbnode": 16,
        "sk_buff.ns.inum": 76,
        "flags.b": 8,
    }


@pytest.mark.parametrize("path", ["sk_buff.nothing", "nothing.dev", "sk_buff.first.inum", "sk_buff.ns.dev", "buff.dev"])
def test_what_a_kernel_does_not_have_is_said(kernel, path):
    types = btf.Types(kernel.data())
    with pytest.raises(btf.UnknownLayout, match="this kernel"):
        types.offset(path)
    assert not types.has(path)


@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"\x9f\xeb"])
def test_what_is_no_btf_is_refused(data):
    with pytest.raises(btf.UnknownLayout):
        btf.Types(data)


def test_a_kind_that_is_newer_than_this_program_is_not_guessed_at(kernel):
    kernel.add("new", 25, 4)
    with pytest.raises(btf.UnknownLayout, match="newer"):
        btf.Types(kernel.data())
