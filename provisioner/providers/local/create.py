"""The plan that makes a cluster, continues a half-made one, or starts a stopped one: they are the same plan.

Every step may be run again. What can be known by looking says so in `done`; programs, images and manifests are always gone
through, because they are cached and cheap, and because that is how a changed agent reaches a running cluster.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from provisioner import binaries, deploy, images
from provisioner.plan.steps import Deadline, Plan, Progress, Step
from provisioner.process import Unlimited
from provisioner.providers.base import Credentials
from provisioner.providers.local import (
    api,
    cgroups,
    controlplane,
    dns,
    host,
    init,
    locks,
    member,
    networks,
    node,
    pki,
    preflight,
    records,
    rootfs,
    runtime,
    settled,
)
from provisioner.providers.local.files import explained, private_directory
from provisioner.providers.local.layout import CONTROL_PLANE, Address, Layout, free_subnet, load_balancer_pool, node_index
from provisioner.providers.local.programs import Description, Program
from provisioner.spec import ClusterSpec

_RESTART_GRACE = 4.0
_AGENT = "anetd"
_TITLES = {
    "record-cluster": "Reserve the name and the nodes' network",
    "acquire-binaries": "Find the Kubernetes programs",
    "build-images": "Build the images",
    "write-pki": "Write certificates",
    "create-network": "Create the nodes' network",
    "start-control-plane": "Start the control plane",
    "start-nodes": "Start the nodes",
    "load-images": "Load the images into the nodes",
    "deploy-dataplane": "Deploy anetd and CoreDNS",
    "wait-nodes-ready": "Wait for the nodes and anetd",
    "wait-dns": "Wait for a DNS answer in a pod",
}


def credentials_of(layout: Layout, record: records.Record) -> Credentials:
    """The administrator's; renewed when near their expiry."""
    authorities = pki.Authorities(layout.pki_dir)
    authorities.ensure(pki.ADMIN, layout.pki_dir)
    pair = pki.read_pair(layout.pki_dir, pki.ADMIN.stem)
    return Credentials(record.addresses.server, authorities.certificate(), pair.certificate, pair.key)


class Creation:
    """One create of one cluster. What a step finds out (programs, images) is kept for the steps after it."""

    def __init__(self, layout: Layout, lock: locks.FileLock, spec: ClusterSpec, bin_dir: Path | None, observed: records.Observed) -> None:
        self._layout = layout
        self._lock = lock
        self._spec = spec
        self._bin_dir = bin_dir
        self._observed = observed
        self._record = observed.record
        self._binaries: binaries.Binaries | None = None
        self._images: images.Images | None = None
        self._hierarchies = cgroups.hierarchies()
        self._acquiring = threading.Lock()
        self._renewed: set[str] = set()  # members whose certificates were issued in this run
        self._pod_cidrs = [str(cidr) for cidr in spec.pod_cidrs]
        self._service_cidrs = [str(cidr) for cidr in spec.service_cidrs]
        self._nodes = layout.nodes(spec.num_nodes)

    def plan(self) -> Plan:
        layout, spec = self._layout, self._spec
        subnet = self._record.subnet if self._record else (spec.node_subnet or "a free /24 of 172.30.0.0/16")
        masquerade = (
            f"nftables table {layout.nft_table}" if networks.nft() else "nft is not installed (package nftables): no way out for the nodes"
        )
        programs = "etcd, kube-apiserver, kube-controller-manager, kube-scheduler"
        step = self._step
        steps = [
            step("record-cluster", self._reserve, (), (f"subnet {subnet}", str(layout.state_dir)), lambda: self._record is not None),
            step("acquire-binaries", self._acquire, (), (f"Kubernetes {spec.kubernetes_version}",)),
            step("build-images", self._build_images, ("acquire-binaries",)),
            step("write-pki", self._write_pki, ("record-cluster",)),
            step("create-network", self._create_network, ("record-cluster",), (f"bridge {layout.bridge}", masquerade)),
            step(
                "start-control-plane",
                self._start_control_plane,
                ("acquire-binaries", "write-pki", "create-network"),
                (programs,),
                lambda: self._sound_pid(CONTROL_PLANE) is not None and self._is_ready(),
            ),
            step(
                "start-nodes",
                self._start_nodes,
                ("build-images", "write-pki", "create-network"),
                self._nodes,
                lambda: len(self._sound_nodes()) == len(self._nodes),
            ),
            step("load-images", self._load_images, ("start-nodes",)),
            step("deploy-dataplane", self._deploy, ("start-control-plane", "load-images")),
            step("wait-nodes-ready", self._wait_nodes, ("deploy-dataplane",)),
            step("wait-dns", self._wait_dns, ("wait-nodes-ready",)),
        ]
        return Plan("create", spec.name, steps)

    def _step(
        self,
        step_id: str,
        apply: Callable[[Deadline, Progress], None],
        after: Sequence[str],
        details: Sequence[str] = (),
        done: Callable[[], bool | None] = lambda: None,
    ) -> Step:
        def locked(deadline: Deadline, progress: Progress) -> None:
            with self._acquiring:
                locks.acquire_cluster(self._lock, self._spec.name)
            with explained(_TITLES[step_id]):
                apply(deadline, progress)

        def settled_or_done() -> bool | None:
            return True if self._is_settled else done()

        return Step(step_id, _TITLES[step_id], locked, settled_or_done, details, after)

    @property
    def _is_settled(self) -> bool:
        with self._acquiring:  # steps that may begin ask side by side, and one look serves all
            return self._looked_settled

    @cached_property
    def _looked_settled(self) -> bool:
        record, pids = self._record, self._sound_nodes()
        if record is None or not record.complete or record.fingerprint != self._fingerprint or record.spec != self._spec:
            return False
        if len(pids) < len(self._nodes) or self._sound_pid(CONTROL_PLANE) is None:
            return False
        server = deploy.cluster_dns_addresses(self._spec)[0]
        return settled.is_well(self._layout, self._nodes, pids, self._admin_api(), server)

    @cached_property
    def _fingerprint(self) -> str:
        return settled.fingerprint(self._bin_dir)

    def _sound_nodes(self) -> list[int]:
        return [pid for name in self._nodes if (pid := self._sound_pid(name)) is not None]

    # ---- what is not on the machine yet ----

    def _reserve(self, _deadline: Deadline, progress: Progress) -> None:
        layout = self._layout
        existing = records.read(layout)
        if existing is not None:
            self._record = existing
            return
        with locks.shared(layout.run_root):
            subnet = self._spec.node_subnet or free_subnet(
                [*(network for network, _ in networks.networks_in_use()), *records.reserved_networks(layout)]
            )
            now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            self._record = records.Record(self._spec, subnet, now)
            records.write(layout, self._record)
        progress(f"nodes' network {subnet}")

    @property
    def _known(self) -> records.Record:
        return _made(self._record, "record-cluster")

    def _acquire(self, deadline: Deadline, progress: Progress) -> None:
        self._binaries = binaries.ensure(self._spec.kubernetes_version, self._bin_dir, deadline, progress)
        progress(self._binaries.source)

    def _build_images(self, deadline: Deadline, progress: Progress) -> None:
        self._images = images.ensure_images(_made(self._binaries, "acquire-binaries"), deadline, progress)

    def _write_pki(self, _deadline: Deadline, progress: Progress) -> None:
        layout, record = self._layout, self._known
        # Members' roots are below; nobody but root has to look into them.
        private_directory(layout.state_dir / "members")
        authorities = pki.Authorities(layout.pki_dir)
        authorities.ensure(pki.ADMIN, layout.pki_dir)
        if controlplane.write_credentials(layout, authorities, record.addresses, self._service_cidrs):
            self._renewed.add(CONTROL_PLANE)
        self._renewed |= {name for name in self._nodes if node.write_credentials(layout, name, authorities, record.addresses)}
        progress(f"certificates of {len(self._renewed)} members issued" if self._renewed else "all certificates are current")

    # ---- the network ----

    def _create_network(self, _deadline: Deadline, progress: Progress) -> None:
        layout, addresses = self._layout, self._known.addresses
        networks.ensure_bridge(layout, addresses)
        host.enable_forwarding(layout)
        lacking = networks.ensure_masquerade(layout, addresses)
        if lacking:
            progress(f"{lacking}: the nodes reach this machine and each other, but not beyond")

    # ---- members ----

    @cached_property
    def _init(self) -> Path:
        return init.ensure(Unlimited())

    def _start_member(self, name: str, own: Sequence[Address], programs: Sequence[Program], deadline: Deadline) -> int:
        """The pid of the running member; it is started unless it runs, has its link, and has read the certificates that are there."""
        programs_directory = _made(self._binaries, "acquire-binaries").directory
        layout, addresses = self._layout, self._known.addresses
        sound = self._sound_pid(name)
        if sound is not None:
            return sound
        unsound = member.find(layout, name)
        if unsound is not None:
            member.stop(unsound, _RESTART_GRACE)
        self._renewed.discard(name)
        private_directory(layout.run_dir)
        root = layout.member_root(name)
        hosts = {str(own[0]): name, str(addresses.control_plane[0]): CONTROL_PLANE}
        rootfs.write_files(root, name, hosts, rootfs.resolv_conf())
        group = layout.member_cgroup(name)
        with locks.shared(layout.run_root):  # a delete of another cluster may be about to remove the directory above ours
            directories = cgroups.create(self._hierarchies, group)
        if name == CONTROL_PLANE:  # everybody waits for it, at the start and later
            cgroups.favour(self._hierarchies, group)
        mounts = rootfs.file_systems(root, programs_directory, self._hierarchies, cgroups.links(), node=name != CONTROL_PLANE)

        def configure(pid: int) -> None:
            cgroups.delegate(self._hierarchies, group)
            networks.attach(layout, name, pid, own, addresses)

        description = Description(name, root, directories, mounts, programs).render()
        return member.start(layout, name, self._init, description, configure, deadline)

    def _sound_pid(self, name: str) -> int | None:
        """The pid of a member that runs and needs no restart."""
        pid = member.find(self._layout, name)
        has_link = self._layout.host_link(name) in networks.links_of(self._layout)
        return pid if has_link and name not in self._renewed else None

    def _start_control_plane(self, deadline: Deadline, progress: Progress) -> None:
        record = self._known
        programs = controlplane.programs(record.addresses, self._pod_cidrs, self._service_cidrs)
        pid = self._start_member(CONTROL_PLANE, record.addresses.control_plane, programs, deadline)
        progress("waiting for the API server")
        authorities = pki.Authorities(self._layout.pki_dir)
        bootstrap = api.Api(record.addresses.server, authorities.certificate(), authorities.bootstrap_identity())
        look = self._looking_at({CONTROL_PLANE: pid})
        api.wait_until(bootstrap.is_ready, deadline, "waiting for the API server", look)
        bootstrap.apply_bindings()

    def _is_ready(self) -> bool:
        if self._record is None:
            return False
        admin = self._admin_api()
        return admin.is_ready() and admin.has_bindings()

    def _admin_api(self) -> api.Api:
        own = credentials_of(self._layout, self._known)
        return api.Api(own.server, own.ca_certificate, pki.Pair(own.client_certificate, own.client_key))

    def _looking_at(self, members: Mapping[str, int]) -> Callable[[], None]:
        def look() -> None:
            for name, pid in members.items():
                member.check_programs(self._layout, name, pid)

        return look

    @cached_property
    def _machine(self) -> node.Machine:
        return node.Machine(
            snapshotter=preflight.snapshotter(self._layout.state_dir),
            may_lower_oom_score=node.has_sys_resource(Path("/proc/self/status").read_text()),
            containerd=preflight.find_tool("containerd") or "/usr/bin/containerd",
        )

    def _start_nodes(self, deadline: Deadline, progress: Progress) -> None:
        layout, addresses = self._layout, self._known.addresses
        pause = _made(self._images, "build-images").pause.name
        cluster_dns = deploy.cluster_dns_addresses(self._spec)
        machine, labels = self._machine, self._spec.labels
        _ = self._init

        def start(name: str) -> None:
            own = addresses.node(node_index(layout.name, name))
            texts = [str(address) for address in own]
            node.write_configuration(layout, name, cluster_dns, machine, pause)
            self._start_member(name, own, node.programs(name, texts, addresses, machine, labels), deadline)
            progress(f"{name} has its namespaces")

        self._for_each_node(start)

    def _for_each_node(self, work: Callable[[str], None]) -> None:
        with ThreadPoolExecutor(max_workers=len(self._nodes)) as pool:
            list(pool.map(work, self._nodes))

    def _running_nodes(self) -> dict[str, int]:
        pids = {name: member.find(self._layout, name) for name in self._nodes}
        return {name: pid for name, pid in pids.items() if pid is not None}

    def _load_images(self, deadline: Deadline, progress: Progress) -> None:
        built = _made(self._images, "build-images")
        wanted = (built.pause, built.coredns, built.anetd)
        pids = self._running_nodes()
        snapshotter = self._machine.snapshotter

        def load(name: str) -> None:
            runtime.wait_for_containerd(self._layout, name, pids[name], deadline)
            present = runtime.image_names(pids[name])
            for image in wanted:
                if image.name not in present:
                    progress(f"loading {image.name} into {name}")
                    runtime.import_archive(name, pids[name], image.archive, snapshotter, deadline)

        self._for_each_node(load)

    # ---- what runs in the cluster ----

    def _deploy(self, deadline: Deadline, progress: Progress) -> None:
        built = _made(self._images, "build-images")
        own = credentials_of(self._layout, self._known)
        context = deploy.DeployContext(
            api_server=own.server,
            cluster_dns=deploy.cluster_dns_addresses(self._spec),
            anetd_image=built.anetd.name,
            coredns_image=built.coredns.name,
            upstream_dns=deploy.host_resolvers(),
            load_balancer_pool=list(map(str, load_balancer_pool(self._spec, self._known.addresses))),
        )
        deploy.apply_all(own, deploy.render_all(self._spec, context), deadline, progress)

    def _wait_nodes(self, deadline: Deadline, progress: Progress) -> None:
        own, count = credentials_of(self._layout, self._known), self._spec.num_nodes
        admin = self._admin_api()
        look = self._looking_at({**self._running_nodes(), **self._control_plane()})
        # What a stopped cluster's nodes last said of themselves is still there: only a lease renewed since they started is news.
        since = {name: member.started_at(pid) for name, pid in self._running_nodes().items()}

        def reported() -> bool:
            leases = admin.lease_times()
            return all(leases.get(name, "") > started for name, started in since.items())

        api.wait_until(reported, deadline, "waiting for the kubelets to report", look)
        self._route_pods(admin, deadline, look)
        deploy.wait_agent_ready(own, count, deadline, progress)

        def agent_is_new() -> bool:
            started = admin.running_since("kube-system", f"app={_AGENT}")
            # Kubernetes writes whole seconds here.
            return all(started.get(name, "") >= since[name][:19] for name in self._nodes)

        api.wait_until(agent_is_new, deadline, f"waiting for {_AGENT} to start again", look)
        deploy.wait_nodes_ready(own, count, deadline, progress)

    def _control_plane(self) -> dict[str, int]:
        pid = member.find(self._layout, CONTROL_PLANE)
        return {} if pid is None else {CONTROL_PLANE: pid}

    def _route_pods(self, admin: api.Api, deadline: Deadline, look: Callable[[], None]) -> None:
        """The API server reaches pods (webhooks, aggregated APIs, proxying) through their nodes."""
        found: dict[str, list[str]] = {}

        def allocated() -> bool:
            found.update(admin.pod_cidrs())
            return all(name in found for name in self._nodes)

        api.wait_until(allocated, deadline, "waiting for the nodes' pod CIDRs", look)
        addresses = self._known.addresses
        routes = []
        for name in self._nodes:
            via = {address.version: str(address) for address in addresses.node(node_index(self._layout.name, name))}
            routes += [(cidr, via[6 if ":" in cidr else 4]) for cidr in found[name]]
        for pid in self._control_plane().values():
            networks.replace_routes(pid, routes)

    def _wait_dns(self, deadline: Deadline, progress: Progress) -> None:
        own = credentials_of(self._layout, self._known)
        deploy.wait_dns_ready(own, deadline, progress)
        server = deploy.cluster_dns_addresses(self._spec)[0]
        nodes = self._running_nodes()
        progress(f"asking {server} from a pod")
        api.wait_until(
            lambda: dns.answers_from_a_pod(nodes.values(), server, dns.KUBERNETES),
            deadline,
            f"waiting for a DNS answer of {server} in a pod",
            self._looking_at(nodes),
        )
        source = _made(self._binaries, "acquire-binaries").source
        self._record = dataclasses.replace(self._known, spec=self._spec, complete=True, binaries=source, fingerprint=self._fingerprint)
        records.write(self._layout, self._record)


T = TypeVar("T")


def _made(value: T | None, step: str) -> T:
    if value is None:
        raise RuntimeError(f"the step {step} has not run")
    return value
