"""The API server over kept connections, for whoever asks it often: a kubectl for each question would take most of the suite's time."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

IDLE_SECONDS = 20
# What is read without kubectl: its name there -> where the API server keeps it.
_PLACES = {
    **dict.fromkeys(("nodes", "pods", "services", "configmaps", "events"), "/api/v1"),
    "daemonsets": "/apis/apps/v1",
    "endpointslices": "/apis/discovery.k8s.io/v1",
    "events.events.k8s.io": "/apis/events.k8s.io/v1",
}


class Api:
    """The administrator's connections to the API server, one a thread."""

    def __init__(self, kubeconfig: Path, seconds: float = 60) -> None:
        document = yaml.safe_load(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        self._context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pem:  # read here, gone before the first request
            pem.write(base64.b64decode(user["client-certificate-data"]) + b"\n" + base64.b64decode(user["client-key-data"]))
            pem.flush()
            self._context.load_cert_chain(pem.name)
        self._server = urlsplit(cluster["server"])
        self._connections = threading.local()
        self._seconds = seconds

    def request(self, method: str, path: str, body: dict[str, Any] | None = None, kind: str = "application/json") -> dict[str, Any]:
        """The answer's document. AssertionError with the server's words when it is a refusal, and when there is no answer."""
        connection = self._connection()
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": kind})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._connections.own = None, 0.0
            raise AssertionError(f"{method} {path}: {type(error).__name__}: {error}") from error
        assert answer.status < 300, f"{method} {path}: {answer.status} {content.decode(errors='replace')}"
        return json.loads(content)  # type: ignore[no-any-return]

    def _connection(self) -> http.client.HTTPSConnection:
        """This thread's own; a new one where the server may have closed the last in the meantime."""
        own, used = getattr(self._connections, "own", (None, 0.0))
        now = time.monotonic()
        if own is None or now - used > IDLE_SECONDS:
            own = http.client.HTTPSConnection(self._server.hostname or "", self._server.port, timeout=self._seconds, context=self._context)
        self._connections.own = own, now
        return own


def read_path(argv: Sequence[str]) -> str | None:
    """The path of `kubectl get ARGV`; None for what only kubectl knows to read."""
    words, options = [], {}
    rest = iter(argv)
    for word in rest:
        if word in {"-n", "-l", "--field-selector"}:
            options[word] = next(rest, "")
        elif word == "-A":
            options[word] = ""
        elif word.startswith("-"):
            return None
        else:
            words.append(word)
    resource = words[0] if words[0] in _PLACES else f"{words[0]}s"
    if resource not in _PLACES or len(words) > 2:
        return None
    path = _PLACES[resource]
    if resource != "nodes" and "-A" not in options:
        path += f"/namespaces/{options.get('-n', 'default')}"
    path += f"/{resource.split('.')[0]}" + "".join(f"/{name}" for name in words[1:])
    selectors = (("labelSelector", options.get("-l")), ("fieldSelector", options.get("--field-selector")))
    query = "&".join(f"{name}={quote(value)}" for name, value in selectors if value)
    return f"{path}?{query}" if query else path
