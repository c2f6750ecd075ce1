"""`list-clusters`: what there is, and in which state."""

from __future__ import annotations

from provisioner.cli import backend, options
from provisioner.cli.output import Format, cluster_data, cluster_table, emit, note


def list_clusters(output: options.Output = Format.TABLE) -> None:
    """List the clusters of this machine, also stopped and half-made ones."""
    infos = sorted(backend.open_provider().list(), key=lambda info: info.name)
    if not infos and output is Format.TABLE:
        note("there are no clusters; `provisioner create-cluster NAME --dataplane-v2` makes one")
        return
    emit({"items": [cluster_data(info) for info in infos]}, output, cluster_table(infos))
