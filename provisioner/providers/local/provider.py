"""Clusters on this machine. `LocalProvider` plans from what it observes; the steps are in `create.py` and `remove.py`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from provisioner import errors
from provisioner.plan.steps import Deadline, Plan, Progress
from provisioner.providers.base import ClusterInfo, ClusterState, Credentials
from provisioner.providers.local import locks, member, networks, preflight, records, remove, runtime
from provisioner.providers.local.create import Creation, credentials_of
from provisioner.providers.local.layout import CONTROL_PLANE, RUN_ROOT, STATE_ROOT, Addresses, Layout, load_balancer_pool, node_index
from provisioner.spec import ClusterSpec, HostRoute, RoutingMode, check_host_routes


class LocalProvider:
    """kubernetes_bin_dir  the programs, instead of those from the cache, the release or a build. Other roots are for tests."""

    name = "local"

    def __init__(self, kubernetes_bin_dir: Path | None = None, *, state_root: Path = STATE_ROOT, run_root: Path = RUN_ROOT) -> None:
        self._bin_dir = kubernetes_bin_dir
        self._state_root = state_root
        self._run_root = run_root
        self._locks: dict[str, locks.FileLock] = {}

    def _layout(self, name: str) -> Layout:
        return Layout(name, self._state_root, self._run_root)

    def _lock(self, layout: Layout) -> locks.FileLock:
        return self._locks.setdefault(layout.name, locks.FileLock(layout.lock_file))

    def _found(self, name: str) -> tuple[Layout, records.Observed]:
        layout = self._layout(name)
        # A name that no cluster can have is not looked for: as a path it could lead anywhere.
        observed = records.observe(layout) if _is_valid_name(name) else None
        if observed is None or not observed.exists:
            known = ", ".join(records.names(self._state_root, self._run_root))
            raise errors.NotFound(
                f"there is no cluster {name} on this machine", remedy=f"These are there: {known}." if known else "None is there."
            )
        return layout, observed

    def plan_create(self, spec: ClusterSpec) -> Plan:
        """Everything between what is found and `spec`."""
        layout = self._layout(spec.name)
        preflight.check_root()
        observed = records.observe(layout)
        preflight.check(
            sum(name not in observed.members for name in layout.nodes(spec.num_nodes)),
            vxlan=spec.dataplane.routing_mode is RoutingMode.VXLAN,
            state_root=self._state_root,
            run_root=self._run_root,
        )
        if observed.record is None:
            self._check_networks(spec, layout)
        else:
            differing = observed.record.spec.differences(spec)
            if differing:
                raise errors.Conflict(
                    f"the cluster {spec.name} is there with another {', '.join(differing)}",
                    remedy=f"Delete it first (delete-cluster {spec.name}), or ask for what it has.",
                    field=differing[0],
                )
        return Creation(layout, self._lock(layout), spec, self._bin_dir, observed).plan()

    def _check_networks(self, spec: ClusterSpec, layout: Layout) -> None:
        routes = [HostRoute(network, device) for network, device in networks.networks_in_use() if device != layout.bridge]
        check_host_routes(spec, routes)
        if spec.node_subnet is not None:
            load_balancer_pool(spec, Addresses.of(spec.node_subnet, dual_stack=spec.dual_stack))

    def plan_stop(self, name: str) -> Plan:
        """Ends the processes and removes the links; the state stays."""
        layout, observed = self._found(name)
        if observed.record is None:
            raise errors.Conflict(
                f"the cluster {name} has no readable record, so it could not be started again",
                remedy=f"Remove what is left of it: delete-cluster {name}.",
            )
        return remove.plan_stop(layout, self._lock(layout), observed)

    def plan_delete(self, name: str) -> Plan:
        """Removes whatever is found."""
        layout, observed = self._found(name)
        return remove.plan_delete(layout, self._lock(layout), observed)

    def journal(self, name: str) -> Path:
        """In the state directory, beside the record."""
        return self._layout(name).journal

    def list(self) -> Sequence[ClusterInfo]:
        infos = (self._info(name) for name in records.names(self._state_root, self._run_root))
        return [info for info in infos if info is not None]

    def describe(self, name: str) -> ClusterInfo:
        self._found(name)
        info = self._info(name)
        if info is None:
            raise errors.Conflict(
                f"of the cluster {name} only remains are there, and no readable record", remedy=f"Remove them: delete-cluster {name}."
            )
        return info

    def _info(self, name: str) -> ClusterInfo | None:
        layout = self._layout(name)
        observed = records.observe(layout)
        record = observed.record
        if record is None:
            # The interface has a row for clusters with a spec alone; the defaults stand for what was never written.
            if not observed.exists or not _is_valid_name(name):
                return None
            return ClusterInfo(name, self.name, ClusterState.INCOMPLETE, "", 0, "", "", ClusterSpec.make(name))
        addresses = record.addresses
        running = observed.members
        members = {
            CONTROL_PLANE: addresses.control_plane,
            **{node: addresses.node(node_index(name, node)) for node in layout.nodes(record.spec.num_nodes)},
        }
        details = {
            "stateDirectory": str(layout.state_dir),
            "subnets": [str(network) for network in addresses.networks],
            "bridge": layout.bridge,
            "gateway": str(addresses.bridge[0]),
            "gatewayV6": str(addresses.bridge[1]) if len(addresses.bridge) > 1 else None,
            "binaries": record.binaries,
            "members": [
                {
                    "name": member_name,
                    "running": member_name in running,
                    "pid": running.get(member_name),
                    "addresses": [str(address) for address in own],
                    "logs": str(layout.member_logs(member_name)),
                    "programs": {
                        status.name: {"running": status.pid != 0, "restarts": status.restarts}
                        for status in (member.statuses(running[member_name]).values() if member_name in running else ())
                    },
                }
                for member_name, own in members.items()
            ],
        }
        return ClusterInfo(
            name=name,
            provider=self.name,
            state=observed.state,
            kubernetes_version=record.spec.kubernetes_version,
            num_nodes=record.spec.num_nodes,
            endpoint=addresses.server,
            created=record.created,
            spec=record.spec,
            details=details,
        )

    def credentials(self, name: str) -> Credentials:
        layout, observed = self._found(name)
        if observed.record is None or not (layout.pki_dir / "ca.crt").exists():
            raise errors.Conflict(
                f"the cluster {name} is half-made and has no credentials yet", remedy="Run create-cluster again, or delete it."
            )
        return credentials_of(layout, observed.record)

    def load_image(self, name: str, archives: Sequence[Path], deadline: Deadline, progress: Progress) -> Sequence[str]:
        """Into all nodes side by side."""
        layout, nodes = self._running_nodes(name)
        for archive in archives:
            if not archive.is_file():
                raise errors.NotFound(f"there is no archive {archive}", remedy="Give the path of a docker or OCI archive.")
        snapshotter = preflight.snapshotter(layout.state_dir)

        def load(item: tuple[str, int]) -> list[str]:
            node, pid = item
            runtime.wait_for_containerd(layout, node, pid, deadline)
            names: list[str] = []
            for archive in archives:
                progress(f"loading {archive.name} into {node}")
                names += runtime.import_archive(node, pid, archive, snapshotter, deadline)
            return names

        with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
            loaded = list(pool.map(load, nodes.items()))
        return sorted(set(loaded[0]))

    def has_image(self, name: str, image: str) -> bool:
        """Asked of all nodes side by side."""
        _, nodes = self._running_nodes(name)
        with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
            return all(image in present for present in pool.map(runtime.image_names, nodes.values()))

    def _running_nodes(self, name: str) -> tuple[Layout, dict[str, int]]:
        layout, observed = self._found(name)
        nodes = {member_name: pid for member_name, pid in observed.members.items() if member_name != CONTROL_PLANE}
        if observed.record is None or len(nodes) < observed.record.spec.num_nodes:
            raise errors.Conflict(f"not every node of {name} runs", remedy="Start the cluster: create-cluster with its spec continues it.")
        return layout, nodes

    def context(self, name: str) -> str:
        return f"provisioner-{name}"

    def going_on(self, _name: str) -> str:
        """Nothing: what was begun ends with the command."""
        return ""

    def made_here(self, _name: str) -> bool:
        """Always: there is no other way to make one."""
        return True


def _is_valid_name(name: str) -> bool:
    try:
        ClusterSpec.make(name)
    except ValueError:
        return False
    return True
