"""A tracer in a node's namespaces, as its pod has them, and packets that get lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .topology import PODS, ROOT, Topology, sh

Document = dict[str, Any]
WITHIN = 45.0
_AGAIN = 0.5
_START = """
set -e
mount --bind {bpffs} /sys/fs/bpf
mkdir -p /var/lib/anetd
mount --bind {state} /var/lib/anetd
mount -t tracefs tracefs /sys/kernel/tracing
exec {python} -m agent.trace {kind} '{wanted}'
"""


class Tracer:
    """`heard` is everything that it said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.heard: list[Document] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.heard.append(json.loads(line))

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def first(self, wanted: Callable[[Document], bool], doing: Callable[[], object] = lambda: None) -> Document:
        """The first line that is wanted; until it is there, `doing` is done again and again."""
        end = time.monotonic() + WITHIN
        while time.monotonic() < end:
            doing()
            again = time.monotonic() + _AGAIN
            while time.monotonic() < again:
                for document in list(self.heard):
                    if wanted(document):
                        return document
                time.sleep(0.02)
        raise AssertionError(f"not heard within {WITHIN} s; heard: {json.dumps(self.heard[-20:], indent=1)}")

    def ready(self) -> Document:
        """Its first line; raises where it says that it cannot."""
        found = self.first(lambda document: document["type"] in {"ready", "unsupported"})
        assert found["type"] == "ready", found
        return found


@contextmanager
def tracer(net: Topology, node: str, kind: str, **wanted: Any) -> Iterator[Tracer]:
    """A tracer on a node that has said that it is ready; it has ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="trace-state-") as state, start(net, node, kind, Path(state), **wanted) as found:
        found.ready()
        yield found


@contextmanager
def start(net: Topology, node: str, kind: str, state: Path, **wanted: Any) -> Iterator[Tracer]:
    """As `tracer`, not yet ready. `state` gets the agent's store."""
    (state / "endpoints.jsonl").write_text(store(node))
    script = _START.format(bpffs=net.bpffs / node, state=state, python=sys.executable, kind=kind, wanted=json.dumps(wanted))
    argv = ["ip", "netns", "exec", node, "sh", "-c", script]  # which makes a mount namespace of its own
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT, start_new_session=True)
    found = Tracer(process)
    try:
        found.say("begin\n")
        yield found
    finally:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def pod_name(pod: str) -> str:
    return f"test/{pod}"


def store(node: str) -> str:
    """The agent's store of a node's pods, by the inodes of the namespaces as they are now."""
    rows = [
        {
            "container": pod.name,
            "ifname": "eth0",
            "state": "ready",
            "addresses": list(pod.address.values()),
            "netns": f"/run/netns/{pod.name}",
            "netnsId": [0, int(sh(f"stat -L -c %i /run/netns/{pod.name}"))],
            "mtu": 1500,
            "id": number,
            "pod": pod_name(pod.name),
            "version": "1.0.0",
        }
        for number, pod in enumerate(PODS.values(), 1)
        if pod.node == node
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)
