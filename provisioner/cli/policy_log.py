"""`policy log`: which connections network policies allowed and denied, from the logs of all nodes, merged by time."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provisioner import errors
from provisioner.cli import backend, live, options
from provisioner.cli.output import note

if TYPE_CHECKING:
    from provisioner.deploy.client import Client
    from provisioner.deploy.policy_log import Entry, Wanted
    from provisioner.plan.deadline import TimeLimit

_INTERRUPTED = 130


class Disposition(StrEnum):
    """What became of a connection."""

    ALLOW = "allow"
    DENY = "deny"


class LogFormat(StrEnum):
    """Of records: there is no end of them to wait for, so JSON is an object a line, as in the nodes' files."""

    TABLE = "table"
    JSON = "json"


def policy_log(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A cluster of this machine.", show_default=False)] = "",
    context: Annotated[
        str | None, typer.Option("--context", metavar="NAME", help="Or the cluster of this kubeconfig context.", show_default=False)
    ] = None,
    kubeconfig: options.Kubeconfig = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with the records that come, until interrupted.")] = False,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Of either end. [default: all]", show_default=False)] = "",
    pod: Annotated[str, typer.Option("--pod", metavar="[NAMESPACE/]POD", help="Either end.", show_default=False)] = "",
    disposition: Annotated[Disposition | None, typer.Option("--disposition", help="[default: both]", show_default=False)] = None,
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="No older than so long: seconds, or 90s, 5m.")] = "",
    node: Annotated[list[str] | None, typer.Option("--node", help="Of this node alone; may be repeated.", show_default=False)] = None,
    timeout: options.TimeoutOption = "2m",
    output: Annotated[LogFormat, typer.Option("--output", "-o", help="JSON is an object a line.")] = LogFormat.TABLE,
) -> None:
    """Print the records of the network policy log: who talked to whom, allowed or denied, and by which policies.

    The object `default` of NetworkLogging says what is logged: kubectl edit networklogging default.
    """
    from provisioner.deploy.client import ApiError, UnavailableError
    from provisioner.deploy.policy_log import Wanted
    from provisioner.plan.deadline import TimeLimit

    limit = TimeLimit.after(options.duration(timeout))
    oldest = ""
    if since:
        oldest = (datetime.now(UTC) - timedelta(seconds=options.duration(since, "--since"))).strftime("%Y-%m-%dT%H:%M:%SZ")
    space, _, bare = pod.rpartition("/")
    if space and namespace not in {"", space}:
        raise errors.Usage(f"--pod {pod} is not in --namespace {namespace}", remedy="Leave --namespace out.", field="--namespace")
    wanted = Wanted(space or namespace, bare, disposition or "", oldest, frozenset(node or ()))
    with _client(name, context, kubeconfig, limit) as client:
        try:
            _print(client, wanted, output, None if follow else limit)
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        except (ApiError, UnavailableError) as error:
            raise live.require_reachable(error, name or context or "(current)") from error


def _client(name: str, context: str | None, kubeconfig: Path | None, limit: TimeLimit) -> Client:
    from provisioner.deploy.client import Client

    if name and context is not None:
        raise errors.Usage(f"{name} and --context both name a cluster", remedy="Leave one of them out.", field="--context")
    if not name:
        return Client(live.access(context or "", kubeconfig), limit)
    provider = backend.provider_of(name, None, None, None)
    if provider.name == backend.GKE:
        raise errors.Usage(
            f"the policy log of {name} is in Cloud Logging: its nodes are GKE's",
            remedy=f"""Run: gcloud logging read 'resource.labels.cluster_name="{name}" log_id("policy-action")'""",
            field="NAME",
        )
    return Client(provider.credentials(name), limit)


def _print(client: Client, wanted: Wanted, output: LogFormat, limit: TimeLimit | None) -> None:
    """Without a limit what comes is followed."""
    from provisioner.deploy import policy_log as core
    from provisioner.deploy.agents import agents
    from provisioner.deploy.execute import Container, Execution

    def look() -> dict[str, Container]:
        return {node: where for node, where in agents(client).items() if not wanted.nodes or node in wanted.nodes}

    def start(where: Container, words: Any) -> Execution:
        return Execution(client, where, words)

    where = look()
    if missing := sorted(wanted.nodes - where.keys()):
        raise errors.NotFound(f"no anetd runs on {', '.join(missing)}", remedy="See kubectl get nodes.", field="--node")
    if not where:
        raise errors.NotFound("no anetd runs in the cluster", remedy="See kubectl -n kube-system get pods -l app=anetd -o wide.")
    failures = core.Failures()
    entries = core.stored(where, start, wanted, failures) if limit else core.following(look, start, wanted, note)
    width = max(map(len, where))
    if output is LogFormat.TABLE:
        sys.stdout.write(_aligned([column for column, _ in _COLUMNS], width) + "\n")
    for entry in entries:
        sys.stdout.write(f"{entry.text if output is LogFormat.JSON else row(entry, width)}\n")
        if limit:
            limit.check("reading the logs")
        else:
            sys.stdout.flush()
    for node, why in sorted(failures.by_node.items()):
        note(f"{node}: {why}")
    if failures.by_node:
        raise errors.UpstreamFailure(
            f"the log of {len(failures.by_node)} of {len(where)} nodes could not be read to its end",
            remedy="What was printed lacks their records; look at their anetd.",
        )


_COLUMNS = (("TIME", 24), ("NODE", 0), ("VERDICT", 7), ("DIRECTION", 9), ("SOURCE", 40), ("DESTINATION", 48), ("COUNT", 5), ("POLICIES", 0))


def row(entry: Entry, width: int) -> str:
    """A record as a line for people; what is no record, as it is."""
    try:
        record = json.loads(entry.text)
        connection = record["connection"]
        target = _end(record["dest"], connection["dest_ip"])
        port = f":{connection['dest_port']}" if "dest_port" in connection else ""
        moment = record["timestamp"].removesuffix("Z")
        cells = [
            f"{moment[:19]}.{moment[20:23]:0<3}Z",
            entry.node,
            record["disposition"],
            connection["direction"],
            _end(record["src"], connection["src_ip"]),
            f"{target}{port}/{connection['protocol']}",
            str(record["count"]),
            ", ".join(f"{policy.get('namespace', '')}/{policy['name']}" for policy in record.get("policies") or ()) or "-",
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return entry.text
    return _aligned(cells, width)


def _aligned(cells: list[str], node_width: int) -> str:
    widths = [node_width if name == "NODE" else width for name, width in _COLUMNS]
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _end(end: dict[str, Any], address: str) -> str:
    """A pod, a node, or an address."""
    if pod := end.get("pod_name"):
        return f"{end.get('pod_namespace', '')}/{pod}"
    return f"node {end['node_name']}" if end.get("workload_kind") == "Node" else str(end.get("instance") or address)
