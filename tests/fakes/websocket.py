"""The server's side of a websocket as the API server uses it for commands in containers, for a handler of `http.server`."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
STDOUT, STDERR, STATUS = 1, 2, 3
PING, PONG, CLOSE = 9, 10, 8


class Channels:
    """One connection, upgraded."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler
        handler.close_connection = True
        key = handler.headers["Sec-WebSocket-Key"]
        offered = [name.strip() for name in handler.headers["Sec-WebSocket-Protocol"].split(",")]
        handler.send_response(101)
        handler.send_header("Upgrade", "websocket")
        handler.send_header("Connection", "Upgrade")
        handler.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode()).digest()).decode())
        handler.send_header("Sec-WebSocket-Protocol", offered[0])
        handler.end_headers()
        handler.wfile.flush()

    def send(self, channel: int, data: bytes) -> None:
        self.frame(2, bytes([channel]) + data)

    def end(self, code: int = 0) -> None:
        """The command has ended."""
        status: dict[str, Any] = {"metadata": {}, "status": "Success"}
        if code:
            causes = [{"reason": "ExitCode", "message": str(code)}]
            status = {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
        self.send(STATUS, json.dumps(status).encode())
        self.frame(CLOSE, struct.pack("!H", 1000))

    def frame(self, kind: int, data: bytes) -> None:
        size = bytes([len(data)]) if len(data) < 126 else struct.pack("!BH", 126, len(data)) if len(data) < 65536 else None
        size = size or struct.pack("!BQ", 127, len(data))
        self._handler.wfile.write(bytes([0x80 | kind]) + size + data)
        self._handler.wfile.flush()

    def heard(self) -> Iterator[tuple[int, bytes]]:
        """Kind and content of what the client says, until it is gone."""
        while True:
            head = self._handler.rfile.read(2)
            if len(head) < 2:
                return
            size = head[1] & 0x7F
            if size >= 126:
                size = int.from_bytes(self._handler.rfile.read(2 if size == 126 else 8), "big")
            mask = self._handler.rfile.read(4)
            yield head[0] & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(self._handler.rfile.read(size)))
