"""A filter as it stands in a probe lets through what it should: its C conditions, read as Python, against the filter itself."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.datapath.abi import pack_address
from agent.trace import filters
from agent.trace.filters import Filter, Scope

ADDRESSES = [ip_address(text) for text in ("10.0.0.1", "10.0.1.0", "::1", "fd00::1", "::ffff:10.0.0.1", "0.0.0.0")]
PORTS, PROTOCOLS, PLACES = (0, 53, 80), (6, 17, 1), (0, 77)


def words(address):
    packed = pack_address(address)
    return [int.from_bytes(packed[at : at + 4], "big") for at in range(0, 16, 4)]


def holds(condition, source, destination, ports, protocol, netns):
    text = re.sub(r"bpf_htons?l?\((0x[0-9a-f]+|\d+)U?\)", r"\1", condition).replace("&&", " and ").replace("||", " or ")
    known = {"source": words(source), "destination": words(destination), "ports": ports, "protocol": protocol, "netns": netns}
    return bool(eval(text, {"__builtins__": {}}, known))


@given(
    wanted=st.builds(
        Filter,
        addresses=st.lists(st.sampled_from(ADDRESSES), max_size=3).map(tuple),
        pod=st.sampled_from(["", "default/a"]),
        port=st.sampled_from(PORTS),
        protocol=st.sampled_from((0, *PROTOCOLS)),
    ),
    here=st.booleans(),
    source=st.sampled_from(ADDRESSES),
    destination=st.sampled_from(ADDRESSES),
    ports=st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)),
    protocol=st.sampled_from(PROTOCOLS),
    netns=st.sampled_from(PLACES),
)
def test_what_a_filter_says_is_what_its_conditions_say(wanted, here, source, destination, ports, protocol, netns):
    scope = Scope(77 if here and wanted.pod else 0)
    place = "netns == 77" if scope.netns else "0"
    made = filters.conditions(
        wanted, scope, addresses=("source", "destination"), ports=("ports[0]", "ports[1]"), protocol="protocol", place=place
    )
    mapped = {pack_address(address) for address in wanted.addresses}
    whose = not (wanted.addresses or wanted.pod) or bool(mapped & {pack_address(source), pack_address(destination)})
    whose = whose or (bool(scope.netns) and netns == 77)
    expected = whose and wanted.protocol in (0, protocol) and (not wanted.port or wanted.port in ports)
    assert all(holds(condition, source, destination, ports, protocol, netns) for condition in made) == expected


def test_no_filter_is_no_condition():
    assert filters.conditions(Filter(), Scope(), addresses=("a",), ports=("b",), protocol="c", place="0") == []


def test_a_filter_comes_as_json():
    text = json.dumps({"addresses": ["10.0.0.1", "fd00::1"], "pod": "a/b", "port": 53, "protocol": 17})
    assert filters.decode(text) == Filter((ip_address("10.0.0.1"), ip_address("fd00::1")), "a/b", 53, 17)
    assert filters.decode("") == filters.decode("{}") == Filter()


@pytest.mark.parametrize("text", ["[]", "{", '{"addresses": ["here"]}', '{"port": "x"}', '{"port": null}', '{"addresses": 5}'])
def test_what_is_no_filter_is_refused(text):
    with pytest.raises(ValueError):
        filters.decode(text)
