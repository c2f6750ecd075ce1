"""Pods of the rig that talk: each is a namespace that the agent has networked, with sockets that the test itself holds in it.

A server keeps whom it heard, so that "nothing arrives" is read where it would have arrived.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from agent.datapath import netns

from .api import PODS
from .conftest import POD_PREFIX, Agent, pod_document

PORT = 7000
ANSWER_SECONDS = 10.0
"""For one answer on a machine that is busy."""


class End:
    """A pod with its network: `serve` makes it answer, `ask` has it ask another."""

    def __init__(
        self, node: Agent, make: Callable[[str], str], name: str, labels: dict[str, str] | None = None, namespace: str = "default"
    ) -> None:
        self.node, self.name, self.namespace, self.labels = node, name, namespace, labels or {}
        self.path = make(name)
        self.fd = os.open(f"/run/netns/{POD_PREFIX}{name}", os.O_RDONLY | os.O_CLOEXEC)
        self.heard: list[tuple[str, bytes]] = []
        """Datagrams that came: the sender's address, and what they said."""
        self.sockets: list[socket.socket] = []
        self.addresses: dict[int, str] = {}
        self.arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID=uid-of-{name}"
        self.put()

    def put(self, **labels: str) -> None:
        """The Pod object, as it is now, with other labels if any are given."""
        self.labels = labels or self.labels
        document = pod_document(self.name, *self.addresses.values(), labels=self.labels, namespace=self.namespace)
        self.node.api.put(PODS, document)

    def add(self) -> tuple[int, Any]:
        """CNI ADD; its addresses are known to the API afterwards, as by kubelet."""
        status, result = self.node.cni("ADD", self.name, self.path, known=False, CNI_ARGS=self.arguments)
        if status == 0:
            texts = [entry["address"].partition("/")[0] for entry in result["ips"]]
            self.addresses = {6 if ":" in text else 4: text for text in texts}
            self.put()
        return status, result

    def delete(self) -> None:
        """CNI DEL, and the object goes."""
        self.close()
        status, error = self.node.cni("DEL", self.name, self.path, CNI_ARGS=self.arguments)
        assert status == 0, error
        self.node.api.remove(PODS, self.name, self.namespace)

    def close(self) -> None:
        for each in self.sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.sockets.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open(self, family: int, kind: socket.SocketKind) -> socket.socket:
        """One in the pod's namespace."""
        made = netns.run_in(self.fd, lambda: socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, kind))
        if family == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.sockets.append(made)
        return made

    def serve(self, port: int = PORT) -> None:
        """Answer datagrams and connections, each with what it said, at every address."""
        for family in self.addresses:
            datagrams = self.open(family, socket.SOCK_DGRAM)
            datagrams.bind(("", port))
            threading.Thread(target=self._echo, args=(datagrams,), daemon=True).start()
            connections = self.open(family, socket.SOCK_STREAM)
            connections.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connections.bind(("", port))
            connections.listen(64)
            threading.Thread(target=self._accept, args=(connections,), daemon=True).start()

    def _echo(self, datagrams: socket.socket) -> None:
        with suppress(OSError):
            while True:
                said, sender = datagrams.recvfrom(2000)
                if not said:
                    return
                self.heard.append((sender[0], said))
                datagrams.sendto(said, sender)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=_echo_stream, args=(connection,), daemon=True).start()

    def ask(self, other: End, *, family: int = 4, port: int = PORT, within: float = 0.25) -> bool:
        """One datagram, and whether its answer came."""
        with self.open(family, socket.SOCK_DGRAM) as client:
            self.sockets.remove(client)
            client.settimeout(within)
            with suppress(OSError):
                client.connect((other.addresses[family], port))
                client.send(b"?")
                return client.recv(100) == b"?"
            return False

    def connect(self, other: End, *, family: int = 4, port: int = PORT, within: float = ANSWER_SECONDS) -> socket.socket:
        """A connection. Raises `OSError`."""
        client = self.open(family, socket.SOCK_STREAM)
        client.settimeout(within)
        client.connect((other.addresses[family], port))
        return client


def _echo_stream(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        while said := connection.recv(2000):
            connection.sendall(said)


def exchanged(connection: socket.socket, within: float) -> bool:
    """Whether a byte and its echo pass on a connection within so long. What is retransmitted passes later: the rest is read away."""
    connection.settimeout(within)
    with suppress(OSError):
        connection.sendall(b"!")
        return bool(connection.recv(2000))
    return False


def reaches(client: End, server: End, *, family: int = 4, port: int = PORT, within: float = 45.0) -> None:
    """Ask until an answer comes."""
    end = time.monotonic() + within
    while not client.ask(server, family=family, port=port, within=1.0):
        assert time.monotonic() < end, f"{client.name} does not reach {server.name}: {client.node.ask('policy')}"


def is_cut_off(client: End, server: End, *, family: int = 4, port: int = PORT, within: float = 45.0) -> None:
    """Ask until several in a row stay unanswered, and the server heard none of them."""
    end = time.monotonic() + within
    while True:
        before = len(server.heard)
        answers = [client.ask(server, family=family, port=port) for _ in range(4)]
        if not any(answers) and all(sender != client.addresses[family] for sender, _ in server.heard[before:]):
            return
        assert time.monotonic() < end, f"{client.name} still reaches {server.name}: {client.node.ask('policy')}"
