"""`get-credentials`: let kubectl reach a cluster."""

from __future__ import annotations

from pathlib import Path

from provisioner.cli import backend, credentials, options
from provisioner.cli.output import Format, emit, to_yaml

STDOUT = Path("-")


def get_credentials(name: options.NameArgument, kubeconfig: options.Kubeconfig = None, output: options.Output = Format.TABLE) -> None:
    """Merge a cluster's credentials into a kubeconfig and make it the current context. With --kubeconfig - they are printed instead."""
    provider = backend.open_provider()
    context = credentials.context_name(name)
    if kubeconfig == STDOUT:
        from provisioner.kubeconfig import entry

        whole = entry(context, provider.credentials(name))
        emit(whole, output, to_yaml(whole))
        return
    where = credentials.write(provider, name, kubeconfig)
    emit({"name": name, "kubeconfig": str(where), "context": context}, output, f"context {context} is in {where}, and current there.")
