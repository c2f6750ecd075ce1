"""Names and addresses of a local cluster."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner import errors
from provisioner.providers.local.layout import CONTROL_PLANE, NODE_SUBNETS, Addresses, Layout, free_subnet, load_balancer_pool, node_index
from provisioner.spec import ClusterSpec
from provisioner.spec.models import MAX_NAME_LENGTH, MAX_NODES

names = st.from_regex(rf"[a-z0-9]([-a-z0-9]{{0,{MAX_NAME_LENGTH - 2}}}[a-z0-9])?", fullmatch=True)


@given(names)
def test_every_link_name_fits_the_kernels_fifteen_bytes(name: str) -> None:
    layout = Layout(name)
    links = [layout.bridge, *(layout.host_link(member) for member in layout.members(MAX_NODES))]
    assert all(len(link) <= 15 for link in links)
    assert len(set(links)) == len(links)


@given(names, st.integers(0, MAX_NODES - 1))
def test_a_node_name_gives_its_index_back(name: str, index: int) -> None:
    assert node_index(name, Layout(name).node(index)) == index


def test_two_clusters_share_no_name() -> None:
    one, other = Layout("demo"), Layout("demo-0")
    for attribute in ("state_dir", "run_dir", "cgroup", "bridge", "nft_table", "lock_file"):
        assert getattr(one, attribute) != getattr(other, attribute)
    assert one.member_cgroup(one.node(0)) != other.member_cgroup(CONTROL_PLANE)


def test_addresses_are_the_architectures() -> None:
    addresses = Addresses.of(IPv4Network("172.30.7.0/24"), dual_stack=True)
    assert addresses.v6 == IPv6Network("fd30:0:0:7::/64")
    assert [str(a) for a in addresses.bridge] == ["172.30.7.1", "fd30:0:0:7::1"]
    assert [str(a) for a in addresses.control_plane] == ["172.30.7.2", "fd30:0:0:7::2"]
    assert [str(a) for a in addresses.node(1)] == ["172.30.7.11", "fd30:0:0:7::b"]
    assert addresses.server == "https://172.30.7.2:6443"


def test_a_subnet_of_the_users_choice_gets_a_64_that_no_picked_one_has() -> None:
    own = Addresses.of(IPv4Network("10.9.0.0/20"), dual_stack=True).v6
    picked = {Addresses.of(subnet, dual_stack=True).v6 for subnet in NODE_SUBNETS.subnets(new_prefix=24)}
    assert own is not None
    assert own not in picked


def test_load_balancers_have_the_last_quarter_of_the_nodes_network_and_a_part_of_its_64() -> None:
    dual = Addresses.of(IPv4Network("172.30.7.0/24"), dual_stack=True)
    assert dual.load_balancer_pool(MAX_NODES) == (IPv4Network("172.30.7.192/26"), IPv6Network("fd30:0:0:7::1:0/112"))


@given(st.integers(16, 28), st.integers(1, MAX_NODES))
def test_no_member_has_an_address_of_the_load_balancers(length: int, nodes: int) -> None:
    subnet = IPv4Network((int(IPv4Network("10.9.0.0/16")[0]), length))
    if subnet.num_addresses < 10 + nodes + 1:
        return
    addresses = Addresses.of(subnet, dual_stack=True)
    members = {*addresses.bridge, *addresses.control_plane, *(each for index in range(nodes) for each in addresses.node(index))}
    for network in addresses.load_balancer_pool(nodes):
        assert any(network.subnet_of(own) for own in addresses.networks if own.version == network.version)  # type: ignore[arg-type]
        assert not [member for member in members if member in network]
    if subnet.num_addresses >= 64:
        assert addresses.load_balancer_pool(nodes)[0].version == 4


def test_a_pool_of_the_users_choice_is_taken_and_must_be_on_the_nodes_link() -> None:
    addresses = Addresses.of(IPv4Network("10.9.0.0/24"), dual_stack=True)

    def pool(*networks: str) -> object:
        body = {"stack_type": "ipv4-ipv6", "node_subnet": "10.9.0.0/24", "dataplane": {"load_balancer_pool": networks}}
        return load_balancer_pool(ClusterSpec.make("demo", **body), addresses)

    assert pool("10.9.0.64/28") == (IPv4Network("10.9.0.64/28"),)
    assert pool() == ()
    assert load_balancer_pool(ClusterSpec.make("demo"), addresses) == addresses.load_balancer_pool(2)
    with pytest.raises(errors.SpecInvalid) as caught:
        pool("10.9.0.64/28", "2001:db8::/112")
    assert caught.value.field == "spec.dataplane.loadBalancerPool[1]"


def test_ipv4_alone_has_no_ipv6() -> None:
    assert Addresses.of(IPv4Network("172.30.0.0/24"), dual_stack=False).networks == (IPv4Network("172.30.0.0/24"),)


@given(st.sets(st.integers(0, 255), max_size=40))
def test_the_free_subnet_is_the_lowest_that_overlaps_nothing(taken: set[int]) -> None:
    found = free_subnet([ip_network(f"172.30.{octet}.0/24") for octet in taken])
    assert found == ip_network(f"172.30.{min(set(range(256)) - taken)}.0/24")


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_a_default_route_takes_nothing(network: str) -> None:
    assert free_subnet([ip_network(network)]) == ip_network("172.30.0.0/24")


def test_a_taken_64_takes_its_24_as_well() -> None:
    assert free_subnet([ip_network("fd30::/64")]) == ip_network("172.30.1.0/24")


def test_no_free_subnet_is_a_conflict_that_says_so() -> None:
    with pytest.raises(errors.Conflict, match=r"172\.30\.0\.0/16"):
        free_subnet([ip_network("172.16.0.0/12")])
