"""`policy matrix`: who may reach whom, as a table, JSON, or a page with the picture."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner import errors
from provisioner.cli import options
from provisioner.cli.output import Format, emit
from provisioner.cli.policy_objects import ClusterName, Context, Files, ask_compiler, client_of, gathered

if TYPE_CHECKING:
    from provisioner.policies.objects import Objects


class MatrixFormat(StrEnum):
    """Of the matrix."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


def matrix(
    name: ClusterName = "",
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", metavar="NS", help="Only its workloads. [default: all]", show_default=False)
    ] = None,
    file: Files = None,
    context: Context = None,
    kubeconfig: options.Kubeconfig = None,
    timeout: options.TimeoutOption = "2m",
    output: Annotated[
        MatrixFormat, typer.Option("--output", "-o", help="html is one page that needs nothing else: send it to a file.")
    ] = MatrixFormat.TABLE,
) -> None:
    """Show which workload may reach which, judged by every policy there is.

    provisioner policy matrix demo --output html > matrix.html
    """
    from provisioner.plan.deadline import TimeLimit
    from provisioner.policies import page, text

    limit = TimeLimit.after(options.duration(timeout))
    where = name or context or "(current)"
    objects = gathered(client_of(name, context, kubeconfig, limit), file or (), where)
    words = ["matrix"]
    if namespace is not None:
        _require_namespace(objects, namespace)
        words += ["--namespace", namespace]
    answer = ask_compiler(words, objects, limit)
    match output:
        case MatrixFormat.HTML:
            sys.stdout.write(page.render(answer, title=_title(name or context, namespace)))
        case MatrixFormat.JSON:
            emit(answer, Format.JSON, "")
        case MatrixFormat.TABLE:
            emit({}, Format.TABLE, text.matrix(answer))


def _require_namespace(objects: Objects, namespace: str) -> None:
    from provisioner.policies.ends import nearest

    names = [name for _, name in objects.kinds["namespaces"]]
    if namespace not in names:
        near = nearest(namespace, names)
        remedy = f"Did you mean {' or '.join(near)}?" if near else "`kubectl get namespaces` lists them."
        raise errors.NotFound(f"there is no namespace {namespace}", remedy=remedy, field="--namespace")


def _title(cluster: str | None, namespace: str | None) -> str:
    parts = [f"namespace {namespace}" if namespace else "", cluster or ""]
    return " of ".join(part for part in parts if part) or "manifests"
