"""`version`: of the tool, and of what it makes."""

from __future__ import annotations

from provisioner.cli import options
from provisioner.cli.output import Format, emit
from provisioner.version import __version__


def version(output: options.Output = Format.TABLE) -> None:
    """Print the versions of the tool, Kubernetes and the dataplane."""
    from provisioner.spec.models import API_VERSION, DEFAULT_KUBERNETES_VERSION

    data = {"version": __version__, "kubernetes": DEFAULT_KUBERNETES_VERSION, "dataplane": "v2", "apiVersion": API_VERSION}
    table = f"provisioner {__version__}\nKubernetes {DEFAULT_KUBERNETES_VERSION} by default\ndataplane v2\nspec {API_VERSION}\n"
    emit(data, output, table)
