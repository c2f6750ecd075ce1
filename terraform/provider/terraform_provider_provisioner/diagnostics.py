"""From what the command says to what Terraform shows, beside the argument that it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from terraform_provider_provisioner.command import CommandFailed

if TYPE_CHECKING:
    from tf.utils import Diagnostics

# The beginning of a field's name in the document -> the argument that it came from.
ARGUMENTS: Mapping[str, str] = {
    "metadata.name": "name",
    "NAME": "name",
    "metadata.labels": "labels",
    "spec": "spec",
    "--kubernetes-bin-dir": "kubernetes_bin_dir",
    "--kubeconfig": "kubeconfig_path",
    "--timeout": "create_timeout",
}


def add_failure(diagnostics: Diagnostics, doing: str, failure: CommandFailed, arguments: frozenset[str], advice: str = "") -> None:
    """`doing` is the sentence's beginning ("creating the cluster demo"); `arguments` those that the block has."""
    argument = next((name for start, name in ARGUMENTS.items() if _is_within(failure.field, start) and name in arguments), None)
    detail = [f"{failure.message[:1].upper()}{failure.message[1:]}{'' if failure.message.endswith('.') else '.'}", failure.remedy, advice]
    if failure.field:
        detail.append(f"Field: {failure.field}.")
    detail.append(f"({failure.id}, exit code {failure.exit_code})")
    diagnostics.add_error(
        f"{doing[:1].upper()}{doing[1:]} failed", "\n".join(part for part in detail if part), path=[argument] if argument else None
    )


def _is_within(field: str, start: str) -> bool:
    return field == start or field.startswith((f"{start}.", f"{start}["))
