"""`list-clusters`: what there is, and in which state."""

from __future__ import annotations

from provisioner.cli import backend, options
from provisioner.cli.output import Format, cluster_data, cluster_table, emit, note


def list_clusters(
    provider: options.ProviderOption = None,
    project: options.Project = None,
    location: options.Location = None,
    output: options.Output = Format.TABLE,
) -> None:
    """List the clusters of this machine, also stopped and half-made ones; with --provider gke those of a project."""
    used = backend.open_provider(provider or backend.DEFAULT_PROVIDER, project=project, location=location)
    infos = sorted(used.list(), key=lambda info: info.name)
    if not infos and output is Format.TABLE:
        note("there are no clusters; `provisioner create-cluster NAME --dataplane-v2` makes one")
        return
    emit({"items": [cluster_data(info) for info in infos]}, output, cluster_table(infos))
