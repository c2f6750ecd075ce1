"""What commands print. stdout carries the product alone, as a table, JSON or YAML; everything else goes to stderr.

With JSON, an error is one line of JSON too, the last on stderr: {"error": {"id", "exitCode", "message", "remedy", "field"}}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from provisioner import errors

if TYPE_CHECKING:
    from provisioner.providers.base import ClusterInfo


class Format(StrEnum):
    """Of the product."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def note(message: str) -> None:
    """A line for the person at the terminal."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def emit(data: Any, output: Format, table: str) -> None:
    """Print the product: `data` as JSON or YAML, or `table` as it is."""
    match output:
        case Format.JSON:
            text = json.dumps(data, indent=2)
        case Format.YAML:
            text = to_yaml(data)
        case Format.TABLE:
            text = table
    sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
    sys.stdout.flush()


def to_yaml(data: Any) -> str:
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def columns(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned by spaces, two between columns, as kubectl prints."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines) + "\n"


def cluster_data(info: ClusterInfo) -> dict[str, Any]:
    """A cluster in JSON's types: what list-clusters, describe-cluster and create-cluster print."""
    return {
        "name": info.name,
        "provider": str(info.provider),
        "state": info.state.value,
        "kubernetesVersion": info.kubernetes_version,
        "numNodes": info.num_nodes,
        "endpoint": info.endpoint,
        "created": info.created,
        "spec": info.spec.to_document(),
        "details": _plain(info.details),
    }


def cluster_table(infos: Sequence[ClusterInfo]) -> str:
    header = ("NAME", "PROVIDER", "STATE", "VERSION", "NODES", "ENDPOINT", "CREATED")
    rows = [(i.name, i.provider, i.state.value, i.kubernetes_version, i.num_nodes, i.endpoint or "-", i.created or "-") for i in infos]
    return columns(header, rows)


def cluster_text(info: ClusterInfo) -> str:
    """describe-cluster's table: the head line by line, then the spec and what the provider knows, as YAML."""
    data = cluster_data(info)
    head = {
        "Name": info.name,
        "Provider": info.provider,
        "State": info.state.value,
        "Kubernetes": info.kubernetes_version,
        "Nodes": info.num_nodes,
        "Endpoint": info.endpoint or "-",
        "Created": info.created or "-",
    }
    text = "".join(f"{key + ':':<12}{value}\n" for key, value in head.items())
    text += "Spec:\n" + _indented(to_yaml(data["spec"]["spec"]))
    if data["details"]:
        text += "Details:\n" + _indented(to_yaml(data["details"]))
    return text


def emit_error(error: errors.ProvisionerError, output: Format) -> None:
    """Tell what is wrong and the way out, on stderr."""
    if output is Format.JSON:
        body: dict[str, Any] = {
            "id": error.id,
            "exitCode": error.exit_code,
            "message": error.message,
            "remedy": error.remedy,
            "field": error.field,
        }
        if isinstance(error, errors.RefusedByGate) and error.findings:
            body["findings"] = list(error.findings)
        note(json.dumps({"error": body}))
        return
    note(f"error: {error.message}")
    if error.remedy:
        note(f"  {error.remedy}")


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def _plain(value: Any) -> Any:
    """Mappings, sequences and anything with a text, in JSON's types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
