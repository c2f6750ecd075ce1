"""Tracers on nodes: started, listened to, and removed.

Each tracer has a connection of its own to its pod's standard streams. It lives as long as it hears something there now and then, so
whatever becomes of this process, nothing stays on the node: it ends, its Job has finished, and the cluster removes that.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from provisioner import errors
from provisioner.deploy.client import ApiError, Client, UnavailableError
from provisioner.deploy.execute import Container, Execution
from provisioner.deploy.stream import Ended, Line, Streams
from provisioner.plan.steps import Deadline
from provisioner.trace import job, names

FIELD_MANAGER = "provisioner-trace"
_BEAT_SECONDS = 5.0
"""A quarter of the silence after which a tracer ends by itself."""
_LOOK_SECONDS = 0.05
_STATUS_SECONDS = 1.0
_NAMES_SECONDS = 1.0
_NAMES_WAIT_SECONDS = 2.5
_ASK_AGAIN_SECONDS = 15.0
_ORPHAN_SECONDS = 120
_START_SECONDS = 300
_KINDS = ("pods", "services", "nodes")
_PODS = f"/api/v1/namespaces/{job.NAMESPACE}/pods"


@dataclass(frozen=True, slots=True)
class Request:
    """`wanted` is the tracers' filter (agent/trace/filters.py); `seconds` 0 where the trace has no end of its own."""

    kind: str
    image: str
    nodes: Sequence[str]
    wanted: Mapping[str, Any]
    seconds: float = 0.0


class Tracing:
    """The tracers of one command. `with` starts them, and at its end they and their Jobs are gone, or about to go."""

    def __init__(self, client: Client, request: Request, deadline: Deadline) -> None:
        """The deadline is for the start alone."""
        run = secrets.token_hex(4)
        jobs = {node: f"{job.APP}-{run}-{index}" for index, node in enumerate(request.nodes)}
        self._tracers = {node: _Tracer(client, request, node, name, deadline) for node, name in jobs.items()}
        self._client, self._jobs = client, jobs
        self._streams = Streams({node: lambda tracer=tracer: tracer for node, tracer in self._tracers.items()})  # type: ignore[misc]
        self._finished = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heart", daemon=True)

    def __enter__(self) -> Self:
        self._streams.__enter__()
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._finished.set()
        self._streams.__exit__(kind, error, trace)
        for name in self._jobs.values():
            _remove(self._client, name)

    def events(self, idle: float) -> Iterator[Line | Ended | None]:
        """What the tracers say, and None whenever nobody said anything for so long."""
        return self._streams.events(idle)

    def finish(self) -> None:
        """Ask every tracer to say what it has left, and end."""
        self._say("end\n")

    def _beat(self) -> None:
        while not self._finished.wait(_BEAT_SECONDS):
            self._say("\n")

    def _say(self, text: str) -> None:
        for tracer in self._tracers.values():
            tracer.write(text)


class _Tracer:
    """The tracer of one node, as `stream.Running`: made with its first line."""

    def __init__(self, client: Client, request: Request, node: str, name: str, deadline: Deadline) -> None:
        self.exit_code: int | None = None
        self.errors = ""
        self._client, self._request, self._node, self._name, self._deadline = client, request, node, name, deadline
        self._stopped = threading.Event()
        self._execution: Execution | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()
        if self._execution is not None:
            self._execution.stop()

    def write(self, text: str) -> None:
        if self._execution is not None:
            self._execution.write(text)

    def lines(self) -> Iterator[str]:
        """What it says. Raises `ApiError` or `UnavailableError` where it cannot be started, or the connection to it breaks."""
        self._start()
        pod = self._pod()
        looked = time.monotonic()
        while not self._stopped.is_set():
            try:
                yield from self._attached(pod)
            except ApiError as error:
                # As long as the container does not run, the node says that it knows none of the name. The API server hears that it does
                # a second later than one could be attached.
                if (self._execution is not None and self._execution.heard) or error.status in {401, 403}:
                    raise
            else:
                return
            if time.monotonic() - looked > _STATUS_SECONDS:
                looked = time.monotonic()
                if reason := job.hindrance(self._client.get(f"{_PODS}/{quote(pod)}")):
                    raise UnavailableError(reason)
            self._pause(f"waiting for the tracer {pod}")

    def _start(self) -> None:
        request = self._request
        limit = int(request.seconds) + _START_SECONDS if request.seconds else job.LONGEST_SECONDS
        wanted = json.dumps(request.wanted, separators=(",", ":"))
        document = job.document(self._name, self._node, request.image, request.kind, wanted, limit)
        self._client.apply(f"{job.PATH}/{self._name}", document, FIELD_MANAGER)

    def _pod(self) -> str:
        while True:
            found = self._client.get(_PODS, labelSelector=f"batch.kubernetes.io/job-name={self._name}").get("items") or ()
            if found:
                return str(found[0]["metadata"]["name"])
            self._pause(f"waiting for the pod of {self._name}")

    def _attached(self, pod: str) -> Iterator[str]:
        with Execution(self._client, Container(job.NAMESPACE, pod, job.CONTAINER), None) as execution:
            self._execution = execution
            execution.write("begin\n")
            yield from execution.lines()
            self.exit_code, self.errors = execution.exit_code, execution.errors

    def _pause(self, doing: str) -> None:
        if self._deadline.remaining() <= 0:
            raise UnavailableError(f"{doing} took too long")
        if self._stopped.wait(_LOOK_SECONDS):
            raise UnavailableError("the trace ended before it began here")


def _remove(client: Client, name: str) -> None:
    """A Job and its pod, without waiting; where that fails the cluster does it when the tracer has ended."""
    with contextlib.suppress(ApiError, UnavailableError):
        client.delete(f"{job.PATH}/{name}", propagationPolicy="Background")


def sweep(client: Client, now: float) -> int:
    """Remove what commands left that were killed before their tracer came to run; how many there were. `now`: seconds of the epoch."""
    import datetime as dt

    swept = 0
    with contextlib.suppress(ApiError, UnavailableError):
        for item in client.get(job.PATH, labelSelector=f"app={job.APP}").get("items") or ():
            created = dt.datetime.fromisoformat(item["metadata"]["creationTimestamp"])
            if not (item.get("status") or {}).get("ready") and now - created.timestamp() > _ORPHAN_SECONDS:
                _remove(client, item["metadata"]["name"])
                swept += 1
    return swept


def nodes_of(client: Client, wanted: Sequence[str]) -> list[str]:
    """The names of the nodes to trace: those wanted, or all that are ready. Raises `errors.NotFound`."""
    items = client.get("/api/v1/nodes").get("items") or ()
    ready = {item["metadata"]["name"]: _is_ready(item) for item in items}
    for name in wanted:
        if name not in ready:
            raise errors.NotFound(f"there is no node {name}", remedy=f"These are there: {', '.join(sorted(ready))}.", field="--node")
        if not ready[name]:
            raise errors.Conflict(f"the node {name} is not ready, and starts no tracer", remedy="Name another one.", field="--node")
    found = list(dict.fromkeys(wanted)) or [name for name, is_ready in ready.items() if is_ready]
    if not found:
        raise errors.Conflict("no node is ready, so no tracer can be started", remedy="Wait until a node is ready.")
    return found


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def pod_of(client: Client, name: str) -> tuple[str, list[str]]:
    """The full name and the addresses of a pod that is named [NAMESPACE/]NAME. Raises `errors.NotFound`, `errors.Usage`."""
    namespace, _, short = name.rpartition("/")
    try:
        pod = client.get(f"/api/v1/namespaces/{quote(namespace or 'default')}/pods/{quote(short, safe='')}")
    except ApiError as error:
        if error.status != 404:
            raise
        raise errors.NotFound(
            f"there is no pod {short} in {namespace or 'default'}", remedy="Write --pod NAMESPACE/NAME.", field="--pod"
        ) from None
    if pod["spec"].get("hostNetwork"):
        node = pod["spec"].get("nodeName", "")
        raise errors.Usage(
            f"{name} is on its node's network: its packets are not told from the node's", remedy=f"Use --node {node}.", field="--pod"
        )
    return f"{namespace or 'default'}/{short}", names.pod_addresses(pod)


class Lookup:
    """The cluster's names, looked up in a thread. A pod's address that is not known yet is waited for, a moment and not again and again."""

    def __init__(self, client: Client) -> None:
        self.names = names.Names()
        self._client = client
        self._changed = threading.Condition()
        self._begun = self._done = 0
        self._wanted = 1
        self._asked: dict[str, float] = {}
        threading.Thread(target=self._look, name="names", daemon=True).start()

    def name_ends(self, document: dict[str, Any]) -> dict[str, Any]:
        """As `names.name_ends`."""
        self._await(1)
        now = time.monotonic()
        addresses = {document[side]["address"] for side in ("source", "asked", "destination") if side in document}
        new = [
            each for each in addresses if self.names.lacks(each) and now - self._asked.get(each, -_ASK_AGAIN_SECONDS) >= _ASK_AGAIN_SECONDS
        ]
        if new:
            self._asked |= dict.fromkeys(new, now)
            self._await(self._begun + 1)
        return names.name_ends(document, self.names)

    def _await(self, number: int) -> None:
        with self._changed:
            self._wanted = max(self._wanted, number)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done >= number, _NAMES_WAIT_SECONDS)

    def _look(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted > self._begun)
                self._begun += 1
            with contextlib.suppress(ApiError, UnavailableError):
                kinds = [self._client.get(f"/api/v1/{kind}", resourceVersion="0").get("items") or () for kind in _KINDS]
                self.names = names.gather(*kinds)
            with self._changed:
                self._done = self._begun
                self._changed.notify_all()
            time.sleep(_NAMES_SECONDS)
