"""A cluster's networks: apart from each other, large enough, and apart from the machine's."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner import errors
from provisioner.spec import ClusterSpec, HostRoute, check_host_routes, load_spec
from provisioner.spec.networks import overlap

HEAD = "apiVersion: provisioner.dev/v1alpha1\nkind: Cluster\nmetadata: {name: demo}\nspec:\n"


def refused(**fields: str | int) -> errors.ProvisionerError:
    with pytest.raises(errors.SpecInvalid) as caught:
        load_spec(HEAD + "".join(f"  {name}: {value}\n" for name, value in fields.items()), source="c.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"podCIDR": "10.96.0.0/12"}, "spec.serviceCIDR", "overlaps spec.podCIDR"),
        ({"nodeSubnet": "10.244.3.0/24"}, "spec.nodeSubnet", "overlaps spec.podCIDR"),
        ({"nodeSubnet": "10.96.3.0/24"}, "spec.nodeSubnet", "overlaps spec.serviceCIDR"),
        ({"stackType": "ipv4-ipv6", "podCIDRv6": "fd00:10:96::/56"}, "spec.serviceCIDRv6", "overlaps spec.podCIDRv6"),
        ({"podCIDR": "10.244.0.0/24"}, "spec.podCIDR", "room for 1 nodes"),
        ({"podCIDR": "10.244.0.0/25", "numNodes": 1}, "spec.podCIDR", "room for 0 nodes"),
        ({"podCIDR": "10.244.0.0/22", "numNodes": 5}, "spec.podCIDR", "room for 4 nodes"),
        ({"stackType": "ipv4-ipv6", "podCIDRv6": "fd00::/64"}, "spec.podCIDRv6", "room for 1 nodes"),
        ({"stackType": "ipv4-ipv6", "podCIDRv6": "fd00::/40"}, "spec.podCIDRv6", "too large"),
        ({"serviceCIDR": "10.96.0.0/29"}, "spec.serviceCIDR", "too small"),
        ({"serviceCIDR": "11.0.0.0/11"}, "spec.serviceCIDR", "too large"),
        ({"stackType": "ipv4-ipv6", "serviceCIDRv6": "fd00:10:96::/104"}, "spec.serviceCIDRv6", "too large"),
        ({"nodeSubnet": "10.9.0.0/28", "numNodes": 6}, "spec.nodeSubnet", "too small"),
        ({"dataplane": "{loadBalancerPool: [10.9.0.64/26]}"}, "spec.dataplane.loadBalancerPool[0]", "nodeSubnet is not set"),
        (
            {"nodeSubnet": "10.9.0.0/24", "dataplane": "{loadBalancerPool: [10.9.0.64/26, 10.8.0.0/26]}"},
            "spec.dataplane.loadBalancerPool[1]",
            "outside of spec.nodeSubnet",
        ),
        (
            {"nodeSubnet": "10.9.0.0/24", "numNodes": 7, "dataplane": "{loadBalancerPool: [10.9.0.16/28]}"},
            "spec.dataplane.loadBalancerPool[0]",
            "begins below 10.9.0.17",
        ),
        (
            {"nodeSubnet": "10.9.0.0/24", "dataplane": "{loadBalancerPool: ['fd00::/112']}"},
            "spec.dataplane.loadBalancerPool[0]",
            "stackType is ipv4",
        ),
        ({"podCIDR": "127.0.0.0/16"}, "spec.podCIDR", "loopback"),
        ({"podCIDR": "169.254.0.0/16"}, "spec.podCIDR", "link-local"),
        ({"serviceCIDR": "224.1.0.0/16"}, "spec.serviceCIDR", "multicast"),
        ({"stackType": "ipv4-ipv6", "podCIDRv6": "fe80::/56"}, "spec.podCIDRv6", "link-local"),
    ],
)
def test_networks_that_cannot_work_are_refused(fields: dict[str, str | int], field: str, reason: str) -> None:
    error = refused(**fields)
    assert error.field == field
    assert reason in error.message
    assert error.remedy


@pytest.mark.parametrize(
    "fields",
    [
        {"podCIDR": "10.244.0.0/24", "numNodes": 1},
        {"nodeSubnet": "10.9.0.0/24", "numNodes": 6, "dataplane": "{loadBalancerPool: [10.9.0.16/28]}"},
        {"dataplane": "{loadBalancerPool: []}"},
        {"podCIDR": "10.244.0.0/22", "numNodes": 4},
        {"serviceCIDR": "10.96.0.0/28"},
        {"nodeSubnet": "10.9.0.0/28", "numNodes": 5},
        {"serviceCIDR": "10.96.0.0/12"},
        {"nodeSubnet": "10.9.0.0/27", "numNodes": 20, "podCIDR": "10.244.0.0/16"},
        {"stackType": "ipv4-ipv6", "podCIDRv6": "fd00::/48", "serviceCIDRv6": "fd01::/108"},
    ],
)
def test_the_limits_themselves_are_allowed(fields: dict[str, str | int]) -> None:
    load_spec(HEAD + "".join(f"  {name}: {value}\n" for name, value in fields.items()))


def test_the_remedy_for_too_small_a_network_is_large_enough() -> None:
    for nodes in range(1, 21):
        error = refused(podCIDR="10.244.0.0/25", numNodes=nodes)
        prefix = int(error.remedy.split("/")[1].split()[0])
        load_spec(HEAD + f"  podCIDR: 10.244.0.0/{prefix}\n  numNodes: {nodes}\n")
        if prefix < 24:
            refused(podCIDR=f"10.244.0.0/{prefix + 1}", numNodes=nodes)


def test_a_host_route_inside_the_cluster_s_networks_is_refused_by_its_device() -> None:
    spec = ClusterSpec.make("demo")
    with pytest.raises(errors.SpecInvalid, match=r"podCIDR 10\.244\.0\.0/16 overlaps 10\.244\.7\.0/24.*through tun0"):
        check_host_routes(spec, [HostRoute(ip_network("10.244.7.0/24"), "tun0")])


def test_a_wider_host_route_is_refused_too_but_a_default_route_is_not() -> None:
    spec = ClusterSpec.make("demo")
    check_host_routes(spec, [HostRoute(ip_network("0.0.0.0/0"), "eth0"), HostRoute(ip_network("192.168.0.0/16"), "eth0")])
    with pytest.raises(errors.SpecInvalid, match="through vpn"):
        check_host_routes(spec, [HostRoute(ip_network("10.0.0.0/8"), "vpn")])


def test_ipv6_routes_count_only_with_two_stacks() -> None:
    routes = [HostRoute(ip_network("fd00::/16"), "vpn6")]
    check_host_routes(ClusterSpec.make("demo"), routes)
    with pytest.raises(errors.SpecInvalid, match="podCIDRv6"):
        check_host_routes(ClusterSpec.make("demo", stack_type="ipv4-ipv6"), routes)


v4 = st.builds(lambda address, length: ip_network((address, length), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32))
v6 = st.builds(lambda address, length: IPv6Network((address, length), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128))


@given(st.one_of(v4, v6), st.one_of(v4, v6))
def test_overlap_is_symmetric_and_agrees_with_the_ranges(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> None:
    expected = one.version == other.version and int(one[0]) <= int(other[-1]) and int(other[0]) <= int(one[-1])
    assert overlap(one, other) == overlap(other, one) == expected


@given(
    pod=st.builds(
        lambda address, length: IPv4Network((address, length), strict=False), st.integers(1 << 24, (224 << 24) - 1), st.integers(8, 30)
    ),
    service=st.builds(
        lambda address, length: IPv4Network((address, length), strict=False), st.integers(1 << 24, (224 << 24) - 1), st.integers(8, 30)
    ),
    nodes=st.integers(1, 20),
)
def test_an_accepted_spec_has_room_for_its_nodes_and_disjoint_networks(pod: IPv4Network, service: IPv4Network, nodes: int) -> None:
    try:
        spec = load_spec(HEAD + f"  podCIDR: {pod}\n  serviceCIDR: {service}\n  numNodes: {nodes}\n")
    except errors.SpecInvalid as error:
        assert error.field in {"spec.podCIDR", "spec.serviceCIDR"}
        return
    assert not spec.pod_cidr.overlaps(spec.service_cidr)
    assert spec.pod_cidr.prefixlen <= 24
    assert len(list(spec.pod_cidr.subnets(new_prefix=24))[:nodes]) == nodes if spec.pod_cidr.prefixlen >= 16 else True
    assert spec.service_cidr[10] in spec.service_cidr


@given(st.text(max_size=60))
def test_any_name_is_either_taken_as_it_is_or_refused_in_words(name: str) -> None:
    try:
        spec = ClusterSpec.from_document(
            {"apiVersion": "provisioner.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": name}, "spec": {}}
        )
    except ValueError:
        return
    assert spec.name == name
    assert len(name) <= 40
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert name[0] != "-" != name[-1]


@given(st.text(max_size=200))
def test_no_text_makes_loading_fail_otherwise_than_by_refusal(text: str) -> None:
    try:
        load_spec(text, source="c.yaml")
    except errors.ProvisionerError as error:
        assert error.exit_code in {3, 4}
