"""The control plane's programs and their flags. Pure, but for writing its credentials below the member's root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from provisioner.providers.local import pki
from provisioner.providers.local.files import PUBLIC, SECRET, private_directory, write_if_changed
from provisioner.providers.local.layout import API_PORT, BIN_DIR, CONFIG_DIR, CONTROL_PLANE, PKI_DIR, Addresses, Layout, nth_address
from provisioner.providers.local.programs import Program

ETCD_PORT = 2379
_COMPONENTS = {"kube-controller-manager": "controller-manager.conf", "kube-scheduler": "scheduler.conf"}
# TLS 1.3 needs no list of cipher suites, and everything here that speaks TLS speaks it.
_TLS = {"tls-min-version": "VersionTLS13"}

Flags = Mapping[str, str]


def programs(addresses: Addresses, pod_cidrs: Sequence[str], service_cidrs: Sequence[str]) -> tuple[Program, ...]:
    """etcd first; each one waits for what it cannot do without."""
    address = str(addresses.control_plane[0])
    api = (address, API_PORT)
    return (
        _program("etcd", etcd_flags()),
        _program("kube-apiserver", apiserver_flags(address, service_cidrs), await_tcp=("127.0.0.1", ETCD_PORT)),
        _program("kube-controller-manager", controller_manager_flags(pod_cidrs, service_cidrs), await_tcp=api),
        _program("kube-scheduler", scheduler_flags(), await_tcp=api),
    )


def _program(name: str, flags: Flags, await_tcp: tuple[str, int] | None = None) -> Program:
    argv = (f"{BIN_DIR}/{name}", *(f"--{flag}={value}" for flag, value in flags.items()))
    return Program(name, argv, await_tcp=await_tcp)


def _pki(name: str) -> str:
    return f"{PKI_DIR}/{name}"


def etcd_flags() -> Flags:
    """etcd listens on the member's loopback alone: nobody but the API server beside it has anything to ask."""
    client, peer = f"https://127.0.0.1:{ETCD_PORT}", "https://127.0.0.1:2380"
    return {
        "name": "default",
        "data-dir": "/var/lib/etcd",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
        "cert-file": _pki("etcd-server.crt"),
        "key-file": _pki("etcd-server.key"),
        "client-cert-auth": "true",
        "trusted-ca-file": _pki("etcd-ca.crt"),
        "peer-cert-file": _pki("etcd-peer.crt"),
        "peer-key-file": _pki("etcd-peer.key"),
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": _pki("etcd-ca.crt"),
        "auto-compaction-retention": "1h",
        "log-level": "warn",
    }


def apiserver_flags(address: str, service_cidrs: Sequence[str]) -> Flags:
    return {
        "advertise-address": address,
        "bind-address": "::" if len(service_cidrs) > 1 else "0.0.0.0",  # noqa: S104  in a network namespace of its own
        "secure-port": str(API_PORT),
        "etcd-servers": f"https://127.0.0.1:{ETCD_PORT}",
        "etcd-cafile": _pki("etcd-ca.crt"),
        "etcd-certfile": _pki("apiserver-etcd-client.crt"),
        "etcd-keyfile": _pki("apiserver-etcd-client.key"),
        "tls-cert-file": _pki("apiserver.crt"),
        "tls-private-key-file": _pki("apiserver.key"),
        **_TLS,
        "client-ca-file": _pki("ca.crt"),
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "service-cluster-ip-range": ",".join(service_cidrs),
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": _pki("sa.pub"),
        "service-account-signing-key-file": _pki("sa.key"),
        "kubelet-certificate-authority": _pki("ca.crt"),
        "kubelet-client-certificate": _pki("apiserver-kubelet-client.crt"),
        "kubelet-client-key": _pki("apiserver-kubelet-client.key"),
        # Node names are in no DNS.
        "kubelet-preferred-address-types": "InternalIP",
        "requestheader-client-ca-file": _pki("front-proxy-ca.crt"),
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": _pki("front-proxy-client.crt"),
        "proxy-client-key-file": _pki("front-proxy-client.key"),
        # There is no kube-proxy on this host, so Services are reached by their endpoints.
        "enable-aggregator-routing": "true",
        # anetd may run privileged where a kernel asks for it.
        "allow-privileged": "true",
        "profiling": "false",
    }


def controller_manager_flags(pod_cidrs: Sequence[str], service_cidrs: Sequence[str]) -> Flags:
    masks = {"node-cidr-mask-size-ipv4": "24", "node-cidr-mask-size-ipv6": "64"} if len(pod_cidrs) > 1 else {"node-cidr-mask-size": "24"}
    config = f"{CONFIG_DIR}/{_COMPONENTS['kube-controller-manager']}"
    return {
        **_delegated(config, "kube-controller-manager"),
        "use-service-account-credentials": "true",
        "allocate-node-cidrs": "true",
        "cluster-cidr": ",".join(pod_cidrs),
        "service-cluster-ip-range": ",".join(service_cidrs),
        **masks,
        "flex-volume-plugin-dir": "/var/lib/flexvolume",
        "root-ca-file": _pki("ca.crt"),
        "cluster-signing-cert-file": _pki("ca.crt"),
        "cluster-signing-key-file": _pki("ca.key"),
        "service-account-private-key-file": _pki("sa.key"),
        "controllers": "*,bootstrapsigner,tokencleaner",
    }


def scheduler_flags() -> Flags:
    return _delegated(f"{CONFIG_DIR}/{_COMPONENTS['kube-scheduler']}", "kube-scheduler")


def _delegated(config: str, stem: str) -> Flags:
    """Leader election is off: there is one of each, and on a loaded machine a lost lease would end it."""
    return {
        "kubeconfig": config,
        "authentication-kubeconfig": config,
        "authorization-kubeconfig": config,
        "bind-address": "127.0.0.1",
        "tls-cert-file": _pki(f"{stem}.crt"),
        "tls-private-key-file": _pki(f"{stem}.key"),
        **_TLS,
        # The API server's answer may come before its own first roles; without this the program would end and start again.
        "authentication-tolerate-lookup-failure": "true",
        "leader-elect": "false",
        "profiling": "false",
    }


def write_credentials(layout: Layout, authorities: pki.Authorities, addresses: Addresses, service_cidrs: Sequence[str]) -> bool:
    """Everything below /etc/kubernetes of the control plane; True when a certificate was issued now."""
    root = layout.member_root(CONTROL_PLANE)
    directory = private_directory(Path(f"{root}{PKI_DIR}"))
    private_directory(root / "var" / "lib" / "etcd")
    for name in ("ca.crt", "etcd-ca.crt", "front-proxy-ca.crt", "sa.pub"):
        write_if_changed(directory / name, (authorities.directory / name).read_bytes(), PUBLIC)
    for name in ("ca.key", "sa.key"):
        write_if_changed(directory / name, (authorities.directory / name).read_bytes(), SECRET)
    own = [str(address) for address in addresses.control_plane]
    identities = pki.control_plane_identities(own, [nth_address(cidr, 1) for cidr in service_cidrs], CONTROL_PLANE)
    issued = [authorities.ensure(identity, directory) for identity in identities]
    for component, file_name in _COMPONENTS.items():
        text = pki.kubeconfig(addresses.server, authorities.certificate(), pki.read_pair(directory, component), f"system:{component}")
        write_if_changed(Path(f"{root}{CONFIG_DIR}") / file_name, text, SECRET)
    return any(issued)
