"""Traffic for tests, run inside namespaces: servers that say whom they saw, and clients that say what came of it.

    python traffic.py serve ADDRESS PORT            TCP and UDP; every answer is "<name of server> <client address> <client port>"
    python traffic.py tcp|udp ADDRESS PORT [BYTES [SECONDS]]  one exchange; prints the answer, or the error's name and ends with 1
    python traffic.py count ADDRESS PORT tcp|udp    numbered messages at up to 100 a second, echoed, until standard input ends; prints
                                                    "running" after the first, at the end how many were sent and received

No import beyond the standard library: it is started dozens of times.
"""

import errno
import socket
import sys
import threading
import time


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(min(65536, size - len(data)))
        if not part:
            break
        data += part
    return data


def answer_tcp(connection: socket.socket, peer: tuple) -> None:
    """A request is its length in ten digits and a body; the answer says who asked and how much arrived."""
    with connection:
        while header := read_exactly(connection, 10):
            body = read_exactly(connection, int(header))
            connection.sendall(f"{peer[0]} {peer[1]} {len(body)}\n".encode())


def serve(address: str, port: int) -> None:
    tcp = socket.socket(family(address), socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((address, port))
    tcp.listen(64)
    udp = socket.socket(family(address), socket.SOCK_DGRAM)
    udp.bind((address, port))

    def datagrams() -> None:
        while True:
            data, peer = udp.recvfrom(65536)
            udp.sendto(f"{peer[0]} {peer[1]} {len(data)}\n".encode() if not data.startswith(b"echo ") else data, peer)

    threading.Thread(target=datagrams, daemon=True).start()
    print("ready", flush=True)
    while True:
        connection, peer = tcp.accept()
        threading.Thread(target=answer_tcp, args=(connection, peer), daemon=True).start()


def ask(kind: str, address: str, port: int, size: int, patience: float) -> str:
    """TCP asks again by itself; a datagram that a busy machine lost is sent again each second until the patience ends."""
    with socket.socket(family(address), socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as client:
        client.settimeout(patience)
        client.connect((address, port))
        if kind == "tcp":
            client.sendall(f"{size:010d}".encode() + b"x" * size)
            return client.makefile().readline().strip()
        client.settimeout(min(patience, 1))
        end = time.monotonic() + patience
        while True:
            client.send(b"x" * size)
            try:
                return client.recv(2000).decode().strip()
            except TimeoutError:
                if time.monotonic() >= end:
                    raise


def count(address: str, port: int, kind: str) -> str:
    """How many of the numbered messages came back; a lost TCP connection loses the rest."""
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    with socket.socket(family(address), socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect((address, port))
        sent = received = 0
        while not stopped.is_set():
            sent += 1
            try:
                if kind == "tcp":
                    client.sendall(f"{4:010d}abcd".encode())
                else:
                    client.send(b"echo %d" % sent)
                received += bool(client.recv(2000))
            except OSError:
                pass
            if sent == 1:
                print("running", flush=True)
            time.sleep(0.01)
        return f"{sent} {received}"


def main() -> int:
    what, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if what == "serve":
        serve(address, port)
    try:
        if what == "count":
            print(count(address, port, sys.argv[4]))
        else:
            size, patience = [*sys.argv[4:], *("4", "20")[len(sys.argv[4:]) :]]
            print(ask(what, address, port, int(size), float(patience)))
    except TimeoutError:
        print("TIMEOUT")
        return 1
    except OSError as error:
        print(errno.errorcode.get(error.errno or 0, str(error)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
