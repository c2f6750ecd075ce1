"""Says when packets begin and cease to arrive. Run it in the namespace of the one who asks; it ends when its standard input does.

    python prober.py ADDRESS PORT

A datagram a millisecond goes to a server that answers "echo WORD" with WORD. A line a change: `up T`, T when the first answer came, and
`down T`, T when the first datagram was sent that none of the next 60 ms' got an answer from either. T is CLOCK_MONOTONIC in seconds, the
same for all processes of a machine. Standard library alone, and one thread: what it says is a millisecond late at most.
"""

import contextlib
import select
import socket
import sys
import time

PERIOD, SILENCE = 0.001, 0.06


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((address, port))
    sent: dict[int, float] = {}
    number = last = 0
    up = False
    due = time.monotonic()
    while True:
        ready, _, _ = select.select([client, sys.stdin], [], [], max(0.0, due - time.monotonic()))
        now = time.monotonic()
        if sys.stdin in ready and not sys.stdin.readline():
            return
        if client in ready:
            with contextlib.suppress(OSError, ValueError):  # refused, while the server is not there
                last = max(last, int(client.recv(100)))
                if not up:
                    up = True
                    print(f"up {now:.6f}", flush=True)
        if now >= due:
            number += 1
            due = max(due + PERIOD, now)
            sent[number] = now
            sent.pop(number - 2000, None)
            with contextlib.suppress(OSError):
                client.send(b"echo %d" % number)
        missed = sent.get(last + 1)
        if up and missed is not None and now - missed > SILENCE:
            up = False
            print(f"down {missed:.6f}", flush=True)


if __name__ == "__main__":
    main()
