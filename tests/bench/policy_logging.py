"""What the policy log costs the agent, and a connection: the real agent on the real kernel, pods in namespaces.

    python -m tests.bench.policy_logging [--seconds N] [--rounds N] [--json FILE]

Of two servers that a policy opens to the client the one's policy asks for the log, the other's does not (NetworkLogging with delegation), so both
are asked in the same run:

    idle          nothing happens, and the log is on
    connections   1 000 new connections a second, to the one and to the other
    latency       connect() to the two in turn, as fast as they go
    flood         100 000 datagrams a second that a policy denies: of one connection, and to 4 000 ports
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from agent.datapath.abi import DropReason
from tests.datapath.agent.api import POLICIES
from tests.datapath.agent.conftest import NODE, POD_PREFIX, ROOT, Agent, clear_leftovers, eventually, run
from tests.datapath.agent.ends import End

from .datapath_limit import serving, sh

HERE = Path(__file__).resolve().parent
LOGGING = "/apis/networking.gke.io/v1alpha1/networkloggings"
ANNOTATION = "policy.network.gke.io/enable-logging"
PORT = 7003
"""Where `netbench serve` answers connect-request-close."""
DENIED_PORT = 20_000
CONNECTIONS, FLOOD, PORTS = 1000, 100_000, 4000
SETTLE_SECONDS = 1.0


def policy(name: str, target: str, *, annotated: bool) -> dict[str, Any]:
    """Ingress of the pod `target` from everybody, to `PORT`."""
    annotations = {ANNOTATION: "true"} if annotated else {}
    ports = [{"protocol": "TCP", "port": PORT}]
    spec = {"podSelector": {"matchLabels": {"app": target}}, "ingress": [{"ports": ports}]}
    return {"metadata": {"name": name, "namespace": "default", "uid": f"uid-of-{name}", "annotations": annotations}, "spec": spec}


@contextmanager
def lab(scratch: Path) -> Iterator[tuple[Agent, dict[str, End]]]:
    """An agent with its log on, and three pods: client, logged, silent."""
    plugin = scratch / "anetd-cni"
    sh(f"gcc -O2 -static -o {plugin} {ROOT / 'agent/cni/plugin/anetd-cni.c'}")
    directory = Path("/tmp") / NODE
    clear_leftovers(directory)
    directory.mkdir(mode=0o700)
    node = Agent(directory, plugin)
    ends: dict[str, End] = {}
    try:
        side = {"log": True, "delegate": True}
        node.api.objects[LOGGING] = {}
        node.api.put(LOGGING, {"metadata": {"name": "default"}, "spec": {"cluster": {"allow": side, "deny": {"log": True}}}})
        node.start()
        for name in ("client", "logged", "silent"):
            run("ip", "netns", "add", POD_PREFIX + name)
            run("ip", "-n", POD_PREFIX + name, "link", "set", "lo", "up")
            ends[name] = End(node, lambda name: f"/var/run/netns/{POD_PREFIX}{name}", name, {"app": name})
            status, result = ends[name].add()
            assert status == 0, result
        for name in ("logged", "silent"):
            node.api.put(POLICIES, policy(name, name, annotated=name == "logged"))
        eventually(lambda: {int(row.flags) for row in node.kernel()["policies"].values()} == {0, 1}, within=60, what="both policies")
        yield node, ends
    finally:
        for end in ends.values():
            end.close()
        node.close()
        for name in ("client", "logged", "silent"):
            run("ip", "netns", "del", POD_PREFIX + name, check=False)
        clear_leftovers(directory)


def busy(pid: int) -> float:
    """Seconds that all threads of a process have run."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        spent += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return spent / 1e9


def counters(node: Agent) -> dict[str, float]:
    text = run("ip", "netns", "exec", NODE, "curl", "-sS", "--max-time", "10", "http://127.0.0.1:9879/metrics").stdout
    wanted = ("policy_logging_", "anetd_drop_packets_total")
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(wanted)}


def measured(node: Agent, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` says, the agent's share of a core meanwhile, and what its counters went up by."""
    assert node.process is not None
    before, spent, began = counters(node), busy(node.process.pid), time.monotonic()
    found = work()
    took = time.monotonic() - began
    cpu = (busy(node.process.pid) - spent) / took * 100
    time.sleep(SETTLE_SECONDS)
    after = counters(node)
    rise = {name: after[name] - before.get(name, 0.0) for name in after}

    def of(metric: str, label: str) -> dict[str, int]:
        head = f'policy_logging_{metric}{{{label}="'
        return {name.removeprefix(head)[:-2]: int(value) for name, value in rise.items() if name.startswith(head) and value}

    denied = sum(value for name, value in rise.items() if f'reason="{DropReason.INGRESS_DENIED.name}"' in name)
    lines = {"events": of("event_count", "disposition"), "lines": of("log_count", "disposition"), "lost": of("drop_count", "reason")}
    return {**found, "cpu_percent": round(cpu, 2), **lines, "denied": int(denied)}


def in_client(*argv: str) -> str:
    return run("ip", "netns", "exec", f"{POD_PREFIX}client", *argv).stdout


def packets(*words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(in_client(sys.executable, str(HERE / "packets.py"), *map(str, words)))
    return {"per_second": round(found["count"] / found["seconds"])}


def settled(node: Agent) -> None:
    """Wait until what the ring holds was read."""
    name, before = "policy_logging_event_count", -1.0
    while (now := sum(value for key, value in counters(node).items() if key.startswith(name))) != before:
        before = now
        time.sleep(SETTLE_SECONDS)


def rest(seconds: float) -> dict[str, Any]:
    time.sleep(seconds)
    return {}


def latency(tool: Path, ends: dict[str, End], rounds: int, count: int) -> dict[str, Any]:
    """Medians over the rounds: of connect() to each, and of the differences."""
    targets = [word for name in ("silent", "logged") for word in (ends[name].addresses[4], str(PORT))]
    found = [json.loads(in_client(str(tool), "tcp", str(count), *targets)) for _ in range(rounds)]
    middle = lambda index, key: round(statistics.median(one[index][key] for one in found) / 1000, 2)  # noqa: E731
    return {
        "silent": {"p50_us": middle(0, "p50_ns"), "p99_us": middle(0, "p99_ns")},
        "logged": {"p50_us": middle(1, "p50_ns"), "p99_us": middle(1, "p99_ns")},
        "difference_us": middle(1, "more_ns"),
    }


def measure(node: Agent, ends: dict[str, End], tool: Path, options: argparse.Namespace) -> dict[str, Any]:
    seconds, address = options.seconds, {name: end.addresses[4] for name, end in ends.items()}
    say("nothing")
    found: dict[str, Any] = {"idle": measured(node, lambda: rest(seconds))}
    found["connections"] = {}
    for name in ("silent", "logged"):
        say(f"connections, {name}")
        found["connections"][name] = measured(node, lambda name=name: packets("connect", address[name], PORT, CONNECTIONS, seconds))  # type: ignore[misc]
    say("latency")
    found["latency"] = latency(tool, ends, options.rounds, options.count)
    settled(node)
    found["flood"] = {}
    for name, ports in (("one", 1), ("many", PORTS)):
        say(f"a flood to {ports} ports")
        found["flood"][name] = measured(
            node,
            lambda ports=ports: packets("send", address["silent"], DENIED_PORT, FLOOD, seconds, ports),  # type: ignore[misc]
        )
    return found


def say(text: str) -> None:
    print(f"policy_logging: {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=7, help="of latencies")
    parser.add_argument("--count", type=int, default=4000, help="connections to each in a round")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        scratch = Path(directory)
        server, tool = scratch / "netbench", scratch / "connectbench"
        for program in (server, tool):
            sh(f"gcc -O2 -o {program} {HERE / program.name}.c -lpthread")
        node, ends = stack.enter_context(lab(scratch))
        for name in ("logged", "silent"):
            stack.enter_context(serving(server, POD_PREFIX + name, ends[name].addresses[4]))
        found = {"cpus": os.cpu_count(), "seconds": options.seconds, **measure(node, ends, tool, options)}
    text = json.dumps(found, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
