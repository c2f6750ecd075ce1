"""Every error that a user can meet: id, exit code, message, remedy, and the field it is about.

Exit codes: 0 ok, 1 internal, 2 checks failed or a plan with changes, 3 usage or spec invalid, 4 refused by a
compatibility gate, 5 conflict with what exists, 6 not found, 7 credentials, permission or quota, 8 timeout,
9 upstream failure, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ProvisionerError(Exception):
    """An error with a way out.

    message  one sentence: what is wrong, naming the thing.
    remedy   one sentence: what to do now.
    field    the spec field (dotted, as in the YAML) or flag it is about, empty if none.
    """

    id = "internal"
    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "", field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.field = field


class Usage(ProvisionerError):
    """The command line itself is wrong, whatever the cluster."""

    id, exit_code = "usage", 3


class SpecInvalid(ProvisionerError):
    """The document or the flags ask for something that cannot be, or are not understood."""

    id, exit_code = "spec-invalid", 3


class RefusedByGate(ProvisionerError):
    """Understood, and deliberately not offered. `findings` are those of the compatibility gates, in JSON's types."""

    id, exit_code = "refused-by-gate", 4

    def __init__(self, message: str, *, remedy: str = "", field: str = "", findings: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message, remedy=remedy, field=field)
        self.findings = findings


class Conflict(ProvisionerError):
    """What is asked for differs from what exists."""

    id, exit_code = "conflict", 5


class ClusterBusy(Conflict):
    """Another command works on the cluster. Nothing is wrong with what was asked for; it has to wait."""

    id = "cluster-busy"


class NotFound(ProvisionerError):
    """What is named is not there."""

    id, exit_code = "not-found", 6


class PermissionMissing(ProvisionerError):
    """The caller may not do this: not root, no credentials, no quota."""

    id, exit_code = "permission-missing", 7


class MachineUnfit(ProvisionerError):
    """This machine lacks something the local provider needs: a tool, a kernel feature, space."""

    id, exit_code = "machine-unfit", 7


class Timeout(ProvisionerError):
    """The command's time limit passed. What was done stays, and the same command continues."""

    id, exit_code = "timeout", 8


class UpstreamFailure(ProvisionerError):
    """Something that was asked to do its part failed: a download, a build, the API server, a component."""

    id, exit_code = "upstream-failure", 9


class Interrupted(ProvisionerError):
    """Ctrl-C or SIGTERM. What was begun is in the journal, and the same command continues it."""

    id, exit_code = "interrupted", 130
