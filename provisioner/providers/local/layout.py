"""Names, paths and addresses of a local cluster, computed from its name and its subnet. Pure: nothing here looks at the machine.

Everything of a cluster hangs below its state directory, its run directory, its cgroup directory and its link stem, so that
a delete can find it by name alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner import errors

if TYPE_CHECKING:
    from provisioner.spec import ClusterSpec

STATE_ROOT = Path("/var/lib/provisioner")
RUN_ROOT = Path("/run/provisioner")
CGROUP_ROOT = "provisioner"
NODE_SUBNETS = IPv4Network("172.30.0.0/16")
NODE_SUBNETS_V6 = IPv6Network("fd30::/48")
LINK_STEM = re.compile(r"pv-[0-9a-f]{8}")

CONTROL_PLANE = "control-plane"
API_PORT = 6443

# Inside every member.
BIN_DIR = "/opt/provisioner/bin"
PKI_DIR = "/etc/kubernetes/pki"
CONFIG_DIR = "/etc/kubernetes"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"

_FIRST_NODE = 10

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the things of the cluster `name` are. Tests give other roots."""

    name: str
    state_root: Path = STATE_ROOT
    run_root: Path = RUN_ROOT
    cgroup_root: str = CGROUP_ROOT

    @property
    def state_dir(self) -> Path:
        return self.state_root / "clusters" / self.name

    @property
    def state_file(self) -> Path:
        return self.state_dir / "cluster.json"

    @property
    def journal(self) -> Path:
        return self.state_dir / "journal.jsonl"

    @property
    def pki_dir(self) -> Path:
        return self.state_dir / "pki"

    @property
    def run_dir(self) -> Path:
        return self.run_root / self.name

    @property
    def lock_file(self) -> Path:
        """Beside the run directory, not in it: a delete removes the directory while it holds the lock."""
        return self.run_root / f"{self.name}.lock"

    def member_dir(self, member: str) -> Path:
        return self.state_dir / "members" / member

    def member_root(self, member: str) -> Path:
        """What the member sees as `/`."""
        return self.member_dir(member) / "root"

    def member_logs(self, member: str) -> Path:
        return self.member_root(member) / "var" / "log"

    def description(self, member: str) -> Path:
        """What member-init reads."""
        return self.run_dir / f"{member}.description"

    def pid_file(self, member: str) -> Path:
        return self.run_dir / f"{member}.json"

    @property
    def cgroup(self) -> str:
        """Relative to the root of each hierarchy."""
        return f"{self.cgroup_root}/{self.name}"

    def member_cgroup(self, member: str) -> str:
        return f"{self.cgroup}/{member}"

    @property
    def link_stem(self) -> str:
        return link_stem(self.name)

    @property
    def bridge(self) -> str:
        return self.link_stem

    def host_link(self, member: str) -> str:
        """The host's end of the member's veth: at most 15 bytes, as a link's name must be."""
        return f"{self.link_stem}-{'c' if member == CONTROL_PLANE else node_index(self.name, member)}"

    @property
    def nft_table(self) -> str:
        return f"provisioner-{self.link_stem.removeprefix('pv-')}"

    def node(self, index: int) -> str:
        return f"{self.name}-{index}"

    def nodes(self, count: int) -> tuple[str, ...]:
        return tuple(self.node(index) for index in range(count))

    def members(self, count: int) -> tuple[str, ...]:
        return (CONTROL_PLANE, *self.nodes(count))


def link_stem(name: str) -> str:
    return f"pv-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def node_index(cluster: str, node: str) -> int:
    return int(node.removeprefix(f"{cluster}-"))


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of one cluster's links. `v6` is None where the stack has IPv4 alone."""

    v4: IPv4Network
    v6: IPv6Network | None = None

    @classmethod
    def of(cls, subnet: IPv4Network, *, dual_stack: bool) -> Addresses:
        """With a /64 that follows from it. For a /24 of NODE_SUBNETS the third octet is the fourth group: a free /24 is a free /64."""
        if not dual_stack:
            return cls(subnet)
        if subnet.prefixlen == 24 and subnet.subnet_of(NODE_SUBNETS):
            group = subnet.network_address.packed[2]
        else:  # a network of the user's choice: any group above those
            group = 0x100 + int.from_bytes(hashlib.sha256(str(subnet).encode()).digest()[:4], "big") % 0xFF00
        return cls(subnet, IPv6Network(f"fd30:0:0:{group:x}::/64"))

    @property
    def networks(self) -> tuple[Network, ...]:
        return (self.v4,) if self.v6 is None else (self.v4, self.v6)

    def _each(self, number: int) -> tuple[Address, ...]:
        return tuple(network[number] for network in self.networks)

    @property
    def bridge(self) -> tuple[Address, ...]:
        return self._each(1)

    @property
    def control_plane(self) -> tuple[Address, ...]:
        return self._each(2)

    def node(self, index: int) -> tuple[Address, ...]:
        return self._each(_FIRST_NODE + index)

    def load_balancer_pool(self, nodes: int) -> tuple[Network, ...]:
        """The part of each network that no member's address is in: the last quarter of IPv4's, or less of it where nodes reach into
        that, and none where nothing is left; of IPv6's the second 65536 addresses."""
        last = _FIRST_NODE + nodes - 1
        found: list[Network] = []
        for bits in range(2, self.v4.max_prefixlen - self.v4.prefixlen):
            size = self.v4.num_addresses >> bits
            if self.v4.num_addresses - size > last:
                found.append(IPv4Network((self.v4[-size], self.v4.prefixlen + bits)))
                break
        if self.v6 is not None:
            found.append(IPv6Network((self.v6[1 << 16], 112)))
        return tuple(found)

    @property
    def server(self) -> str:
        return f"https://{self.v4[2]}:{API_PORT}"


def load_balancer_pool(spec: ClusterSpec, addresses: Addresses) -> tuple[Network, ...]:
    """What the spec says, or else the free part of the cluster's networks. Raises `errors.SpecInvalid` for one off the nodes' link."""
    wanted = spec.dataplane.load_balancer_pool
    if wanted is None:
        return addresses.load_balancer_pool(spec.num_nodes)
    for number, network in enumerate(wanted):
        if isinstance(network, IPv6Network) and addresses.v6 is not None and not network.subnet_of(addresses.v6):
            field = f"spec.dataplane.loadBalancerPool[{number}]"
            raise errors.SpecInvalid(
                f"{field} {network} is outside of the nodes' network {addresses.v6}",
                remedy=f"Use a part of it, such as {addresses.load_balancer_pool(spec.num_nodes)[-1]}.",
                field=field,
            )
    return wanted


def free_subnet(taken: Iterable[Network]) -> IPv4Network:
    """The lowest /24 of NODE_SUBNETS that overlaps nothing taken, and whose /64 does not either.

    Raises `errors.Conflict` when there is none.
    """
    used = [network for network in taken if network.prefixlen > 0]
    for subnet in NODE_SUBNETS.subnets(new_prefix=24):
        candidates = Addresses.of(subnet, dual_stack=True).networks
        if not any(a.version == b.version and a.overlaps(b) for a in candidates for b in used):
            return subnet
    raise errors.Conflict(
        f"no free /24 is left in {NODE_SUBNETS} for the nodes' network",
        remedy="Delete a cluster, or remove the routes of this machine that cover that range.",
    )


def nth_address(cidr: str, number: int) -> str:
    """The address `number` of a CIDR, as text: the API server's Service is 1, the DNS Service 10."""
    return str(ip_network(cidr)[number])
