"""`describe-cluster`: all that is known of one cluster."""

from __future__ import annotations

from provisioner.cli import backend, options
from provisioner.cli.output import Format, cluster_data, cluster_text, emit


def describe_cluster(
    name: options.NameArgument,
    provider: options.ProviderOption = None,
    project: options.Project = None,
    location: options.Location = None,
    output: options.Output = Format.TABLE,
) -> None:
    """Show a cluster's state, spec, members and addresses."""
    info = backend.provider_of(name, provider, project, location).describe(name)
    emit(cluster_data(info), output, cluster_text(info))
