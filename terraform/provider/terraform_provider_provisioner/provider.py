"""The provider: its configuration, and what it offers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tf import iface, schema, types

from terraform_provider_provisioner.cluster import Cluster
from terraform_provider_provisioner.command import Commands
from terraform_provider_provisioner.compatibility import Compatibility
from terraform_provider_provisioner.kubeconfig import Kubeconfig

if TYPE_CHECKING:
    from tf.utils import Diagnostics

ADDRESS = "provisioner.dev/provisioner/provisioner"
DEFAULT_COMMAND = ("provisioner",)


class Provisioner(iface.Provider):
    """One instance lives as long as the plugin's process."""

    def __init__(self) -> None:
        self.commands = Commands(DEFAULT_COMMAND)
        self._call = threading.local()

    def get_model_prefix(self) -> str:
        return "provisioner_"

    def full_name(self) -> str:
        return ADDRESS

    def get_provider_schema(self, diags: Diagnostics) -> schema.Schema:
        command = schema.Attribute(
            "command",
            types.List(types.String()),
            'The command that does the work, and what stands before it; `["provisioner"]` by default. Local clusters need root: '
            'run Terraform as root, or give `["sudo", "--non-interactive", "provisioner"]`.',
            optional=True,
        )
        return schema.Schema(description="Kubernetes clusters whose dataplane is eBPF.", attributes=[command])

    def validate_config(self, diags: Diagnostics, config: iface.Config) -> None:
        if config and config.get("command") == []:
            diags.add_error("command is empty", "Name the program, or leave the argument out.", path=["command"])

    def configure_provider(self, diags: Diagnostics, config: iface.Config) -> None:
        command = (config or {}).get("command")
        if command is types.Unknown or (command and any(part is types.Unknown for part in command)):
            diags.add_error("command is not known yet", "Give it a value that is known when the plan is made.", path=["command"])
        elif command:
            self.commands = Commands(command)

    def get_data_sources(self) -> list[type[iface.DataSource]]:
        return [Compatibility, Kubeconfig]

    def get_resources(self) -> list[type[iface.Resource]]:
        return [Cluster]

    def stop(self) -> None:
        """Terraform wants to end, or has: what runs is interrupted."""
        self.commands.stop()

    def require_replacement(self, arguments: Sequence[str]) -> None:
        """For the plan that this thread is making: these arguments make it another cluster."""
        self._call.replaced = [*getattr(self._call, "replaced", []), *arguments]

    def replaced(self) -> list[str]:
        """The arguments that required a replacement since the last call, in this thread."""
        found: list[str] = getattr(self._call, "replaced", [])
        self._call.replaced = []
        return found
