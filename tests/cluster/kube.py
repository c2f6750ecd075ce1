"""A cluster under test: kubectl, the kubernetes client, and the few shapes that every test here uses."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from agent.observe.control import SOCKET, AgentAwayError, ask

from .api import Api, read_path
from .shells import Gone, Shells

# An agent that was killed is started again at once, but later and later by the kubelet when that happens often: after 10, 20, 40 s.
AGENT_BACK = 120
TOOLBOX_PORTS = {"http": 8080, "udp": 8081}


class CommandFailed(AssertionError):
    """A command that a test needed did not end with 0; the text holds all that it said."""


def run(*argv: str, timeout: float = 60, check: bool = True, stdin: str | None = None, env: dict[str, str] | None = None) -> str:
    """Standard output of a command; CommandFailed with both streams when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, input=stdin, env=env, check=False)
    if check and done.returncode != 0:
        raise CommandFailed(f"{' '.join(argv)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def eventually(probe: Callable[[], Any], *, within: float = 30, every: float = 0.25, what: str = "") -> Any:
    """The first truthy answer of `probe`; its last answer or error is in the failure."""
    end = time.monotonic() + within
    last: Any = None
    while True:
        try:
            last = probe()
            if last:
                return last
        except (AssertionError, subprocess.TimeoutExpired, KeyError) as error:
            last = error
        if time.monotonic() > end:
            raise AssertionError(f"not within {within} s: {what or probe}; last: {last}")
        time.sleep(every)


def _is_member(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() == "member-init"
    return False


def together(probes: Mapping[Any, Callable[[], Any]]) -> dict[Any, Any]:
    """The answer of each probe, all asked at once: one that has to run into its time-out does not hold up the others."""
    with ThreadPoolExecutor(max(1, len(probes))) as pool:
        asked = {name: pool.submit(probe) for name, probe in probes.items()}
        return {name: answer.result() for name, answer in asked.items()}


@dataclass
class Cluster:
    """A running local cluster: its name, kubeconfig, and what was asked for. What never changes is asked once."""

    name: str
    kubeconfig: Path
    spec: dict[str, Any]
    toolbox: str
    provisioner: str
    kubectl_path: str
    families: tuple[int, ...] = field(default=(4,))
    _pids: dict[str, int] = field(default_factory=dict)

    @cached_property
    def api(self) -> Api:
        return Api(self.kubeconfig, seconds=20)

    @cached_property
    def _shells(self) -> Shells:
        return Shells([self.kubectl_path, "--kubeconfig", str(self.kubeconfig)])

    @cached_property
    def _nodes(self) -> dict[str, Any]:
        return {item["metadata"]["name"]: item for item in self.get("nodes")["items"]}

    def close(self) -> None:
        """Let go of what was kept open."""
        self._shells.close()

    @property
    def dual_stack(self) -> bool:
        return 6 in self.families

    def kubectl(self, *argv: str, timeout: float = 60, check: bool = True, stdin: str | None = None) -> str:
        return run(self.kubectl_path, "--kubeconfig", str(self.kubeconfig), *argv, timeout=timeout, check=check, stdin=stdin)

    def kubectl_process(self, *argv: str) -> subprocess.Popen[str]:
        command = [self.kubectl_path, "--kubeconfig", str(self.kubeconfig), *argv]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)

    def get(self, *argv: str) -> Any:
        """The document of `kubectl get ARGV -o json`."""
        path = read_path(argv)
        return self.api.request("GET", path) if path else json.loads(self.kubectl("get", *argv, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        # JSON: in kubectl's YAML a namespace called y would be a truth value.
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def describe(self) -> Any:
        return json.loads(run(self.provisioner, "describe-cluster", self.name, "--output", "json"))

    def nodes(self) -> list[str]:
        return sorted(self._nodes)

    def node_address(self, node: str, family: int = 4) -> str:
        addresses = [a["address"] for a in self._nodes[node]["status"]["addresses"] if a["type"] == "InternalIP"]
        return next(a for a in addresses if (":" in a) == (family == 6))

    def pod(self, namespace: str, name: str) -> Any:
        return self.get("pod", "-n", namespace, name)

    def pod_addresses(self, namespace: str, name: str) -> dict[int, str]:
        """Family -> address of a running pod."""
        addresses = [entry["ip"] for entry in self.pod(namespace, name)["status"].get("podIPs", [])]
        return {6 if ":" in address else 4: address for address in addresses}

    def exec(self, namespace: str, pod: str, *command: str, timeout: float = 30, check: bool = True) -> str:
        """Standard output of a command in a toolbox pod, or in one of kube-system, where there is no shell to be kept."""
        if namespace == "kube-system":
            return self.kubectl("exec", "-n", namespace, pod, "--", *command, timeout=timeout, check=check)
        said = f"{shlex.join(command)} in {namespace}/{pod}"
        try:
            done = self._shells.run(namespace, pod, command, timeout)
        except (Gone, EOFError) as error:
            raise CommandFailed(f"{said}: the pod went away: {error}") from error
        if check and done.status:
            raise CommandFailed(f"{said} ended with {done.status}\n{done.out}\n{done.err}")
        return done.out

    def wait_ready(self, namespace: str, *pods: str, within: float = 60) -> None:
        targets = [f"pod/{pod}" for pod in pods]
        self.kubectl("wait", "-n", namespace, "--for=condition=Ready", f"--timeout={int(within)}s", *targets, timeout=within + 10)

    def member_pid(self, member: str) -> int:
        """PID 1 of a node or of the control plane, as the machine sees it."""
        known = self._pids.get(member)
        if known is None or not _is_member(known):
            self._pids = {entry["name"]: int(entry["pid"]) for entry in self.describe()["details"]["members"]}
        return self._pids[member]

    def in_member(self, member: str, *command: str, timeout: float = 30, check: bool = True) -> str:
        """Run a command inside all the namespaces of a node."""
        return run("nsenter", "-t", str(self.member_pid(member)), "-a", "--", *command, timeout=timeout, check=check)

    @contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """A namespace of the test's own, removed without waiting."""
        self.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=true", timeout=120)
        self.kubectl("create", "namespace", name)
        eventually(lambda: self.kubectl("get", "serviceaccount", "default", "-n", name, check=False), what="default service account")
        try:
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")


def toolbox_pod(
    cluster: Cluster, name: str, node: str, *, labels: dict[str, str] | None = None, host_network: bool = False
) -> dict[str, Any]:
    """A pod that serves HTTP and UDP (agnhost netexec) and holds the usual network tools, bound to a node.

    A host-network pod serves on ports of its own, so that several may share a node.
    """
    http, udp = (18080, 18081) if host_network else (TOOLBOX_PORTS["http"], TOOLBOX_PORTS["udp"])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name, **(labels or {})}},
        "spec": {
            "nodeName": node,
            "hostNetwork": host_network,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": "toolbox",
                    "image": cluster.toolbox,
                    "command": ["/agnhost", "netexec", f"--http-port={http}", f"--udp-port={udp}"],
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": http}, "periodSeconds": 1},
                }
            ],
        },
    }


def url(address: str, port: int, path: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}{path}"


def udp_ask(cluster: Cluster, namespace: str, pod: str, address: str, port: int, question: str = "hostname") -> str:
    """A datagram's answer, by netcat inside the pod; asked again for as long as nothing comes."""
    ask = f"printf %s {question} | nc -u -W 1 -w 1 {address} {port}"
    script = f'for n in $(seq 20); do answer=$({ask}); [ -z "$answer" ] || break; done; echo "$answer"'
    return cluster.exec(namespace, pod, "sh", "-c", script, timeout=60).strip()


def listening(cluster: Cluster, namespace: str, pod: str, port: int) -> int:
    """How many sockets of a pod wait at a port for whoever comes, of TCP and UDP together."""
    return len(cluster.exec(namespace, pod, "ss", "-Hlntu", f"sport = :{port}").splitlines())


def agent_on(cluster: Cluster, node: str) -> str:
    """The name of the agent's pod on a node."""
    pods = cluster.get("pods", "-n", "kube-system", "-l", "app=anetd", "--field-selector", f"spec.nodeName={node}")["items"]
    return str(pods[0]["metadata"]["name"])


def agent_process(cluster: Cluster, node: str) -> int:
    """The agent's pid inside the node."""
    listing = cluster.in_member(
        node, "sh", "-c", "for p in /proc/[0-9]*; do printf '%s ' ${p#/proc/}; tr '\\0' ' ' < $p/cmdline; echo; done"
    )
    found = [int(line.split()[0]) for line in listing.splitlines() if "agent.main agent" in line]
    assert found, f"no agent runs on {node}"
    return found[0]


def ask_agent(cluster: Cluster, node: str, question: str) -> Any:
    """The document behind `anetd QUESTION --output json` on a node. AssertionError while the agent is away."""
    try:
        return ask(question, Path(f"/proc/{cluster.member_pid(node)}/root{SOCKET}"))
    except (AgentAwayError, OSError, ValueError) as error:
        raise CommandFailed(f"anetd {question} on {node}: {error}") from error


def status(cluster: Cluster, node: str) -> Any:
    """`anetd status` of a node."""
    return ask_agent(cluster, node, "status")


def drops(cluster: Cluster, node: str, reason: str) -> int:
    """Packets that a node's programs dropped for a reason."""
    return sum(row["packets"] for row in status(cluster, node)["drops"] if row["reason"] == reason)


def ready(cluster: Cluster, node: str) -> bool:
    """Whether the agent's pod on a node is ready, as the API server has it."""
    conditions = cluster.pod("kube-system", agent_on(cluster, node))["status"]["conditions"]
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def program_of(parent: int, name: str) -> int:
    """The pid (as the machine sees it) of a member's program."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(fields[1]) == parent and Path(argv[0].decode()).name == name:
            return int(entry.name)
    raise AssertionError(f"{name} does not run under {parent}")


def container_pid(cluster: Cluster, node: str, pod: Any) -> str:
    """The pid inside the node of a pod's first container."""
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    tasks = cluster.in_member(node, "ctr", "-n", "k8s.io", "task", "ls")
    return next(line.split()[1] for line in tasks.splitlines() if line.startswith(container))
