"""Sockets of another process, moved by its parent: in a network namespace, and in a cgroup if one is given.

    nsenter --net=... python socket_worker.py CGROUP|-

A request is one line of JSON: {"call": NAME, "on": NUMBER, "with": [...]} for a method of a socket, {"open": [family, type]} for a new one,
{"serve": [address, port]} for a TCP and UDP server that answers with its own name and whom it saw. The answer is {"result": ...} or
{"errno": ...}. Addresses are lists, bytes are Latin-1. No import beyond the standard library: many are started.
"""

import json
import os
import socket
import sys
import threading
from pathlib import Path

SOCKETS: dict[int, socket.socket] = {}


def plain(value: object) -> object:
    """What JSON can carry; a socket becomes its number."""
    if isinstance(value, socket.socket):
        SOCKETS[value.fileno()] = value
        return value.fileno()
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return [plain(each) for each in value] if isinstance(value, tuple) else value


def argument(value: object) -> object:
    if isinstance(value, list):
        return tuple(value)
    return value.encode("latin-1") if isinstance(value, str) else value


def serve(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener, datagrams = socket.socket(family, socket.SOCK_STREAM), socket.socket(family, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for each in (listener, datagrams):
        each.bind((address, port))
    listener.listen(64)

    def name(peer: tuple) -> bytes:
        return f"{address} {port} {peer[0]}\n".encode()

    def answer_streams() -> None:
        while True:
            connection, peer = listener.accept()
            threading.Thread(target=answer_stream, args=(connection, peer), daemon=True).start()

    def answer_stream(connection: socket.socket, peer: tuple) -> None:
        with connection:
            while connection.recv(4096):
                connection.sendall(name(peer))

    def answer_datagrams() -> None:
        while True:
            _, peer = datagrams.recvfrom(4096)
            datagrams.sendto(name(peer), peer)

    for each in (answer_streams, answer_datagrams):
        threading.Thread(target=each, daemon=True).start()


def perform(request: dict) -> object:
    if "open" in request:
        found = socket.socket(*request["open"])
        found.settimeout(5)
        return found
    if "serve" in request:
        return serve(*request["serve"])
    if request["call"] == "close":
        return SOCKETS.pop(request["on"]).close()
    return getattr(SOCKETS[request["on"]], request["call"])(*map(argument, request["with"]))


def main() -> None:
    if sys.argv[1] != "-":
        (Path(sys.argv[1]) / "cgroup.procs").write_text(str(os.getpid()))
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            reply = {"result": plain(perform(json.loads(line)))}
        except OSError as error:
            # A timeout of Python's own has no number.
            reply = {"errno": error.errno or 110, "text": str(error)}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
