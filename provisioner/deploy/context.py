"""A cluster by its context in a kubeconfig, with whatever way to authenticate that file knows: certificates, tokens, plugins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner import errors

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


@dataclass(frozen=True, slots=True)
class ContextAccess:
    """`name` empty is the file's current context. The file is the caller's, and read anew by every client."""

    path: Path
    name: str = ""

    def open(self) -> ApiClient:
        """A client of the `kubernetes` package. Raises `errors.NotFound` for a file or context that is not there."""
        import yaml
        from kubernetes.client import Configuration
        from kubernetes.config import ConfigException, new_client_from_config

        configuration: Any = Configuration(retries=False)
        try:
            return new_client_from_config(str(self.path), self.name or None, persist_config=False, client_configuration=configuration)
        except ConfigException as error:
            raise errors.NotFound(
                f"the context {self.name or '(current)'} of {self.path} cannot be used: {' '.join(str(error).split())}",
                remedy="Name a context of `kubectl config get-contexts` with --context, and its file with --kubeconfig.",
                field="--context",
            ) from None
        except (yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise errors.NotFound(
                f"{self.path} cannot be read as a kubeconfig: {' '.join(str(error).split())}",
                remedy="Give another file with --kubeconfig.",
                field="--kubeconfig",
            ) from None
