"""Texts become documents with lines; hostile ones are refused before they cost anything."""

from __future__ import annotations

import io
import json
import tracemalloc

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provisioner.compatibility import documents

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(12)
)
MERGES = "a: &a {k: v}\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{','.join(['*' + chr(97 + n)] * 20)}]}}\n" for n in range(12))


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: {\n", 2, "is not YAML"),
        ("a: 1\n---\nb: [\n", 4, "is not YAML"),
        ("[" * 100_000, 1, "nests more than"),
        ("{a: " * 100_000, 1, "nests more than"),
        (BOMB, 6, "aliases"),
        (MERGES, 5, "aliases"),
        ("a: &a [x, x]\n" + "b: &b [*a, *a]\n? *b\n: c\nd: [" + "*b, " * 60_000 + "]\n", 5, "aliases"),
        ("a: &x\n  b: *x\n", 2, "contains itself"),
        ("a: *nowhere\n", 1, "no anchor"),
        ("a: \x00\n", 0, "is not YAML"),
    ],
)
def test_what_is_no_yaml_or_a_bomb_is_refused_with_its_line(text, line, says):
    with pytest.raises(documents.Unreadable, match=says) as caught:
        list(documents.read(text))
    assert caught.value.line == line


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(documents.Unreadable, match="is not YAML"):
        list(documents.read(b"\xff\xfe\x00\xd8"))


def test_documents_before_the_bad_one_are_given():
    reader = documents.read("a: 1\n---\nb: [\n")
    assert next(reader)[1] == {"a": 1}
    with pytest.raises(documents.Unreadable):
        next(reader)


def test_a_bomb_costs_no_memory():
    tracemalloc.start()
    try:
        with pytest.raises(documents.Unreadable):
            list(documents.read(BOMB))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_lines_are_those_of_keys_and_items():
    text = "# a comment\nspec:\n  ports:\n  - port: 80\n  - port: 81\n    protocol: SCTP\n"
    ((line, value),) = documents.read(text)
    assert (line, value.line) == (2, 2)
    assert documents.line_of(value, ("spec", "ports", 1, "protocol")) == 6
    assert documents.line_of(value, ("spec", "ports", 1)) == 5
    assert documents.line_of(value, ("spec", "ports", 1, "missing")) == 5
    assert documents.line_of({"plain": 1}, ("plain",)) == 0


def test_anchors_and_merge_keys_mean_what_yaml_says():
    text = "base: &b {x: 1, y: 2}\none: {<<: *b, y: 3}\ntwo:\n  y: 4\n  <<: [*b, {z: 5}]\nsame: *b\n"
    ((_, value),) = documents.read(text)
    assert value == yaml.safe_load(text)


def test_several_documents_and_empty_ones_are_read_one_by_one():
    values = [value for _, value in documents.read("---\n---\na: 1\n...\n---\nnull\n---\n- b\n")]
    assert values == [None, {"a": 1}, None, ["b"]]


def test_a_stream_is_read_as_it_comes():
    class Endless(io.RawIOBase):
        def __init__(self):
            self.given = 0

        def readable(self):
            return True

        def read(self, size=-1):
            self.given += 1
            return b"a: 1\n---\n" * 500

    stream = Endless()
    reader = documents.read(stream)
    for _ in range(100):
        next(reader)
    assert stream.given < 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(st.characters(blacklist_categories=["Cs", "Cc"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(categories=["L", "N"])), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_is_read_as_it_is(value):
    text = json.dumps(value, ensure_ascii=False)
    ((_, found),) = documents.read(text)
    assert found == value


@given(JSON)
def test_yaml_is_read_as_pyyaml_reads_it(value):
    text = yaml.safe_dump(value, allow_unicode=True)
    found = [item for _, item in documents.read(text)]
    assert found == [yaml.safe_load(text)]
