"""`anetd policy-log`: this node's records on stdout, as they stand in the files; with --follow those that come, too."""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
from pathlib import Path

from agent.policylog.tail import Filter, Tail, follow
from agent.policylog.writer import DIRECTORY

_FLUSH_AT = 1 << 16


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command's options."""
    parser = commands.add_parser("policy-log", help="the records of the network policy log")
    parser.add_argument("--follow", "-f", action="store_true", help="go on with the records that come")
    parser.add_argument("--namespace", default="", help="of either end")
    parser.add_argument("--pod", default="", help="the name of either end")
    parser.add_argument("--disposition", default="", choices=("allow", "deny"))
    parser.add_argument("--since", default="", metavar="TIME", help="as in 2026-01-02T03:04:05Z")
    parser.add_argument("--until-stdin-ends", action="store_true", help="with --follow: for a caller that may vanish")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Print; the exit status."""
    wanted = Filter(options.namespace, options.pod, options.disposition, options.since)
    tail, held, size = Tail(options.directory), list[bytes](), 0
    out = sys.stdout.buffer

    def flush() -> None:
        out.write(b"".join(held))
        out.flush()
        held.clear()

    def ended(seconds: float) -> bool:
        flush()
        if not options.follow:
            return True
        if not options.until_stdin_ends:
            time.sleep(seconds)
            return False
        ready, _, _ = select.select([sys.stdin.fileno()], [], [], seconds)
        return bool(ready) and not os.read(sys.stdin.fileno(), 4096)

    try:
        for line in follow(tail, wanted.wants, ended):
            held += (line, b"\n")
            size += len(line)
            if size >= _FLUSH_AT:
                flush()
                size = 0
    except (BrokenPipeError, KeyboardInterrupt):
        # Nobody reads any more; the interpreter must not complain about that when it flushes on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
    return 0
