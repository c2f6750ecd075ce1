"""`trace drops` and `trace connect`: what happens to packets and connections on a cluster's nodes, as it happens."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provisioner import errors
from provisioner.cli import backend, live, options
from provisioner.cli.output import Format, note, to_yaml

if TYPE_CHECKING:
    from provisioner.deploy.client import Client
    from provisioner.plan.deadline import TimeLimit
    from provisioner.providers.base import Provider
    from provisioner.trace.run import Lookup, Tracing
    from provisioner.trace.text import Summary

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58}
_IDLE_SECONDS = 0.2
_LAST_WORDS_SECONDS = 3.0

ClusterName = Annotated[str, typer.Argument(metavar="[NAME]", help="A cluster of this machine.", show_default=False)]
Context = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="Or the cluster of this kubeconfig context.", show_default=False)
]
Pod = Annotated[str, typer.Option("--pod", metavar="[NAMESPACE/]NAME", help="Only what this pod has to do with.", show_default=False)]
Node = Annotated[
    list[str] | None, typer.Option("--node", metavar="NODE", help="Only on this node; may be repeated. [default: all]", show_default=False)
]
Address = Annotated[
    list[str] | None, typer.Option("--address", metavar="IP", help="Only with this address at an end; may be repeated.", show_default=False)
]
Port = Annotated[int, typer.Option("--port", metavar="PORT", help="Only with this port at an end.", min=0, max=65535, show_default=False)]
Protocol = Annotated[
    str, typer.Option("--protocol", metavar="NAME", help=f"Only this protocol: {', '.join(_PROTOCOLS)}.", show_default=False)
]
Duration = Annotated[
    str, typer.Option("--duration", metavar="TIME", help="End after so long. [default: when interrupted]", show_default=False)
]
TracerImage = Annotated[
    str | None, typer.Option("--image", help="The tracer's, as the nodes pull it. [default: the one built here]", show_default=False)
]

trace = typer.Typer(help="Trace lost packets and connections on a cluster's nodes.", rich_markup_mode=None, no_args_is_help=False)


@trace.callback()
def _trace() -> None:
    """Trace lost packets and connections on a cluster's nodes."""


def _command(kind: str, summary: str) -> None:
    """Both kinds have the same options: what is asked of a cluster's nodes differs by the probes alone."""

    def command(
        name: ClusterName = "",
        pod: Pod = "",
        node: Node = None,
        address: Address = None,
        port: Port = 0,
        protocol: Protocol = "",
        duration: Duration = "",
        context: Context = None,
        kubeconfig: options.Kubeconfig = None,
        image: TracerImage = None,
        timeout: options.TimeoutOption = "5m",
        output: options.Output = Format.TABLE,
    ) -> None:
        _run(kind, locals())

    trace.command(kind, help=f"{summary}\n\n{_ENDS}")(command)


_ENDS = "Ends after --duration or when interrupted. --timeout is for the time until every node traces."
_command("drops", "Show each packet that the kernel or anetd's programs drop, why, and whose it is; at the end a table by reason.")
_command(
    "connect", "Show each connection that a process asks for: how long it took, why it failed, and whom a Service's address led it to."
)


def _run(kind: str, flags: dict[str, Any]) -> None:
    wanted = _filter(flags)
    seconds = options.duration(flags["duration"], "--duration") if flags["duration"] else 0.0
    name, context, output = flags["name"], flags["context"], flags["output"]
    if bool(name) == (context is not None or flags["kubeconfig"] is not None):
        raise errors.Usage("one cluster is traced at a time", remedy="Give NAME, or --context.", field="NAME")

    from provisioner.plan.deadline import TimeLimit

    limit = TimeLimit.after(options.duration(flags["timeout"]))
    image, client = _opened(name, context, flags["kubeconfig"], flags["image"], limit)
    with client:
        from provisioner.deploy.client import ApiError, UnavailableError
        from provisioner.trace import run

        try:
            nodes = run.nodes_of(client, flags["node"] or ())
            if flags["pod"]:
                wanted["pod"], addresses = run.pod_of(client, flags["pod"])
                wanted["addresses"] = [*wanted["addresses"], *addresses]
        except (ApiError, UnavailableError) as error:
            raise live.require_reachable(error, name or context or "(current)") from error
        request = run.Request(kind, image, nodes, wanted, seconds)
        with _interruptions() as interrupted:
            lookup = run.Lookup(client)
            with run.Tracing(client, request, limit) as tracing:
                _follow(_Follower(kind, nodes, seconds, output, interrupted), tracing, lookup)
            run.sweep(client, time.time())


def _filter(flags: dict[str, Any]) -> dict[str, Any]:
    addresses = []
    for text in flags["address"] or ():
        try:
            addresses.append(str(ip_address(text)))
        except ValueError:
            raise errors.Usage(f"--address {text!r} is no IP address", remedy="Write it as in 10.244.0.5.", field="--address") from None
    protocol = flags["protocol"].lower()
    if protocol and protocol not in _PROTOCOLS:
        raise errors.Usage(f"there is no protocol {protocol!r} here", remedy=f"Use {', '.join(_PROTOCOLS)}.", field="--protocol")
    return {"addresses": addresses, "port": flags["port"], "protocol": _PROTOCOLS.get(protocol, 0)}


def _opened(name: str, context: str | None, kubeconfig: Path | None, image: str | None, limit: TimeLimit) -> tuple[str, Client]:
    """The name of the tracer's image, which the nodes have or can pull, and a client. Both take a while, so they are made side by side."""
    from provisioner.deploy import client

    if not name:
        reached = live.access(context or "", kubeconfig)
        return image or _built(limit).name, client.Client(reached, limit)
    provider = backend.open_provider()
    found = provider.credentials(name)
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(_loaded, provider, name, limit) if image is None else None
        opened = client.Client(found, limit)
        return image or (loaded.result() if loaded else ""), opened


def _loaded(provider: Provider, name: str, limit: TimeLimit) -> str:
    """The name of the tracer's image, which every node has afterwards."""
    built = _built(limit)
    if not provider.has_image(name, built.name):
        note(f"The nodes of {name} have no tracer yet: loading its image, once.")
        provider.load_image(name, [built.archive], limit, note)
    return str(built.name)


def _built(limit: TimeLimit) -> Any:
    from provisioner import images

    return images.ensure_tracer(limit, note)


@contextlib.contextmanager
def _interruptions() -> Iterator[threading.Event]:
    """An interrupt ends the trace and is no failure: the table is still to come. A second one ends the command."""
    event = threading.Event()

    def on_signal(_: int, __: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Follower:
    """Prints what tracers say. `traced` are the nodes that trace or have; `failures` says why others do not."""

    def __init__(self, kind: str, nodes: Sequence[str], seconds: float, output: Format, interrupted: threading.Event) -> None:
        from provisioner.trace.text import Summary

        self.kind, self.nodes, self.seconds, self.output, self.interrupted = kind, len(nodes), seconds, output, interrupted
        self._width = max(map(len, nodes))
        self.summary: Summary = Summary()
        self.traced: set[str] = set()
        self.failures: dict[str, str] = {}
        self.until = float("inf")

    def hear(self, node: str, document: dict[str, Any], lookup: Lookup) -> None:
        match document["type"]:
            case "ready":
                self._traces(node, document["lacks"])
            case "unsupported":
                self.failures[node] = document["message"]
            case "lost":
                self.summary.add(document)
            case "drop" | "connect":
                self.summary.add(document)
                self._print({"type": document["type"], "node": node} | lookup.name_ends({**document, "node": node}))

    def ended(self, node: str, said: str, failure: Exception | None) -> None:
        """A node's tracer is gone: as it was told to, or because something stands in its way."""
        if node in self.traced:
            if failure is not None:
                note(f"{node} is not traced any more: {failure}")
            return
        # With the compiler's words, where it is the one who refused.
        reasons = (self.failures.get(node, ""), str(failure or ""), said)
        self.failures[node] = "\n".join(filter(None, reasons)) or "the tracer has ended"
        note(f"{node} is not traced: {self.failures[node]}")
        self._begin()

    def finish(self) -> None:
        """The table by reason. Raises `errors.UpstreamFailure` where no node traced at all."""
        if not self.traced and self.failures and not self.interrupted.is_set():
            reason = next(iter(self.failures.values()))
            raise errors.UpstreamFailure(f"no node can be traced: {reason}", remedy="docs/tracing.md says what a node must have.")
        if self.output is Format.TABLE:
            sys.stdout.write("\n" + self.summary.table(self.kind))
        else:
            self._print(self.summary.document())
        sys.stdout.flush()

    def _traces(self, node: str, lacks: Sequence[str]) -> None:
        from provisioner.trace import text

        for lack in lacks:
            note(f"{node}: {lack}")
        if not self.traced and self.output is Format.TABLE:
            sys.stdout.write(text.header(self.kind, self._width) + "\n")
            sys.stdout.flush()
        self.traced.add(node)
        self._begin()

    def _begin(self) -> None:
        """The time runs once every node traces, or is known not to."""
        if self.traced and len(self.traced) + len(self.failures) == self.nodes:
            self.until = time.monotonic() + self.seconds if self.seconds else float("inf")
            nodes = "1 node" if len(self.traced) == 1 else f"{len(self.traced)} nodes"
            note(f"Tracing on {nodes}." if self.seconds else f"Tracing on {nodes}; an interrupt ends it.")

    def _print(self, document: dict[str, Any]) -> None:
        import json

        from provisioner.trace import text

        match self.output:
            case Format.TABLE:
                line = text.line(self.kind, document, self._width) + "\n"
            case Format.JSON:
                line = json.dumps(document, separators=(",", ":")) + "\n"
            case Format.YAML:
                line = "---\n" + to_yaml(document)
        sys.stdout.write(line)
        sys.stdout.flush()


def _follow(follower: _Follower, tracing: Tracing, lookup: Lookup) -> None:
    import json

    from provisioner.deploy.stream import Ended, Line

    last_words = float("inf")
    for event in tracing.events(_IDLE_SECONDS):
        match event:
            case Line(node, text):
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a runtime may speak on the same stream
                    follower.hear(node, json.loads(text), lookup)
            case Ended(node, _, said, failure):
                follower.ended(node, said.strip(), failure)
        now = time.monotonic()
        if last_words == float("inf") and (follower.interrupted.is_set() or now >= follower.until):
            last_words = now + _LAST_WORDS_SECONDS
            tracing.finish()
        if now >= last_words:
            break
    follower.finish()
