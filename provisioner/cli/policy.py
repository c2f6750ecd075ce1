"""`policy` and its commands; here, `convert`: Cilium's policies as the NetworkPolicies that mean the same, where there are any."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provisioner import errors
from provisioner.cli import options
from provisioner.cli.output import Format, emit, note, to_yaml
from provisioner.cli.policy_explain import explain
from provisioner.cli.policy_log import policy_log
from provisioner.cli.policy_matrix import matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.compatibility.convert import Network

_NOT_ALL = 2

policy = typer.Typer(help="Work with network policies.", rich_markup_mode=None, no_args_is_help=False)


@policy.callback()
def _policy() -> None:
    """Work with network policies."""


policy.command("explain")(explain)
policy.command("matrix")(matrix)
policy.command("log")(policy_log)


@policy.command("convert")
def convert(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Manifests with CiliumNetworkPolicies; - is stdin.")],
    cluster_cidr: Annotated[
        list[str] | None,
        typer.Option("--cluster-cidr", metavar="CIDR", help="Of the pods' or nodes' addresses; may be repeated.", show_default=False),
    ] = None,
    output: options.Output = Format.YAML,
) -> None:
    """Print the NetworkPolicies that mean exactly what the Cilium policies in FILE mean.

    Of a policy that has no exact equal each field is named that stands in the way, and the exit code is 2.
    """
    from provisioner.compatibility import convert as core
    from provisioner.compatibility.check import kind_of, subject
    from provisioner.compatibility.documents import line_of

    ranges = [_network(text) for text in cluster_cidr or ()]
    made: list[Any] = []
    lacking: list[dict[str, Any]] = []
    others = 0
    for file in files:
        for document in _documents(file):
            if kind_of(document) not in {f"{core.GROUP}/{kind}" for kind in core.KINDS}:
                others += 1
                continue
            conversion = core.convert(document, ranges)
            made += conversion.policies
            for lack in conversion.lacks:
                place = {"file": file, "line": line_of(document, lack.path)}
                lacking.append({"object": subject(document), **place, "field": lack.field, "reason": lack.reason})
    if others:
        note(f"{others} object{' is' if others == 1 else 's are'} no Cilium policy and left out")
    for item in lacking:
        note(f"{item['file']}:{item['line']}: {item['object']}: {item['field']} {item['reason']}")
    if output is Format.JSON:
        emit({"policies": made, "noEqual": lacking}, Format.JSON, "")
    else:
        sys.stdout.write("".join(f"---\n{to_yaml(item)}" for item in made))
    if lacking:
        note("For what has no equal: use vanilla Cilium, or write what can be said as a NetworkPolicy yourself.")
        raise typer.Exit(_NOT_ALL)


def _network(text: str) -> Network:
    from ipaddress import ip_network

    try:
        return ip_network(text)
    except ValueError as error:
        raise errors.Usage(
            f"--cluster-cidr {text!r} is not a network: {error}", remedy="Write it as in 10.244.0.0/16.", field="--cluster-cidr"
        ) from None


def _documents(file: str) -> Iterator[Any]:
    from provisioner.compatibility import documents

    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise errors.NotFound(
            f"{file} cannot be read: {error.strerror}", remedy="Give the path of a file with manifests.", field="FILE"
        ) from None
    try:
        for _, value in documents.read(content):
            if isinstance(value, dict) and isinstance(value.get("items"), list):
                yield from value["items"]
            elif value is not None:
                yield value
    except documents.Unreadable as problem:
        raise errors.Usage(f"{file}:{problem.line}: this {problem.reason}", remedy="Correct the YAML there.", field="FILE") from None
