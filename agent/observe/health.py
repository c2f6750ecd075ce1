"""/healthz, /readyz and /metrics on the loopback address.

/healthz fails when the agent's main loop has stalled; /readyz until pods can be served. Neither asks whether the API server is
there: its absence is no reason to restart an agent whose pods run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = ("127.0.0.1", 9879)

Page = Callable[[], tuple[int, str]]


class HealthServer:
    """Serves `pages` by path; each gives a status and a text."""

    def __init__(self, pages: dict[str, Page], address: tuple[str, int] = ADDRESS) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5.0
            server_version = "anetd"
            sys_version = ""

            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                status, text = page() if page is not None else (404, "no such page\n")
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
                """Probes are no news."""

        ThreadingHTTPServer.daemon_threads = True
        self._server = ThreadingHTTPServer(address, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 1.0}, name="health", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Close the socket; the thread ends with the process."""
        self._server.server_close()
