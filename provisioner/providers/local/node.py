"""A node's programs: containerd and kubelet, their configuration and credentials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioner.providers.local import pki
from provisioner.providers.local.files import PUBLIC, SECRET, private_directory, write_if_changed
from provisioner.providers.local.layout import API_PORT, BIN_DIR, CONFIG_DIR, CONTAINERD_SOCKET, PKI_DIR, Addresses, Layout, node_index
from provisioner.providers.local.programs import Program

_KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
_KUBECONFIG = f"{CONFIG_DIR}/kubelet.conf"
_CONTAINERD_CONFIG = "/etc/containerd/config.toml"
_CNI_CONFIG_DIR = "/etc/cni/net.d"
_CNI_BIN_DIR = "/opt/cni/bin"
_CAP_SYS_RESOURCE = 24


@dataclass(frozen=True, slots=True)
class Machine:
    """What a node's configuration depends on.

    may_lower_oom_score  whether CAP_SYS_RESOURCE is there; without it runc cannot start a container whose oom_score_adj is below
                         its own, and says so with an unhelpful end of file.
    """

    snapshotter: str
    may_lower_oom_score: bool
    containerd: str


def has_sys_resource(proc_status: str) -> bool:
    """From the text of /proc/self/status."""
    for line in proc_status.splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return False


def programs(
    node: str, node_addresses: Sequence[str], addresses: Addresses, machine: Machine, labels: Mapping[str, str]
) -> tuple[Program, ...]:
    kubelet = (
        f"{BIN_DIR}/kubelet",
        f"--config={_KUBELET_CONFIG}",
        f"--kubeconfig={_KUBECONFIG}",
        f"--hostname-override={node}",
        f"--node-ip={','.join(node_addresses)}",
        *([f"--node-labels={','.join(f'{name}={value}' for name, value in labels.items())}"] if labels else []),
    )
    return (
        Program("containerd", (machine.containerd, f"--config={_CONTAINERD_CONFIG}")),
        # A kubelet that cannot register tries again after ever longer pauses, up to 7 s: it is better started when there is an answer.
        Program("kubelet", kubelet, await_tcp=(str(addresses.control_plane[0]), API_PORT)),
    )


def containerd_config(machine: Machine, pause_image: str) -> str:
    """Nothing is pulled: the pause image and all others are imported."""
    restrict = "false" if machine.may_lower_oom_score else "true"
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", \
"io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  restrict_oom_score_adj = {restrict}
  tolerate_missing_hugetlb_controller = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{_CNI_BIN_DIR}"
  conf_dir = "{_CNI_CONFIG_DIR}"
  max_conf_num = 1

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{machine.snapshotter}"
  default_runtime_name = "runc"
  discard_unpacked_layers = false

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
"""


def kubelet_config(cluster_dns: Sequence[str], *, may_lower_oom_score: bool) -> Mapping[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{PKI_DIR}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{PKI_DIR}/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{PKI_DIR}/kubelet-server.key",
        "tlsMinVersion": "VersionTLS13",
        "readOnlyPort": 0,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        # The member is shown these settings as kubelet wants them, so that it does not change the machine's.
        "protectKernelDefaults": True,
        "oomScoreAdj": -999 if may_lower_oom_score else 0,
        "clusterDomain": "cluster.local",
        "clusterDNS": list(cluster_dns),
        "resolvConf": "/etc/resolv.conf",
        # The nodes share the machine's disk and memory: one that is nearly full must not evict every node's pods. And an image that
        # was collected could not be pulled again.
        "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "8760h",
        "rotateCertificates": False,
        "serializeImagePulls": False,
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "shutdownGracePeriod": "0s",
        "logging": {"format": "text"},
    }


def write_credentials(layout: Layout, node: str, authorities: pki.Authorities, addresses: Addresses) -> bool:
    """True when a certificate was issued now."""
    root = layout.member_root(node)
    node_addresses = [str(address) for address in addresses.node(node_index(layout.name, node))]
    directory = private_directory(Path(f"{root}{PKI_DIR}"))
    write_if_changed(directory / "ca.crt", authorities.certificate(), PUBLIC)
    issued = [authorities.ensure(identity, directory) for identity in pki.node_identities(node, node_addresses)]
    text = pki.kubeconfig(addresses.server, authorities.certificate(), pki.read_pair(directory, "kubelet"), f"system:node:{node}")
    write_if_changed(Path(f"{root}{_KUBECONFIG}"), text, SECRET)
    return any(issued)


def write_configuration(layout: Layout, node: str, cluster_dns: Sequence[str], machine: Machine, pause_image: str) -> None:
    """What containerd and kubelet read, and the directories that they expect."""
    import yaml

    root = layout.member_root(node)
    for path in (_CNI_CONFIG_DIR, _CNI_BIN_DIR, "/var/lib/kubelet", "/etc/containerd", "/etc/kubernetes/manifests"):
        Path(f"{root}{path}").mkdir(parents=True, exist_ok=True)
    private_directory(root / "var" / "lib" / "containerd")
    config = yaml.safe_dump(dict(kubelet_config(cluster_dns, may_lower_oom_score=machine.may_lower_oom_score)), sort_keys=False)
    write_if_changed(Path(f"{root}{_KUBELET_CONFIG}"), config, PUBLIC)
    write_if_changed(Path(f"{root}{_CONTAINERD_CONFIG}"), containerd_config(machine, pause_image), PUBLIC)
