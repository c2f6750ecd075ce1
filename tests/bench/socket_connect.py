"""What load balancing at the socket adds to connect() and sendto(), in one run on namespaces.

    python -m tests.bench.socket_connect [--rounds N] [--count N] [--json FILE]

A pod asks a server across a node, by two processes in turn: one outside of the cgroup, which no hook sees (`untouched`), and one in it, which
asks, one after the other in turning order, the server's own address (`direct`), a Service of which it is the backend (`service`), and, after
10 000 Services more were written, the same again. Shapes: tcp is the connect() of a connection that then exchanges a byte; udp the connect()
of a datagram socket, which sends nothing, so it is the hook's own cost; sendto a datagram of an unconnected socket. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

from agent.datapath.abi import Backend, Frontend, FrontendFlag, FrontendKey, SlotKey
from tests.datapath.lab import in_namespace
from tests.datapath.socket_lab import BACKENDS, TCP, UDP, VIP, SocketLab, socket_lab

from .datapath_limit import SERVER_CPU, serving, sh

HERE = Path(__file__).resolve().parent
SHAPES = ("tcp", "udp", "sendto")
PORT = 7003
"""Where `netbench serve` answers connect-request-close."""
SERVER = BACKENDS[4][0]
MANY = 10_000


def write_services(net: SocketLab, first: int, count: int) -> None:
    """`count` Services of one TCP port and one backend each, with ids from `first`."""
    datapath, ids = net.datapath, range(first, first + count)
    address = {number: IPv4Address(int(IPv4Address("198.18.0.0")) + number) for number in ids}
    datapath.backends.put_many({number: Backend(ip_address(SERVER), number % 60000 + 1, TCP) for number in ids})
    datapath.backend_slots.put_many({SlotKey(number, 0): number for number in ids})
    datapath.frontends.put_many({FrontendKey(address[number], 80, TCP): Frontend(number, 1, FrontendFlag.SOCKET) for number in ids})
    datapath.frontends.put_many({FrontendKey(address[number], 0, 0): Frontend(0, 0) for number in ids})


def ask(net: SocketLab, tool: Path, shape: str, count: int, *targets: tuple[str, int], hooked: bool) -> list[dict[str, int]]:
    """One measurement by a process in the pod; `hooked` puts it into the cgroup. Client and server share a CPU (see datapath_limit)."""
    words = ["taskset", "-c", SERVER_CPU, str(tool), shape, str(count), *(str(word) for target in targets for word in target)]
    line = f"exec nsenter --net=/run/netns/sk-pod {shlex.join(words)}"
    found = subprocess.run(
        ["sh", "-c", f"echo $$ > {net.cgroup}/cgroup.procs && {line}" if hooked else line], check=True, capture_output=True, text=True
    )
    return list(json.loads(found.stdout))


def measure(net: SocketLab, tool: Path, rounds: int, count: int) -> dict[str, dict[str, list[int]]]:
    """Shape -> what was asked -> nanoseconds, one figure a round; "... more" is the median of what it took more than `direct`."""
    found: dict[str, dict[str, list[int]]] = {shape: defaultdict(list) for shape in SHAPES}
    for written, services in ((0, "1 Service"), (MANY, f"{MANY + 1} Services")):
        if written:
            write_services(net, 1000, written)
        for number in range(rounds):
            for shape in SHAPES:
                (untouched,) = ask(net, tool, shape, count, (SERVER, PORT), hooked=False)
                direct, service = ask(net, tool, shape, count, (SERVER, PORT), (VIP[4], 80), hooked=True)
                for name, figure in (("untouched", untouched), ("direct", direct), ("service", service)):
                    found[shape][f"{name}, {services}"].append(figure["p50_ns"])
                found[shape][f"service more, {services}"].append(service["more_ns"])
            print(f"{services}: round {number + 1} of {rounds}", file=sys.stderr)
    return found


def summary(found: dict[str, dict[str, list[int]]]) -> dict[str, Any]:
    """Medians, and the ratios that have goals: within a round, then their median."""
    ratios: dict[str, dict[str, float]] = {}
    for shape, figures in found.items():
        ratios[shape] = {}
        for services in ("1 Service", f"{MANY + 1} Services"):
            for name, other in (("service", "direct"), ("service", "untouched"), ("direct", "untouched")):
                pairs = zip(figures[f"{name}, {services}"], figures[f"{other}, {services}"], strict=True)
                ratios[shape][f"{name} / {other}, {services}"] = round(statistics.median(a / b for a, b in pairs), 3)
    medians = {shape: {name: statistics.median(values) for name, values in figures.items()} for shape, figures in found.items()}
    return {"medians_ns": medians, "ratios": ratios, "all_ns": found}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--count", type=int, default=4000, help="connections of a round to each target")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        tool, server = Path(scratch) / "connectbench", Path(scratch) / "netbench"
        for program in (tool, server):
            sh(f"gcc -O2 -Wall -Wextra -o {program} {HERE / program.name}.c -lpthread")
        net = stack.enter_context(socket_lab("sk-bench"))
        stack.enter_context(serving(server, "sk-peer", SERVER))
        with in_namespace("sk-peer"):
            sink = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sink.bind((SERVER, PORT))
        for id_, protocol in ((1, TCP), (2, UDP)):
            net.service(VIP[4], 80, protocol, [(SERVER, PORT)], id_=id_)
        found = summary(measure(net, tool, chosen.rounds, chosen.count))
    if chosen.json:
        chosen.json.write_text(json.dumps({"cpus": os.cpu_count(), **found}, indent=2) + "\n")
    for shape, figures in found["medians_ns"].items():
        for name, value in figures.items():
            print(f"{shape:8} {name:32} {value:9.0f} ns")
        for name, ratio in found["ratios"][shape].items():
            print(f"{shape:8} {name:42} {ratio:.3f}")


if __name__ == "__main__":
    main()
