"""`policy explain`: may this pod reach that one, who decided, and what would have to change."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provisioner import errors
from provisioner.cli import options
from provisioner.cli.output import Format, emit
from provisioner.cli.policy_objects import ClusterName, Context, Files, ask_compiler, client_of, gathered

if TYPE_CHECKING:
    from provisioner.policies.ends import Question

_NOT_SO = 2


class Expected(StrEnum):
    """A verdict to insist on."""

    ALLOWED = "allowed"
    DENIED = "denied"


def explain(
    name: ClusterName = "",
    source: Annotated[str, typer.Option("--from", metavar="NS/POD", help="Who asks: a pod, or an address.", show_default=False)] = "",
    target: Annotated[
        str,
        typer.Option(
            "--to", metavar="NS/POD|NS/SERVICE|ADDRESS", help="Who is asked; pod: or service: before it where both have the name."
        ),
    ] = "",
    port: Annotated[str, typer.Option("--port", metavar="PORT", help="A number, or a name that the pod or Service gives one.")] = "",
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", help="TCP, UDP, SCTP, ICMP or ICMPv6. [default: the Service port's, else TCP]", show_default=False),
    ] = None,
    file: Files = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with the rows in the kernels of the nodes; exit code 2 where they differ.")
    ] = False,
    expect: Annotated[
        Expected | None, typer.Option("--expect", help="Exit code 2 when the verdict is another one.", show_default=False)
    ] = None,
    context: Context = None,
    kubeconfig: options.Kubeconfig = None,
    timeout: options.TimeoutOption = "1m",
    output: options.Output = Format.TABLE,
) -> None:
    """Say whether one end may reach another, which policies and rules decide on each side, and what would have to change.

    "Denied" is an answer like "allowed": both end with exit code 0, unless --expect asks for one of them.
    With --file, the answer is of the cluster as it would be with those objects; without a cluster, of those objects alone.
    """
    from provisioner.plan.deadline import TimeLimit
    from provisioner.policies import ends, text

    portless = (protocol or "").upper() in ends.PORTLESS
    for value, flag in ((source, "--from"), (target, "--to"), (port or portless, "--port")):
        if not value:
            raise errors.Usage(f"{flag} is missing", remedy="Write it as in --from shop/front --to shop/back --port 80.", field=flag)
    limit = TimeLimit.after(options.duration(timeout))
    if verify and file:
        raise errors.Usage("--verify looks into kernels, and they know nothing of files", remedy="Leave --file out.", field="--verify")
    if verify and not (name or context is not None or kubeconfig is not None):
        raise errors.Usage("--verify needs a cluster", remedy="Name one, or --context.", field="--verify")
    client = client_of(name, context, kubeconfig, limit)
    objects = gathered(client, file or (), name or context or "(current)")
    asked = ends.question(objects, source, target, port, protocol)
    answer = _named(asked, ask_compiler(_words(asked), objects, limit))
    agrees = True
    if verify and client is not None:
        from provisioner.cli.policy_verify import verify as look

        agrees = look(client, answer)
    emit(answer, output, text.explanation(answer))
    if not agrees or (expect is not None and answer["verdict"] != expect.value):
        raise typer.Exit(_NOT_SO)


def _words(asked: Question) -> list[str]:
    ends = ["explain", "--from", str(asked.source), "--to", str(asked.target), "--protocol", asked.protocol]
    return ends + (["--port", asked.port] if asked.port else [])


def _named(asked: Question, found: dict[str, Any]) -> dict[str, Any]:
    """With the ends as a person names them."""
    from provisioner.policies.objects import text_of

    return found | {"from": text_of(asked.source.name), "to": text_of(asked.target.name)}
