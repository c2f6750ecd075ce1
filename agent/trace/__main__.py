"""`python3 -m agent.trace drops|connect [FILTER]`: the tracer's entry point in its image. FILTER is JSON; see `filters.decode`."""

from __future__ import annotations

import sys
import threading

from agent.trace import filters, probe, session


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in session.KINDS:
        sys.stderr.write(f"usage: python3 -m agent.trace {'|'.join(session.KINDS)} [FILTER]\n")
        return 2
    listener = session.Listener.on(0)
    threading.Thread(target=probe.preload, name="preload", daemon=True).start()
    try:
        return session.run(arguments[0], filters.decode(arguments[1] if len(arguments) > 1 else ""), listener, session.write_lines)
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
