"""What a Service costs: anetd, and the real kube-proxy in both of its modes, on the same nodes in the same run.

    python -m tests.bench.services [--scales 1,1000,10000] [--rounds N] [--seconds S] [--probes N] [--minutes M] [--json FILE]

At each number of Services, for each dataplane:

    pod        from a pod to a server on the other node, by the pod's address and by a ClusterIP, in turn, round after round
    nodeport   from a namespace on the nodes' bridge to a NodePort of the first node, backend there and on the other, and to a process of
               the node itself, in turn (least Services only)
    program    from the request that creates an EndpointSlice, and from the API server's answer to it, to the first connection that is answered, ten
               such requests a second
    memory     resident, of the agent or kube-proxy

and with the most Services, how long each takes to be in step from nothing, and how many rows the agent writes when one endpoint changes.
The run stops by itself after M minutes; what was measured until then is kept and what was not is missing, never made up.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any

from tests.bench import objects, planes
from tests.bench.cluster import resident_mib
from tests.bench.datapath_limit import HERE, SERVER_CPU, SHAPES, STREAM_SECONDS, STREAMS, advantage, sh
from tests.cluster.conftest import PREFIX, PROVISIONER, spec_file
from tests.cluster.kube import Cluster, CommandFailed, eventually, run, status

NAME = f"{PREFIX}services"
OUTSIDE = "bench-outside"
KUBE_PROXY_MODES = ("nftables", "iptables")
PER_SECOND = 10
PROGRAM_SECONDS = 120
# The first of three ports each, for stream, rr and crr.
SERVER_PORT, NODE_PORTS = 7001, {"local": 31001, "remote": 31011}
CRR = 2


@dataclass
class Lab:
    """The cluster with what every measurement needs."""

    cluster: Cluster
    api: objects.Maker
    tool: Path
    scratch: Path
    kube_proxy: Path
    pods: IPv4Network
    options: argparse.Namespace
    found: dict[str, Any]
    addresses: dict[str, str] = field(default_factory=dict)
    """Of the pods and Services, by name."""
    fillers: int = 0

    @property
    def first(self) -> str:
        return self.cluster.nodes()[0]

    def ask(self, shape: str, address: str, port: int = SERVER_PORT, *, seconds: float) -> float:
        """One figure of a pod: Gb/s or the median in µs."""
        return self.ask_in_turn(shape, [(address, port)], seconds=seconds)[0]

    def ask_in_turn(
        self, shape: str, targets: Sequence[tuple[str, int]], *, turns: int = 1, seconds: float, outside: bool = False
    ) -> list[float]:
        """Figures, one a target, for as many turns as there are to be. CPUs are chosen as `datapath_limit.measure` says."""
        tool = str(self.tool) if outside else "/tmp/netbench"
        asks = [f"{tool} -c {SERVER_CPU} -p {port} {shape} {address} {seconds}" for address, port in targets]
        script = f"for turn in $(seq {turns}); do {' && '.join(asks)} || exit 1; done"
        if outside:
            text = run("ip", "netns", "exec", OUTSIDE, "sh", "-c", script)
        else:
            text = self.cluster.exec(objects.NAMESPACE, "client", "timeout", "30", "sh", "-c", script)
        return [float(json.loads(line)["gbit_per_s" if shape == "stream" else "p50_us"]) for line in text.splitlines()]


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def make_pods(lab: Lab) -> None:
    """The client and a server on the first node, a server on the other, in the network of the plane that is on."""
    wait = "until [ -x /tmp/netbench ]; do sleep 0.1; done; exec /tmp/netbench"
    first, other = lab.cluster.nodes()
    for name, node, command in (
        ("client", first, "exec sleep infinity"),
        ("server-local", first, f"{wait} -c {SERVER_CPU} serve 0.0.0.0"),
        ("server-remote", other, f"{wait} -c {SERVER_CPU} serve 0.0.0.0"),
    ):
        container = {"name": "bench", "image": lab.cluster.toolbox, "command": ["sh", "-c", command]}
        metadata = {"name": name, "namespace": objects.NAMESPACE, "labels": {"bench": name}}
        # Without variables for ten thousand Services, which are more than the kernel lets a program have.
        spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "enableServiceLinks": False, "containers": [container]}
        lab.cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    names = ("client", "server-local", "server-remote")
    lab.cluster.wait_ready(objects.NAMESPACE, *names, within=120)
    kubectl = [lab.cluster.kubectl_path, "--kubeconfig", str(lab.cluster.kubeconfig), "exec", "-i", "-n", objects.NAMESPACE]
    for name in names:
        place = "cat > /tmp/new && chmod 755 /tmp/new && mv /tmp/new /tmp/netbench"
        with lab.tool.open("rb") as program:
            subprocess.run([*kubectl, name, "--", "sh", "-c", place], stdin=program, check=True, timeout=60)
        lab.addresses[name] = lab.cluster.pod_addresses(objects.NAMESPACE, name)[4]
    eventually(lambda: lab.ask("crr", lab.addresses["server-remote"], seconds=0.01), within=60, what="the server by its own address")


def delete_pods(lab: Lab) -> None:
    lab.cluster.kubectl("delete", "pods", "--all", "-n", objects.NAMESPACE, "--grace-period=0", "--wait=true", timeout=120)


def make_services(lab: Lab) -> None:
    """Those that are asked: a ClusterIP, two NodePorts, and one for each probe, which has no endpoints yet."""
    ports = [{"name": shape, "port": SERVER_PORT + index, "targetPort": SERVER_PORT + index} for index, shape in enumerate(SHAPES)]
    made = [lab.api.create(objects.service("web", ports, selector={"bench": "server-remote"}))]
    for where, base in NODE_PORTS.items():
        numbered = [{**port, "nodePort": base + index} for index, port in enumerate(ports)]
        made.append(lab.api.create(objects.service(where, numbered, type="NodePort", selector={"bench": f"server-{where}"})))
    made += [lab.api.create(objects.plain_service(f"probe-{number}")) for number in range(lab.options.probes)]
    lab.addresses |= {each["metadata"]["name"]: each["spec"]["clusterIP"] for each in made}


def fill(lab: Lab, scale: int) -> None:
    if scale - 1 > lab.fillers:
        say(f"making {scale - 1 - lab.fillers} Services")
        lab.api.create_all(objects.filler(range(lab.fillers, scale - 1), lab.pods))
        lab.fillers = scale - 1


def alternate(lab: Lab, paths: dict[str, tuple[str, int]], *, outside: bool = False) -> dict[str, dict[str, list[float]]]:
    """Path -> shape -> figures, of a round one, of streams `STREAMS`; the paths take turns, so that a slow minute of the machine hits all of them."""
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(lab.options.rounds):
        for shape in SHAPES:
            names = list(paths)[:: 1 if number % 2 == 0 else -1]
            turns, seconds = (STREAMS, STREAM_SECONDS) if shape == "stream" else (1, lab.options.seconds)
            found = lab.ask_in_turn(shape, [paths[name] for name in names], turns=turns, seconds=seconds, outside=outside)
            for place, name in enumerate(names):
                figures[name][shape] += found[place :: len(names)]
    return figures


def summarised(figures: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    return {path: {shape: round(statistics.median(values), 2) for shape, values in shapes.items()} for path, shapes in figures.items()}


def pod_paths(lab: Lab) -> dict[str, Any]:
    """Medians, and the ClusterIP against the direct address: the median of each round's own ratio, 1.0 for the same, less for worse."""
    figures = alternate(lab, {"direct": (lab.addresses["server-remote"], SERVER_PORT), "clusterip": (lab.addresses["web"], SERVER_PORT)})
    return {"medians": summarised(figures), "clusterip_to_direct": against(figures["clusterip"], figures["direct"]), "all": figures}


def against(ours: dict[str, list[float]], base: dict[str, list[float]]) -> dict[str, float]:
    """Shape -> the median of each round's own ratio, since the figures of one round were taken next to each other."""
    return {shape: round(statistics.median(map(advantage(shape), ours[shape], base[shape])), 3) for shape in SHAPES}


def node_ports(lab: Lab) -> dict[str, Any]:
    """Medians, and each NodePort against a process of the node: the planes take their turns minutes apart, and this tells the minutes apart."""
    address = lab.cluster.node_address(lab.first)
    inside = ["nsenter", "-t", str(lab.cluster.member_pid(lab.first)), "-n", "--"]
    server = subprocess.Popen([*inside, str(lab.tool), "-c", SERVER_CPU, "serve", address], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline().strip() == "ready"
        paths = {"node": SERVER_PORT, **NODE_PORTS}
        figures = alternate(lab, {name: (address, port) for name, port in paths.items()}, outside=True)
    finally:
        server.kill()
        server.wait()
    return {"medians": summarised(figures), "to_node": {w: against(figures[w], figures["node"]) for w in NODE_PORTS}, "all": figures}


def programming(lab: Lab) -> dict[str, Any]:
    """From the request to the first answer through the Service; `created` is the API server's share, `since` what follows on its answer."""
    argv = [lab.cluster.kubectl_path, "--kubeconfig", str(lab.cluster.kubeconfig), "exec", "-i", "-n", objects.NAMESPACE, "client"]
    process = subprocess.Popen([*argv, "--", "/tmp/netbench", "probe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    asked: dict[int, float] = {}
    created: dict[int, float] = {}
    try:
        assert process.stdout.readline().strip() == "ready"
        began = time.monotonic()
        for number in range(lab.options.probes):
            name = f"probe-{number}"
            slice_ = objects.endpoint_slice(name, [lab.addresses["server-remote"]], SERVER_PORT + CRR, "probe")
            time.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))
            process.stdin.write(f"{number} {lab.addresses[name]} 80\n")
            process.stdin.flush()
            asked[number] = time.monotonic()
            lab.api.create(slice_)
            created[number] = time.monotonic()
        took = time.monotonic() - began
        try:
            output, _ = process.communicate(timeout=PROGRAM_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    finally:
        process.kill()
        process.wait()
    answered = {int(number): float(at) for number, at in (line.split() for line in output.splitlines())}
    lab.api.delete_slices("bench=probe")
    return {
        **percentiles([(at - asked[number]) * 1000 for number, at in answered.items()]),
        "unanswered": len(asked) - len(answered),
        "created": percentiles([(at - asked[number]) * 1000 for number, at in created.items()]),
        "since": percentiles([max(0.0, at - created[number]) * 1000 for number, at in answered.items()]),
        "per_second": round(len(asked) / took, 1),
    }


def percentiles(milliseconds: list[float]) -> dict[str, Any]:
    ordered = sorted(milliseconds)
    if not ordered:
        return {"count": 0}
    at = lambda share: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1)  # noqa: E731
    return {"count": len(ordered), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": round(ordered[-1], 1)}


def forgotten(lab: Lab) -> bool:
    """Whether the last run's endpoints are out of the dataplane: a probe that is answered by them would measure nothing."""
    last = lab.addresses[f"probe-{lab.options.probes - 1}"]
    try:
        lab.ask("crr", last, 80 - CRR, seconds=0.01)
    except CommandFailed:
        return True
    return False


def measure(lab: Lab, plane: str, scale: int) -> dict[str, Any]:
    """Everything of one plane that is on. What cannot be measured is missing, and why is among `missing`."""
    found: dict[str, Any] = {"missing": {}}
    lab.found["planes"][plane][str(scale)] = found
    parts = {"pod": pod_paths, "nodeport": node_ports, "program": programming}
    if scale != lab.options.scales[0]:
        del parts["nodeport"]
    for part, work in parts.items():
        say(f"{plane}, {scale} Services: {part}")
        try:
            if part == "program":
                eventually(lambda: forgotten(lab), within=60, what="the probes' Services without endpoints")
            elif part == "pod":
                eventually(lambda: lab.ask("crr", lab.addresses["web"], seconds=0.01), within=60, what="the ClusterIP")
            found[part] = work(lab)
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            found["missing"][part] = " ".join(str(error).split())[-300:]
            say(f"{plane}: {part} could not be measured: {found['missing'][part]}")
    return found


def measure_anetd(lab: Lab, scale: int) -> None:
    found = measure(lab, "anetd", scale)
    found["resident_mib"] = round(resident_mib(lab.cluster, lab.first), 1)
    if scale == lab.options.scales[-1]:
        lab.found["rows_of_one_change"] = rows_of_one_change(lab)


def rows_of_one_change(lab: Lab) -> dict[str, int] | None:
    """ "written TABLE" or "deleted TABLE" -> rows, when one of a Service's endpoints is replaced; None where the agent does not count them."""
    before = planes.rows_changed(lab.cluster, lab.first)
    if before is None or not lab.fillers:
        return None
    path = f"/apis/discovery.k8s.io/v1/namespaces/{objects.NAMESPACE}/endpointslices/filler-0"
    endpoints = lab.api.request("GET", path)["endpoints"]
    endpoints[0]["addresses"] = [str(lab.pods[-2])]
    lab.api.request("PATCH", path, {"endpoints": endpoints}, "application/merge-patch+json")
    eventually(lambda: planes.rows_changed(lab.cluster, lab.first) != before, what="rows of one change")
    time.sleep(2)  # whatever follows from the change within so long belongs to it
    after = planes.rows_changed(lab.cluster, lab.first) or {}
    return {table: count - before.get(table, 0) for table, count in after.items() if count != before.get(table, 0)}


def measure_kube_proxy(lab: Lab, mode: str, scale: int) -> None:
    with planes.kube_proxy(lab.kube_proxy, mode, lab.cluster, lab.first, str(lab.pods), lab.scratch) as proxy:
        say(f"kube-proxy {mode}, {scale} Services: first synchronisation")
        synced = proxy.synced_seconds()
        if synced is None:
            found = lab.found["planes"][mode][str(scale)] = {"missing": {"all": f"not in step after {planes.SYNC_SECONDS} s"}}
        else:
            found = measure(lab, mode, scale)
        found |= {"synced_s": synced, "resident_mib": proxy.resident_mib()}


def cold_start(lab: Lab) -> dict[str, float]:
    """The agent from nothing, no pins and no process, to readiness, by its own clock, with all Services there are."""
    say("cold start of the agent")
    planes.anetd_off(lab.cluster)
    planes.anetd_on(lab.cluster)
    seconds = [float(status(lab.cluster, node)["startupSeconds"]) for node in lab.cluster.nodes()]
    return {"synced_s": max(seconds), "resident_mib": round(resident_mib(lab.cluster, lab.first), 1), "services": lab.fillers + 1}


def to_anetd(lab: Lab) -> None:
    delete_pods(lab)
    planes.ptp_off(lab.cluster)
    planes.anetd_on(lab.cluster)
    make_pods(lab)


def to_ptp(lab: Lab) -> None:
    delete_pods(lab)
    planes.anetd_off(lab.cluster)
    planes.ptp_on(lab.cluster)
    make_pods(lab)


def measure_all(lab: Lab) -> None:
    """Each number of Services begins with the plane that the last one ended with: a switch takes half a minute."""
    make_services(lab)
    make_pods(lab)
    on_anetd = True
    for scale in lab.options.scales:
        fill(lab, scale)
        for anetd in (on_anetd, not on_anetd):
            if anetd != on_anetd:
                (to_anetd if anetd else to_ptp)(lab)
                on_anetd = anetd
            if anetd:
                measure_anetd(lab, scale)
            else:
                for mode in KUBE_PROXY_MODES:
                    measure_kube_proxy(lab, mode, scale)
    if not on_anetd:
        to_anetd(lab)
    delete_pods(lab)
    lab.found["cold_start"] = cold_start(lab)


@contextmanager
def outside(cluster: Cluster, node: str) -> Iterator[None]:
    """A namespace on the nodes' bridge that is no node: traffic from there comes from outside of the cluster."""
    bridge = f"pv-{hashlib.sha256(cluster.name.encode()).hexdigest()[:8]}"
    subnet = ip_network(f"{cluster.node_address(node)}/24", strict=False)
    clear = f"ip netns del {OUTSIDE} 2>/dev/null || true"
    sh(clear)
    sh(f"ip netns add {OUTSIDE}")
    try:
        sh(f"ip link add bench-out type veth peer name eth0 netns {OUTSIDE}")
        sh(f"ip link set bench-out master {bridge} up")
        sh(f"ip -n {OUTSIDE} link set eth0 up")
        sh(f"ip -n {OUTSIDE} addr add {subnet[250]}/24 dev eth0")
        yield
    finally:
        sh(clear)


@contextmanager
def cluster_of_two(directory: Path, kubectl: str, toolbox: dict[str, Any]) -> Iterator[Cluster]:
    config = spec_file(directory, NAME, numNodes=2)
    run(PROVISIONER, "delete-cluster", NAME, "--quiet", timeout=120, check=False)
    try:
        argv = [PROVISIONER, "create-cluster", NAME, "--dataplane-v2", "--config", str(config), "--kubeconfig", str(directory / "kc")]
        run(*argv, timeout=400)
        run(PROVISIONER, "load-image", NAME, toolbox["archive"], timeout=120)
        cluster = Cluster(NAME, directory / "kc", {}, toolbox["name"], PROVISIONER, kubectl)
        # Nobody asks for names here, and its pods would be without a network half of the time.
        cluster.kubectl("scale", "-n", "kube-system", "deployment/coredns", "--replicas=0")
        yield cluster
    finally:
        run(PROVISIONER, "delete-cluster", NAME, "--quiet", timeout=120)


def parse() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--scales", type=lambda text: [int(number) for number in text.split(",")], default=[1, 1000, 10000])
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--seconds", type=float, default=0.3)
    options.add_argument("--probes", type=int, default=200)
    options.add_argument("--minutes", type=int, default=35)
    options.add_argument("--json", type=Path)
    return options.parse_args()


class OutOfTime(Exception):
    """The run's own time is over."""


def out_of_time(_number: int, _frame: object) -> None:
    raise OutOfTime


def main() -> None:
    options = parse()
    images = json.loads(run(sys.executable, "-m", "provisioner.images", "--json", timeout=1800))
    binaries = Path(json.loads(run(sys.executable, "-m", "provisioner.binaries", "--json", timeout=3600))["directory"])
    proxies = json.loads(run(sys.executable, "-m", "provisioner.binaries", "--json", "--part", "kube-proxy", timeout=3600))["directory"]
    found: dict[str, Any] = {"scales": options.scales, "planes": {plane: {} for plane in ("anetd", *KUBE_PROXY_MODES)}, "cut_short": False}
    found["iptables"], found["nft"] = sh("iptables --version").strip(), sh("nft --version").strip()
    try:
        run_all(options, found, images["toolbox"], binaries / "kubectl", Path(proxies) / "kube-proxy")
    except OutOfTime:
        found["cut_short"] = True
        say(f"stopped after {options.minutes} minutes")
    finally:
        text = json.dumps(found, indent=2)
        if options.json:
            options.json.write_text(text + "\n")
        print(text)


def run_all(options: argparse.Namespace, found: dict[str, Any], toolbox: dict[str, Any], kubectl: Path, kube_proxy: Path) -> None:
    """Fill `found`, in a cluster that is deleted whatever happens; OutOfTime when the run's time is over."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        scratch = Path(directory)
        tool = scratch / "netbench"
        sh(f"gcc -O2 -static -o {tool} {HERE / 'netbench.c'} -lpthread")
        cluster = stack.enter_context(cluster_of_two(scratch, str(kubectl), toolbox))
        stack.enter_context(outside(cluster, cluster.nodes()[0]))
        cluster.kubectl("create", "namespace", objects.NAMESPACE)
        pods = IPv4Network(json.loads(cluster.get("configmap", "-n", "kube-system", "anetd-config")["data"]["config.json"])["podCIDRs"][0])
        api = objects.Maker(cluster.kubeconfig)
        signal.signal(signal.SIGALRM, out_of_time)
        signal.alarm(options.minutes * 60)
        try:
            measure_all(Lab(cluster, api, tool, scratch, kube_proxy, pods, options, found))
        finally:
            signal.alarm(0)


if __name__ == "__main__":
    main()
