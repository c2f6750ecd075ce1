"""How long a NetworkPolicy takes from the API to the packet: on a real cluster, while other things change.

    python -m tests.bench.policy_latency [--pods N] [--policies N] [--changes N] [--probes N] [--json FILE]

With so many pods and policies in the cluster, and so many changes of them a second going on, from the moment a request is sent to the API
server to the first packet that is judged by what it says:

    policy_allows     a policy is created that lets a pod be reached
    policy_denies     one is created that isolates a pod
    label             a peer's label is changed to one that a policy allows
    peer              a new peer gets its address

`request_ms` is the API server's share, from the request to its own answer, whose tail is the disk's under etcd; `answered` is the rest, from that
answer, when the object is there for everybody, to the packet (below zero where the packet was quicker). The other pods are objects alone, with addresses that nobody has.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from tests.bench import objects
from tests.bench.services import OUTSIDE, cluster_of_two, outside, percentiles, say
from tests.cluster.kube import TOOLBOX_PORTS, Cluster, container_pid, eventually, run, toolbox_pod

NAMESPACE = objects.NAMESPACE
PROBER = Path(__file__).resolve().parent / "prober.py"
GROUPS = 50
GONE_SECONDS = 30.0
MERGE = "application/merge-patch+json"
POLICIES = f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class Prober:
    """A prober process and what it said last."""

    def __init__(self, inside: list[str], address: str) -> None:
        argv = [*inside, sys.executable, str(PROBER), address, str(TOOLBOX_PORTS["udp"])]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._condition = threading.Condition()
        self.said: list[tuple[str, float]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, at = line.split()
            with self._condition:
                self.said.append((word, float(at)))
                self._condition.notify_all()

    def await_now(self, word: str, within: float = GONE_SECONDS) -> int:
        """Wait until this is what it said last; how much it has said. AssertionError when it does not come to that."""
        end = time.monotonic() + within
        with self._condition:
            while not self.said or self.said[-1][0] != word:
                assert self._condition.wait(max(0.0, end - time.monotonic())), f"it is not {word}"
            return len(self.said)

    def next(self, since: int, word: str, within: float = GONE_SECONDS) -> float:
        """The time that it says with the first such word after so much. AssertionError when it does not."""
        end = time.monotonic() + within
        with self._condition:
            while True:
                for said, at in self.said[since:]:
                    if said == word:
                        return at
                assert self._condition.wait(max(0.0, end - time.monotonic())), f"nothing is {word}"

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def policy(name: str, target: dict[str, str], *peers: dict[str, str]) -> dict[str, Any]:
    """Ingress to `target` from pods with the labels of any of `peers`; none: from nobody."""
    rules = [{"from": [{"podSelector": {"matchLabels": labels}} for labels in peers]}] if peers else []
    metadata = {"name": name, "namespace": NAMESPACE}
    spec = {"podSelector": {"matchLabels": target}, "policyTypes": ["Ingress"], "ingress": rules}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def still_pod(name: str, **labels: str) -> dict[str, Any]:
    """A pod that no scheduler takes."""
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
    containers = [{"name": "none", "image": "none"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"schedulerName": "none", "containers": containers}}


class Lab:
    """The cluster and the two who ask: a pod and, for a peer that comes and goes, a namespace on the nodes' link."""

    def __init__(self, cluster: Cluster, api: objects.Maker, options: argparse.Namespace, stack: ExitStack) -> None:
        self.cluster, self.api, self.options = cluster, api, options
        first, other = cluster.nodes()
        pods = [toolbox_pod(cluster, "client", first), toolbox_pod(cluster, "web", other, labels={"bench": "web"})]
        for pod in pods:
            pod["metadata"]["namespace"] = NAMESPACE
        cluster.apply(*pods)
        cluster.wait_ready(NAMESPACE, "client", "web", within=120)
        server = cluster.pod_addresses(NAMESPACE, "web")[4]
        client = container_pid(cluster, first, cluster.pod(NAMESPACE, "client"))
        member = f"/proc/{cluster.member_pid(first)}/root/proc/{client}/ns/net"
        cidr = cluster.get("node", other)["spec"]["podCIDR"]
        run("ip", "-n", OUTSIDE, "route", "replace", cidr, "via", cluster.node_address(other))
        self.stranger_address = json.loads(run("ip", "-n", OUTSIDE, "-j", "-4", "addr", "show", "dev", "eth0"))[0]["addr_info"][0]["local"]
        self.client = Prober(["nsenter", f"--net={member}"], server)
        stack.callback(self.client.close)
        self.stranger = Prober(["ip", "netns", "exec", OUTSIDE], server)
        stack.callback(self.stranger.close)
        for prober in (self.client, self.stranger):
            prober.await_now("up")


def fill(lab: Lab, pods: IPv4Network) -> None:
    """The other pods, each in one of `GROUPS` groups, and the other policies, each for one group from another."""
    say(f"making {lab.options.pods} pods and {lab.options.policies} policies")
    half = pods.num_addresses // 2

    def make(number: int) -> None:
        lab.api.request("POST", PODS, still_pod(f"still-{number}", group=f"g{number % GROUPS}", number=f"n{number}"))
        address = str(pods[half + number])
        status = {"podIP": address, "podIPs": [{"ip": address}]}
        lab.api.request("PATCH", f"{PODS}/still-{number}/status", {"status": status}, MERGE)

    def rule(number: int) -> None:
        peers = [{"group": f"g{(number + each) % GROUPS}"} for each in (1, 7)]
        lab.api.request("POST", POLICIES, policy(f"still-{number}", {"group": f"g{number % GROUPS}"}, *peers))

    for work, count in ((make, lab.options.pods), (rule, lab.options.policies)):
        lab.api.each(work, range(count))


@contextmanager
def changing(lab: Lab) -> Iterator[Callable[[], float]]:
    """Labels of the other pods and peers of the other policies change, in turn; the value tells how many a second it was."""
    stop = threading.Event()
    began, made = time.monotonic(), [0]

    def work() -> None:
        while not stop.is_set():
            number = made[0]
            group = f"g{(number * 13) % GROUPS}"
            if number % 5:
                labels = {"metadata": {"labels": {"group": group}}}
                lab.api.request("PATCH", f"{PODS}/still-{number * 7 % lab.options.pods}", labels, MERGE)
            else:
                index = number * 11 % lab.options.policies
                lab.api.request(
                    "PUT", f"{POLICIES}/still-{index}", policy(f"still-{index}", {"group": f"g{index % GROUPS}"}, {"group": group})
                )
            made[0] += 1
            stop.wait(max(0.0, began + made[0] / lab.options.changes - time.monotonic()))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield lambda: round(made[0] / (time.monotonic() - began), 1)
    finally:
        stop.set()
        thread.join(30)


Change = Callable[[int], None]


def times(lab: Lab, prober: Prober, word: str, change: Change, undo: Change) -> dict[str, Any]:
    """From `change`'s request to what the prober says, `undo` and the opposite in between."""
    opposite = {"up": "down", "down": "up"}[word]
    found: list[float] = []
    created: list[float] = []
    for number in range(lab.options.probes):
        time.sleep(0.05 + number % 10 * 0.01)  # no two at the same distance from the changes that go on
        since = prober.await_now(opposite)
        began = time.monotonic()
        change(number)
        created.append((time.monotonic() - began) * 1000)
        found.append(max(0.0, prober.next(since, word) - began) * 1000)
        undo(number)
    prober.await_now(opposite)
    answered = [whole - request for whole, request in zip(found, created, strict=True)]
    return {**percentiles(found), "request_ms": percentiles(created), "answered": percentiles(answered)}


def measure(lab: Lab) -> dict[str, Any]:
    web, friend = {"bench": "web"}, {"role": "friend"}
    create = lambda document: lab.api.request("POST", POLICIES, document)  # noqa: E731
    delete = lambda name: lab.api.request("DELETE", f"{POLICIES}/{name}")  # noqa: E731
    relabel = lambda role: lab.api.request("PATCH", f"{PODS}/client", {"metadata": {"labels": {"role": role}}}, MERGE)  # noqa: E731
    found: dict[str, Any] = {}
    say("a policy that denies")
    found["policy_denies"] = times(
        lab, lab.client, "down", lambda number: create(policy(f"deny-{number}", web)), lambda number: delete(f"deny-{number}")
    )
    create(policy("base", web))
    lab.client.await_now("down")
    say("a policy that allows")
    found["policy_allows"] = times(
        lab,
        lab.client,
        "up",
        lambda number: create(policy(f"allow-{number}", web, {"app": "client"})),
        lambda number: delete(f"allow-{number}"),
    )
    create(policy("friends", web, friend))
    say("a label")
    found["label"] = times(lab, lab.client, "up", lambda _: relabel("friend"), lambda _: relabel("none"))

    def come(number: int) -> None:
        status = {"podIP": lab.stranger_address, "podIPs": [{"ip": lab.stranger_address}]}
        lab.api.request("PATCH", f"{PODS}/peer-{number}/status", {"status": status}, MERGE)

    lab.api.each(lambda number: lab.api.request("POST", PODS, still_pod(f"peer-{number}", **friend)), range(lab.options.probes))
    say("a peer")
    found["peer"] = times(
        lab, lab.stranger, "up", come, lambda number: lab.api.request("DELETE", f"{PODS}/peer-{number}?gracePeriodSeconds=0")
    )
    return found


def agents(cluster: Cluster) -> dict[str, Any]:
    """What the agents say of their own part, by node."""
    found = {}
    for node in cluster.nodes():
        text = cluster.in_member(node, "curl", "-sS", "--max-time", "10", "http://127.0.0.1:9879/metrics", check=False)
        names = ("anetd_policy_compile_seconds", "anetd_policy_apply_seconds", "anetd_policy_latency_seconds")
        values = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#") and "{" not in line}
        found[node] = {
            name: {"mean_ms": round(values[f"{name}_sum"] / values[f"{name}_count"] * 1000, 2), "count": int(values[f"{name}_count"])}
            for name in names
            if values.get(f"{name}_count")
        }
    return found


def parse() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pods", type=int, default=1000)
    options.add_argument("--policies", type=int, default=500)
    options.add_argument("--changes", type=float, default=10.0, help="a second")
    options.add_argument("--probes", type=int, default=100)
    options.add_argument("--json", type=Path)
    return options.parse_args()


def main() -> None:
    options = parse()
    images = json.loads(run(sys.executable, "-m", "provisioner.images", "--json", timeout=1800))
    binaries = Path(json.loads(run(sys.executable, "-m", "provisioner.binaries", "--json", timeout=3600))["directory"])
    found: dict[str, Any] = {"pods": options.pods, "policies": options.policies}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        cluster = stack.enter_context(cluster_of_two(Path(directory), str(binaries / "kubectl"), images["toolbox"]))
        stack.enter_context(outside(cluster, cluster.nodes()[0]))
        cluster.kubectl("create", "namespace", NAMESPACE)
        eventually(
            lambda: cluster.kubectl("get", "serviceaccount", "default", "-n", NAMESPACE, check=False), what="default service account"
        )
        lab = Lab(cluster, objects.Maker(cluster.kubeconfig), options, stack)
        network = IPv4Network(
            json.loads(cluster.get("configmap", "-n", "kube-system", "anetd-config")["data"]["config.json"])["podCIDRs"][0]
        )
        fill(lab, network)
        with changing(lab) as rate:
            found |= measure(lab)
            found["changes_per_second"] = rate()
        found["agents"] = agents(cluster)
    text = json.dumps(found, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
