"""Who reaches whom on a cluster, asked of everybody at once: ends with the suite's prober in them, and tables of what should be so.

A table is data: policies, and lines that say what they close. `x/* -> x/a 80/TCP,81/UDP v4` is a line: who asks, who is asked (fnmatch's
patterns, several with |), at which ports (all if none is named), in which family (both if none is). A connection is denied if a line of
`closed` names it and none of the lines that open that one does, and allowed otherwise; so are, whatever the lines say, a pod's own to
itself, and those between a node and its own pods. Every table has connections of both kinds, and all of them are asked at once.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from provisioner.images import oci

from .kube import Cluster, eventually, run

HERE = Path(__file__).parent
SERVICE_PORTS = 1000
"""A Service's port is so much more than the pod's."""
_ROUND_MS, _SURE_MS = 800, 2000
_SETTLED_SECONDS = 60
_SHOWN = 30


def build_image(directory: Path) -> tuple[str, Path]:
    """The prober as an image of nothing else: its name, and the archive for load-image."""
    program, archive = directory / "prober", directory / "prober.tar"
    run("gcc", "-O2", "-static", "-Wall", "-o", str(program), str(HERE / "prober.c"))
    layer = oci.write_layer([oci.Entry("prober", 0o755, source=program)], directory / "layer.tar")
    config = oci.Config(entrypoint=("/prober",))
    name = f"provisioner.local/prober:{oci.image_digest([layer], config, 'amd64')[:12]}"
    oci.write_archive(archive, name, [layer], config, "amd64")
    return name, archive


@dataclass(frozen=True)
class End:
    """Something that asks or is asked: a pod, a node (a host-network pod on it), or the outside.

    node    the number of the node that it is on.
    answer  what it answers with, if that is not its name.
    """

    name: str
    node: int | None
    addresses: Mapping[int, str]
    is_pod: bool = False
    answer: str = ""


@dataclass(frozen=True, order=True)
class Probe:
    """One connection. `via` is "" or the Service through which the target is asked, at its own `port`."""

    source: str
    target: str
    protocol: str
    port: int
    family: int
    via: str = ""

    def __str__(self) -> str:
        through = f" through {self.via}" if self.via else ""
        return f"{self.source} -> {self.target} {self.port}/{self.protocol} v{self.family}{through}"


class Asker:
    """A prober that goes on running where one asks from, and is started again if it is gone. `source`: the address that it asks from."""

    def __init__(self, argv: Sequence[str], source: str = "-") -> None:
        self._argv, self._source = list(argv), source
        self._process: subprocess.Popen[str] | None = None

    def ask(self, lines: Sequence[str], milliseconds: int) -> dict[str, str]:
        """Id -> result. A broken connection is made anew once, with all of the questions."""
        for attempt in (1, 2):
            try:
                return self._ask(lines, milliseconds)
            except OSError:
                self.close()
                if attempt == 2:
                    raise
        raise AssertionError

    def _ask(self, lines: Sequence[str], milliseconds: int) -> dict[str, str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("".join(f"{line}\n" for line in (f"source {self._source}", *lines, f"go {milliseconds}")))
        self._process.stdin.flush()
        found = {}
        while True:
            line = self._process.stdout.readline()
            if not line:
                raise BrokenPipeError("the prober is gone")
            if line == "done\n":
                return found
            name, _, result = line.rstrip("\n").partition(" ")
            found[name] = result

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@dataclass(frozen=True)
class Line:
    """A line of a table."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    ports: tuple[str, ...] = ()
    families: tuple[int, ...] = (4, 6)

    @classmethod
    def parse(cls, text: str) -> Line:
        match = re.fullmatch(r"(\S+) -> (\S+)((?: (?!v[46])\S+)?)((?: v[46])?)", text)
        assert match, f"no line of a table: {text}"
        source, target, ports, family = (part.strip() for part in match.groups())
        families = (int(family[1]),) if family else (4, 6)
        return cls(tuple(source.split("|")), tuple(target.split("|")), tuple(ports.split(",")) if ports else (), families)

    def names(self, probe: Probe) -> bool:
        port = probe.port - (SERVICE_PORTS if probe.via else 0)
        return (
            any(fnmatch.fnmatchcase(probe.source, pattern) for pattern in self.sources)
            and any(fnmatch.fnmatchcase(probe.target, pattern) for pattern in self.targets)
            and (not self.ports or any(fnmatch.fnmatchcase(f"{port}/{probe.protocol}", pattern) for pattern in self.ports))
            and probe.family in self.families
        )


@dataclass
class Lab:
    """Ends with probers in them. `services`: Service -> family -> cluster address, each of one pod, named NAMESPACE/s-POD."""

    cluster: Cluster
    image: str
    ends: dict[str, End] = field(default_factory=dict)
    services: dict[str, dict[int, str]] = field(default_factory=dict)
    askers: dict[str, Asker] = field(default_factory=dict)

    def probes(
        self, ports: Iterable[str], sources: Iterable[str] | None = None, targets: Iterable[str] | None = None, *, services: bool = True
    ) -> list[Probe]:
        """Everybody asks everybody, by address and through the Services; `ports` are PORT/PROTOCOL."""
        found = []
        for source, target in itertools.product(sources or self.askers, targets or self.ends):
            for text, family in itertools.product(ports, self.cluster.families):
                number, _, protocol = text.partition("/")
                if family not in self.ends[target].addresses or family not in self.ends[source].addresses:
                    continue
                found.append(Probe(source, target, protocol, int(number), family))
                service = target.replace("/", "/s-")
                # A cluster address is for pods and nodes.
                if services and service in self.services and source != "outside" and int(number) in (80, 81):
                    found.append(Probe(source, target, protocol, int(number) + SERVICE_PORTS, family, service))
        return found

    def ask(self, probes: Sequence[Probe], milliseconds: int = _ROUND_MS) -> dict[Probe, str]:
        """All of them at once; what the prober says of each."""
        by_source: dict[str, list[tuple[int, Probe]]] = {}
        for number, probe in enumerate(probes):
            by_source.setdefault(probe.source, []).append((number, probe))
        results: dict[Probe, str] = {}
        errors: list[BaseException] = []

        def one(source: str) -> None:
            lines = []
            for number, probe in by_source[source]:
                address = self.services[probe.via][probe.family] if probe.via else self.ends[probe.target].addresses[probe.family]
                lines.append(f"try {number} {probe.protocol.lower()} {address} {probe.port}")
            try:
                answers = self.askers[source].ask(lines, milliseconds)
                results.update({probe: answers.get(str(number), "not told") for number, probe in by_source[source]})
            except (OSError, AssertionError) as error:
                errors.append(error)

        threads = [threading.Thread(target=one, args=(source,)) for source in by_source]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise AssertionError(f"could not ask: {errors}")
        return results

    def is_exempt(self, probe: Probe) -> bool:
        """A pod and itself, and a node and its own pods."""
        source, target = self.ends[probe.source], self.ends[probe.target]
        return source is target or (source.node == target.node is not None and not (source.is_pod and target.is_pod))

    def expected(self, probe: Probe, closed: Sequence[tuple[Line, Sequence[Line]]]) -> bool:
        """Whether a connection is allowed. Each closing line comes with those that open it."""
        denied = any(line.names(probe) and not any(other.names(probe) for other in opened) for line, opened in closed)
        return not denied or self.is_exempt(probe)

    def wrong(self, wanted: Mapping[Probe, bool], milliseconds: int = _ROUND_MS) -> list[str]:
        """What is not as it should be, each in words. An allowed one is answered by the target; a denied one by nobody."""
        found = []
        for probe, result in self.ask(list(wanted), milliseconds).items():
            answer = self.ends[probe.target].answer or probe.target
            good = result.startswith(f"= {answer} ") if wanted[probe] else result == "silent"
            if not good:
                found.append(f"{probe}: {result}, and should be {'answered' if wanted[probe] else 'silent'}")
        return found

    def settle(self, wanted: Mapping[Probe, bool]) -> None:
        """Wait until all is as wanted, and see that it stays so. What fails then is in the message."""
        assert any(wanted.values()), "a table that denies everything shows nothing"
        end = time.monotonic() + _SETTLED_SECONDS
        while True:
            wrong = self.wrong(wanted) or self.wrong(wanted, _SURE_MS)
            if not wrong:
                return
            if time.monotonic() > end:
                more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
                raise AssertionError(f"{len(wrong)} of {len(wanted)} are wrong:\n  " + "\n  ".join(sorted(wrong)[:_SHOWN]) + more)

    def wanted(self, closed: Sequence[str | Sequence[str]], opened: Sequence[str], probes: Sequence[Probe]) -> dict[Probe, bool]:
        """What a table's lines say of each connection."""
        lines: list[tuple[Line, list[Line]]] = []
        for item in closed:
            first, *rest = [item] if isinstance(item, str) else item
            lines.append((Line.parse(first), [Line.parse(text) for text in (*rest, *opened)]))
        for line in (line for closing, opening in lines for line in (closing, *opening)):
            assert any(line.names(probe) for probe in probes if line.families != (6,) or 6 in self.cluster.families), (
                f"{line} names nothing"
            )
        return {probe: self.expected(probe, lines) for probe in probes}

    def close(self) -> None:
        for asker in self.askers.values():
            asker.close()

    def filled(self, value: Any) -> Any:
        """A table's value with addresses in the place of <END.FAMILY>, as in <x/a.4>."""
        if isinstance(value, dict):
            return {key: self.filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        if not isinstance(value, str):
            return value
        return re.sub(r"<([^<>]+)\.([46])>", lambda found: self.address(found[1], int(found[2])), value)

    def address(self, name: str, family: int) -> str:
        return self.ends[name].addresses[family]


def prober_pod(
    lab: Lab, namespace: str, name: str, node: str, labels: Mapping[str, str], ports: Sequence[str], **spec: Any
) -> dict[str, Any]:
    """A pod that serves its NAMESPACE/NAME at `ports` (PORT/PROTOCOL). `spec` is of the pod, `container` in it of its only container."""
    served = [f"{text.split('/')[1].lower()}/{text.split('/')[0]}" for text in ports]
    container = {"name": "prober", "image": lab.image, "args": ["serve", spec.pop("serves_as", f"{namespace}/{name}"), *served]}
    container |= spec.pop("container", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
            **spec,
        },
    }


def add_pod(lab: Lab, namespace: str, name: str) -> End:
    """Note a pod that runs as an end, and let it ask."""
    pod = lab.cluster.pod(namespace, name)
    number = lab.cluster.nodes().index(pod["spec"]["nodeName"])
    host = pod["spec"].get("hostNetwork", False)
    end = End(f"node/{number}" if host else f"{namespace}/{name}", number, lab.cluster.pod_addresses(namespace, name), is_pod=not host)
    if host:  # a host-network pod's status may have one family only
        node = pod["spec"]["nodeName"]
        end = End(end.name, number, {family: lab.cluster.node_address(node, family) for family in lab.cluster.families})
    lab.ends[end.name] = end
    command = [lab.cluster.kubectl_path, "--kubeconfig", str(lab.cluster.kubeconfig), "exec", "-i", "-n", namespace, name, "--"]
    lab.askers[end.name] = Asker([*command, "/prober", "ask"])
    return end


def add_services(lab: Lab, namespace: str, pods: Iterable[str]) -> None:
    """A Service for each pod alone, whose ports are SERVICE_PORTS more than the pod's: 80 by its number, 81 likewise."""
    made = []
    names = list(pods)
    for pod in names:
        ports = [
            {"name": f"p{number}-{protocol.lower()}", "port": number + SERVICE_PORTS, "targetPort": number, "protocol": protocol}
            for number, protocol in itertools.product((80, 81), ("TCP", "UDP"))
        ]
        spec = {"selector": {"pod": pod}, "ports": ports, "ipFamilyPolicy": "PreferDualStack"}
        made.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"s-{pod}", "namespace": namespace}, "spec": spec})
    lab.cluster.apply(*made)
    for pod in names:
        addresses = lab.cluster.get("service", "-n", namespace, f"s-{pod}")["spec"]["clusterIPs"]
        lab.services[f"{namespace}/s-{pod}"] = {6 if ":" in address else 4: address for address in addresses}


@contextmanager
def outside(lab: Lab, directory: Path, ports: Sequence[str], others: Sequence[str] = ()) -> Iterator[None]:
    """A host on the nodes' link that is none of them, with routes to the pods by their nodes, and `others` as further addresses of its own."""
    details = lab.cluster.describe()["details"]
    space = f"{lab.cluster.name}-out"
    link = f"out-{hashlib.sha256(space.encode()).hexdigest()[:8]}"
    networks = {4: ip_network(f"{details['gateway']}/24", strict=False)}
    if 6 in lab.cluster.families:
        networks[6] = ip_network(f"{details['gatewayV6']}/64", strict=False)
    own = {family: str(network[233]) for family, network in networks.items()}
    subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
    run("ip", "netns", "add", space)
    serving = None
    undo: list[tuple[str, tuple[str, ...]]] = []
    try:
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "link", "set", link, "master", details["bridge"], "up")
        for name in ("lo", "eth0"):
            run("ip", "-n", space, "link", "set", name, "up")
        for family, address in own.items():
            extra = ("nodad",) if family == 6 else ()
            run("ip", "-n", space, "addr", "add", f"{address}/{networks[family].prefixlen}", "dev", "eth0", *extra)
        for node in lab.cluster.nodes():
            for text in lab.cluster.get("node", node)["spec"]["podCIDRs"]:
                family = ip_network(text).version
                run("ip", "-n", space, f"-{family}", "route", "add", text, "via", lab.cluster.node_address(node, family))
            for address in others:
                lab.cluster.in_member(node, "ip", "route", "replace", f"{address}/32", "via", own[4])
                undo.append((node, ("ip", "route", "del", f"{address}/32")))
        for address in others:
            run("ip", "-n", space, "addr", "add", f"{address}/32", "dev", "lo")
        served = [f"{text.split('/')[1].lower()}/{text.split('/')[0]}" for text in ports]
        enter = ["ip", "netns", "exec", space, str(directory / "prober")]
        serving = subprocess.Popen([*enter, "serve", "outside", *served])
        lab.ends["outside"] = End("outside", None, own)
        lab.askers["outside"] = Asker([*enter, "ask"])
        for address in others:
            lab.ends[address] = End(address, None, {4: address}, answer="outside")
            lab.askers[address] = Asker([*enter, "ask"], address)
        yield
    finally:
        if serving is not None:
            serving.kill()
            serving.wait()
        for name in ("outside", *others):
            if name in lab.askers:
                lab.askers.pop(name).close()
        for node, command in undo:
            lab.cluster.in_member(node, *command, check=False)
        subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def policy(namespace: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": dict(spec),
    }


def _path(namespace: str, name: str = "") -> str:
    return f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies{f'/{name}' if name else ''}"


def enforce(cluster: Cluster, *made: dict[str, Any]) -> None:
    """Make the policies so."""
    for item in made:
        path = _path(item["metadata"]["namespace"], item["metadata"]["name"])
        cluster.api.request("PATCH", f"{path}?fieldManager=suite&force=true", item, "application/apply-patch+yaml")


@contextmanager
def policies(cluster: Cluster, *made: dict[str, Any]) -> Iterator[None]:
    """In force for the block."""
    enforce(cluster, *made)
    try:
        yield
    finally:
        for namespace in {item["metadata"]["namespace"] for item in made}:
            clear_policies(cluster, [namespace])


def clear_policies(cluster: Cluster, namespaces: Iterable[str]) -> None:
    for namespace in namespaces:
        cluster.api.request("DELETE", _path(namespace))


def explained(cluster: Cluster, *words: str) -> Any:
    """`provisioner policy explain` of a cluster, as JSON; it may end with 2."""
    return json.loads(run(cluster.provisioner, "policy", "explain", cluster.name, *words, "--output", "json", check=False))


def wait_running(cluster: Cluster, namespace: str, *pods: str) -> None:
    cluster.wait_ready(namespace, *pods, within=90)
    for pod in pods:
        eventually(lambda pod=pod: cluster.pod_addresses(namespace, pod), what=f"an address of {namespace}/{pod}")
