"""`check`: judge specs, manifests, Terraform plans and live clusters by the feature matrix, and change nothing."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from provisioner import errors
from provisioner.cli import gates, options
from provisioner.cli.output import Format, emit

if TYPE_CHECKING:
    from provisioner.compatibility.check import Checked, Gate

FAILED = 2
_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_HEAD_BYTES = 1024
# As kubectl and the like begin an object: it needs not be held in memory to see that it is no plan.
_OBJECT = re.compile(rb'\s*\{\s*"(apiVersion|kind)"')


class CheckFormat(StrEnum):
    """Of the findings."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    SARIF = "sarif"
    JUNIT = "junit"


class DataplaneName(StrEnum):
    """Whose verdicts count."""

    ANETD = "anetd"
    GKE = "gke"
    CILIUM = "cilium"


def check(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TARGET]...", help="Files or directories of manifests, specs or plans; - is stdin.", show_default=False),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option("--context", metavar="NAME", help="Check the cluster of this kubeconfig context as well.", show_default=False),
    ] = None,
    kubeconfig: options.Kubeconfig = None,
    dataplane: Annotated[
        DataplaneName | None,
        typer.Option(
            "--dataplane", help="Whose verdicts count. [default: a plan's or spec's own, gke on GKE, else anetd]", show_default=False
        ),
    ] = None,
    dataplane_version: Annotated[
        str, typer.Option("--dataplane-version", metavar="VERSION", help="Of GKE or Cilium: refuse what is newer.", show_default=False)
    ] = "",
    allow: options.Allow = None,
    timeout: options.TimeoutOption = "5m",
    output: Annotated[CheckFormat, typer.Option("--output", "-o", help="How the findings are printed on stdout.")] = CheckFormat.TABLE,
) -> None:
    """Find what the dataplane would ignore or refuse, before it hurts.

    Exit code 2 when there is an error, or something could not be checked. `helm template`, `kustomize build` and
    `terraform show -json` pipe in: `helm template CHART | provisioner check -`.
    """
    from provisioner.compatibility import allowances, matrix
    from provisioner.compatibility import check as core
    from provisioner.compatibility.model import Dataplane

    if not targets and context is None:
        raise errors.Usage("there is nothing to check", remedy="Name files or directories, - for stdin, or --context.", field="TARGET")
    seconds = options.duration(timeout)
    found = matrix.load()
    chosen = Dataplane(dataplane.value) if dataplane else Dataplane.ANETD
    gate = core.Gate(found, chosen, dataplane_version, allowances.known(allowances.split(allow or []), found))
    checked = core.Checked()
    if context is not None:  # first: its dataplane is the one that manifests beside it are meant for
        from provisioner.cli.live import check_context

        gate = check_context(context, kubeconfig, gate, checked, seconds, choose=dataplane is None)
    for target in targets or ():
        _check_target(target, gate, checked)
    findings = checked.all_findings()
    match output:
        case CheckFormat.SARIF:
            from provisioner.compatibility.reports import sarif

            emit(sarif(findings, found), Format.JSON, "")
        case CheckFormat.JUNIT:
            from provisioner.compatibility.reports import junit

            sys.stdout.write(junit(findings, checked.objects))
        case CheckFormat.TABLE:
            emit({}, Format.TABLE, gates.table(findings, checked.objects))
        case _:
            emit(gates.data(findings, checked.objects, gate.dataplane.value), Format(output.value), "")
    if any(finding.refuses for finding in findings):
        raise typer.Exit(FAILED)


def _check_target(target: str, gate: Gate, checked: Checked) -> None:
    if target == "-":
        _check_stream(cast("io.BufferedReader", sys.stdin.buffer), "stdin", gate, checked, strict=True)
        return
    path = Path(target)
    if not path.exists():
        raise errors.NotFound(
            f"there is no file or directory {target}", remedy="Give a path that is there, or - for stdin.", field="TARGET"
        )
    files = list(manifest_files(path))
    if not files:
        from provisioner.compatibility.check import nothing
        from provisioner.compatibility.model import Place

        checked.findings.append(nothing(Place(target)))
    for file in files:
        try:
            with file.open("rb") as stream:
                _check_stream(stream, str(file), gate, checked, strict=not path.is_dir())
        except OSError as error:
            raise errors.PermissionMissing(
                f"{file} cannot be read: {error.strerror}", remedy="Give files that can be read.", field="TARGET"
            ) from None


def manifest_files(path: Path) -> Iterator[Path]:
    """A file, or what a directory has of YAML and JSON, hidden directories left out."""
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.suffix in _SUFFIXES and file.is_file() and not hidden:
            yield file


def _check_stream(stream: io.BufferedReader, file: str, gate: Gate, checked: Checked, *, strict: bool) -> None:
    """A Terraform plan is one JSON document; everything else, JSON too, is read as YAML, document by document."""
    from provisioner.compatibility import check as core

    head = stream.peek(_HEAD_BYTES)
    if head.lstrip()[:1] == b"{" and not _OBJECT.match(head):
        content = stream.read()
        plan = _plan(content)
        if plan is not None:
            _check_plan(plan, file, gate, checked)
        else:
            core.check_stream(content, file, gate, checked, strict=strict)
        return
    core.check_stream(stream, file, gate, checked, strict=strict)


def _plan(content: bytes) -> Any:
    from provisioner.compatibility import terraform

    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if terraform.is_plan(value) else None


def _check_plan(plan: Any, file: str, gate: Gate, checked: Checked) -> None:
    from dataclasses import replace

    from provisioner.compatibility import check as core
    from provisioner.compatibility import terraform
    from provisioner.compatibility.model import Dataplane, Place

    place = Place(file)
    problem = terraform.format_problem(plan, place)
    if problem is not None:
        checked.findings.append(problem)
        return
    on_gke = replace(gate, dataplane=Dataplane.GKE)
    for document in terraform.documents_of(plan):
        core.check_document(document, place, on_gke, checked)
