"""The data source `provisioner_kubeconfig`: what a Kubernetes or Helm provider needs to reach a cluster. No file is written."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tf import iface, schema, types

from terraform_provider_provisioner.command import CommandFailed
from terraform_provider_provisioner.diagnostics import add_failure

if TYPE_CHECKING:
    from terraform_provider_provisioner.provider import Provisioner

_ATTRIBUTES = [
    schema.Attribute(
        "name", types.String(), "The cluster's name; `provisioner_cluster.X.id` reads it once the cluster is there.", required=True
    ),
    schema.Attribute("context", types.String(), "The context's name.", computed=True),
    schema.Attribute("kubeconfig", types.String(), "A whole kubeconfig, as JSON, which kubectl reads.", computed=True, sensitive=True),
    schema.Attribute("host", types.String(), "The API server: https://address:port.", computed=True),
    schema.Attribute("cluster_ca_certificate", types.String(), "Whom to trust, PEM.", computed=True),
    schema.Attribute(
        "client_certificate", types.String(), "PEM; null where the kubeconfig names a plugin instead.", computed=True, sensitive=True
    ),
    schema.Attribute("client_key", types.String(), "PEM; null where the kubeconfig names a plugin instead.", computed=True, sensitive=True),
]
_NAMES = frozenset(attribute.name for attribute in _ATTRIBUTES)


class Kubeconfig(iface.DataSource):
    """The credentials of one cluster."""

    def __init__(self, provider: Provisioner) -> None:
        self._provider = provider

    @classmethod
    def get_name(cls) -> str:
        return "kubeconfig"

    @classmethod
    def get_schema(cls) -> schema.Schema:
        return schema.Schema(description="The administrator's credentials of a cluster, from `get-credentials`.", attributes=_ATTRIBUTES)

    def read(self, ctx: iface.ReadDataContext, config: iface.Config) -> iface.State | None:
        try:
            found = self._provider.commands.run("get-credentials", config["name"], "--kubeconfig", "-")
        except CommandFailed as failure:
            add_failure(ctx.diagnostics, f"reading the credentials of {config['name']}", failure, _NAMES)
            return None
        return {"name": config["name"], **unpacked(found)}


def unpacked(kubeconfig: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the current context, as attributes. Raises KeyError for what is no kubeconfig."""
    context = _named(kubeconfig["contexts"], kubeconfig["current-context"])["context"]
    cluster = _named(kubeconfig["clusters"], context["cluster"])["cluster"]
    user = _named(kubeconfig["users"], context["user"])["user"]
    return {
        "context": kubeconfig["current-context"],
        "kubeconfig": json.dumps(kubeconfig, sort_keys=True),
        "host": cluster["server"],
        "cluster_ca_certificate": _decoded(cluster.get("certificate-authority-data")),
        "client_certificate": _decoded(user.get("client-certificate-data")),
        "client_key": _decoded(user.get("client-key-data")),
    }


def _named(entries: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return {entry["name"]: entry for entry in entries}[name]


def _decoded(text: str | None) -> str | None:
    return None if text is None else base64.b64decode(text).decode()
