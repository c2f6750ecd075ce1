"""A node in a network namespace of its own, with the real agent process in it and a fake API server on its loopback address."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.datapath import abi, netns, policy_rows, syscalls
from agent.datapath.maps import Table
from agent.observe.control import AgentAwayError, ask

from .api import NAMESPACES, NODES, PODS, FakeApi

ROOT = Path(__file__).resolve().parents[3]
# Two who work side by side on one machine have a prefix each.
PREFIX = os.environ.get("PROVISIONER_TEST_PREFIX", "agt-")
NODE = f"{PREFIX}node"
POD_PREFIX = f"{PREFIX}pod-"
NODE_NAME = "node-a"
TABLES: dict[str, tuple[abi.Codec[Any], abi.Codec[Any]]] = {
    "endpoints": (abi.ADDRESS, abi.ENDPOINT),
    "routes": (abi.ROUTE_KEY, abi.ROUTE),
    "frontends": (abi.FRONTEND_KEY, abi.FRONTEND),
    "backend_slots": (abi.SLOT_KEY, abi.BACKEND_ID),
    "backends": (abi.BACKEND_ID, abi.BACKEND),
    "maglev": (abi.BACKEND_ID, abi.MAGLEV_ROW),
    "source_ranges": (abi.SOURCE_RANGE_KEY, abi.SOURCE_RANGE_ROW),
    "isolation": (abi.ADDRESS, policy_rows.ISOLATION),
    "classes": (abi.ROUTE_KEY, policy_rows.CLASS),
    "policies": (policy_rows.POLICY_KEY, policy_rows.POLICY_ROW),
}


def run(*argv: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, check=check, capture_output=True, text=True, **options)


def node_document(name: str, cidrs: list[str], addresses: list[str]) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"podCIDR": cidrs[0] if cidrs else "", "podCIDRs": cidrs},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }


def pod_document(
    name: str, *addresses: str, labels: dict[str, str] | None = None, namespace: str = "default", **status: Any
) -> dict[str, Any]:
    """A Pod of the node; `addresses` as kubelet reports them after its network is there."""
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-of-{name}", "labels": labels or {}},
        "spec": {"nodeName": NODE_NAME, "containers": []},
        "status": {"phase": "Running", "podIP": next(iter(addresses), ""), "podIPs": [{"ip": each} for each in addresses], **status},
    }


def namespace_document(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, **labels}}}


def eventually(condition: Callable[[], Any], within: float = 30.0, what: str = "the condition") -> Any:
    end = time.monotonic() + within
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {within} s"
        time.sleep(0.02)


def clear_leftovers(directory: Path) -> None:
    """What an earlier run that was killed left behind."""
    run("umount", str(directory / "bpffs"), check=False)
    shutil.rmtree(directory, ignore_errors=True)
    for name in run("ip", "netns", "list").stdout.split("\n"):
        name = name.split(" ")[0]
        if name == NODE or name.startswith(POD_PREFIX):
            run("ip", "netns", "del", name)


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("plugin") / "anetd-cni"
    run("gcc", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(ROOT / "agent/cni/plugin/anetd-cni.c"))
    return target


class Agent:
    """The node, its directory, its API server and its agent process."""

    def __init__(self, directory: Path, plugin: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[str] | None = None
        self.plugin_path = plugin
        for name in ("account", "bpffs", "objects"):
            (directory / name).mkdir()
        run("mount", "-t", "bpf", "bpf", str(directory / "bpffs"))
        shutil.copy(plugin, directory / "objects" / "anetd-cni")
        for path in (ROOT / "agent/objects").glob("*.bpf.o"):
            shutil.copy(path, directory / "objects")
        run("ip", "netns", "add", NODE)
        for command in (
            "link set lo up",
            "link add dev0 type veth peer name far0",
            "link set dev0 up",
            "link set far0 up",
            "addr add 192.0.2.10/24 dev dev0",
            "addr add 2001:db8::10/64 dev dev0 nodad",
            "route add default via 192.0.2.1",
        ):
            run("ip", "-n", NODE, *command.split())
        fd = netns.open_namespace(f"/run/netns/{NODE}")
        try:
            self.api = FakeApi(
                directory / "account", lambda handler: netns.run_in(fd, lambda: ThreadingHTTPServer(("127.0.0.1", 0), handler))
            )
        finally:
            os.close(fd)
        self.configure()
        self.api.put(NAMESPACES, namespace_document("default"))
        self.api.put(NODES, node_document(NODE_NAME, ["10.99.1.0/24", "fd00:99:1::/64"], ["192.0.2.10", "2001:db8::10"]))

    def configure(self, **changes: Any) -> None:
        document = {
            "clusterName": "t",
            "apiServer": self.api.url,
            "podCIDRs": ["10.99.0.0/16", "fd00:99::/48"],
            "serviceCIDRs": ["10.98.0.0/16", "fd00:98::/112"],
            **changes,
        }
        (self.directory / "config.json").write_text(json.dumps(document))

    def start(self, *, wait: bool = True) -> float:
        """Start the agent; seconds from exec to ready."""
        began = time.monotonic()
        self.log = (self.directory / "log").open("a")
        self.process = subprocess.Popen(
            [
                "nsenter",
                f"--net=/run/netns/{NODE}",
                sys.executable,
                str(ROOT / "tests/datapath/agent/launch.py"),
                str(self.directory),
            ],
            env={"PATH": os.environ["PATH"], "NODE_NAME": NODE_NAME},
            stderr=self.log,
            text=True,
        )
        if wait:
            eventually(lambda: self.status().get("ready"), within=60, what=f"ready: {self.logged()}")
        return time.monotonic() - began

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(30)
        self.log.close()
        return status

    def logged(self) -> str:
        return (self.directory / "log").read_text()

    def ask(self, word: str) -> Any:
        return ask(word, self.directory / "run/anetd.sock")

    def status(self) -> dict[str, Any]:
        try:
            return dict(self.ask("status"))
        except AgentAwayError:
            return {}

    def kernel(self) -> dict[str, Any]:
        """The rows of each pinned table, the pinned links, and the pods' host ends that have both filters."""
        root = self.directory / "bpffs/anetd/v2"
        pins = sorted(pin.name for pin in (root / "links").iterdir())
        found: dict[str, Any] = {"links": pins, "pods": [name for name in self.links() if self._filters(name) == 2]}
        for name, codecs in TABLES.items():
            fd = syscalls.obj_get(root / "maps" / name)
            assert fd is not None, name
            table: Table[Any, Any] = Table(name, fd, *codecs)
            found[name] = dict(table.items())
            os.close(fd)
        return found

    def _filters(self, device: str) -> int:
        shown = [run("tc", "-n", NODE, "filter", "show", "dev", device, end).stdout for end in ("ingress", "egress")]
        return sum(f"anetd:pod-{device} " in one for one in shown)

    def links(self) -> list[str]:
        found = json.loads(run("ip", "-n", NODE, "-j", "link", "show").stdout)
        return sorted(link["ifname"] for link in found if link["ifname"].startswith("an") and link["ifname"] != "anetd-vxlan")

    def cni(
        self,
        command: str,
        container: str,
        netns_path: str = "",
        *,
        version: str = "1.1.0",
        config: bytes | None = None,
        known: bool = True,
        **extra: str,
    ) -> tuple[int, Any]:
        """Execute the plugin; its status and what it printed. An ADD's Pod, named as the container, is in the API, but for `known` False."""
        if command == "ADD" and known and f"default/{container}" not in self.api.objects[PODS]:
            self.api.put(PODS, pod_document(container))
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": netns_path,
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}",
            "ANETD_CNI_SOCKET": str(self.directory / "run/cni.sock"),
            **extra,
        }
        stdin = config if config is not None else json.dumps({"cniVersion": version, "name": "anetd", "type": "anetd-cni"}).encode()
        done = subprocess.run([str(self.plugin_path)], input=stdin, capture_output=True, env=environment, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        with contextlib.suppress(OSError):
            self.api.close()


@pytest.fixture
def node(plugin: Path) -> Iterator[Agent]:
    # Unix socket paths are short: pytest's own directories may not be.
    directory = Path("/tmp") / NODE
    clear_leftovers(directory)
    directory.mkdir(mode=0o700)
    agent = Agent(directory, plugin)
    try:
        yield agent
    finally:
        agent.close()
        clear_leftovers(directory)


@pytest.fixture
def pod(node: Agent) -> Iterator[Callable[[str], str]]:
    """Makes pods' namespaces; gives their paths."""
    made: list[str] = []

    def make(name: str) -> str:
        run("ip", "netns", "add", POD_PREFIX + name)
        run("ip", "-n", POD_PREFIX + name, "link", "set", "lo", "up")
        made.append(POD_PREFIX + name)
        return f"/var/run/netns/{POD_PREFIX}{name}"

    yield make
    for name in made:
        run("ip", "netns", "del", name, check=False)
