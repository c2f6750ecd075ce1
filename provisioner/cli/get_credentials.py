"""`get-credentials`: let kubectl reach a cluster."""

from __future__ import annotations

from provisioner.cli import backend, credentials, options
from provisioner.cli.output import Format, emit


def get_credentials(name: options.NameArgument, kubeconfig: options.Kubeconfig = None, output: options.Output = Format.TABLE) -> None:
    """Merge a cluster's credentials into a kubeconfig and make it the current context."""
    where = credentials.write(backend.open_provider(), name, kubeconfig)
    context = credentials.context_name(name)
    emit({"name": name, "kubeconfig": str(where), "context": context}, output, f"context {context} is in {where}, and current there.")
