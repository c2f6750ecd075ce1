"""Connections or datagrams at a steady rate. Run it in the namespace of the one who asks; prints one JSON line.

    python packets.py connect ADDRESS PORT RATE SECONDS
    python packets.py send ADDRESS PORT RATE SECONDS [PORTS]

`connect` makes TCP connections, each to its end, with a server that closes first. `send` sends datagrams that nobody need answer, to PORTS ports
from PORT on in turn. Standard library alone. What cannot be kept up is told: `count` in `seconds`.
"""

import contextlib
import json
import socket
import sys
import time

TICK = 0.002


def connect(address: str, port: int) -> None:
    with socket.create_connection((address, port), timeout=10) as connection:
        connection.sendall(b"x")
        while connection.recv(64):
            pass


def main() -> None:
    kind, address, port, rate, seconds, *more = sys.argv[1:]
    sockets = []
    for number in range(int(more[0]) if more else 1):
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.connect((address, int(port) + number))
        one.setblocking(False)
        sockets.append(one.send)
    began = time.monotonic()
    end, count, ports = began + float(seconds), 0, len(sockets)
    while (now := time.monotonic()) < end:
        due = int((now - began) * float(rate)) - count
        for _ in range(due):
            if kind == "connect":
                connect(address, int(port))
            else:
                with contextlib.suppress(OSError):
                    sockets[count % ports](b"x")
            count += 1
        if due < 2:
            time.sleep(TICK)
    print(json.dumps({"count": count, "seconds": round(time.monotonic() - began, 3)}))


if __name__ == "__main__":
    main()
