"""What Google's libraries raise, in this project's words: whose fault, may it be retried, what to do. Pure, but for reading exceptions.

The libraries' classes are told apart by their names along the line of their ancestors, so that this module imports none of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner import errors

# Nobody answered, or somebody on the way did: what was asked may have been done.
_UNANSWERED = {
    "ServiceUnavailable", "InternalServerError", "BadGateway", "GatewayTimeout", "DeadlineExceeded", "RetryError", "ConnectionError",
    "Timeout", "ChunkedEncodingError", "ContentDecodingError", "JSONDecodeError", "ParseError", "TransportError", "Aborted", "Unknown",
}  # fmt: skip
_BUSY = re.compile(r"incompatible operation|has an operation|CLUSTER_ALREADY_HAS_OPERATION", re.IGNORECASE)
# A "quota project" is who pays for the question, not how much there is.
_QUOTA = re.compile(r"\bquota\b(?! project)|insufficient .* (capacity|resource)", re.IGNORECASE)
# gRPC asks for a token on the way, and tells of a failure there as if the server were away.
_NO_TOKEN = re.compile(r"Getting metadata from plugin failed|invalid_grant|RefreshError")
_RATE = re.compile(r"per (minute|second)|rate limit", re.IGNORECASE)
_DISABLED = re.compile(r"has not been used in project|\bAPI\b.{0,60}\bis (disabled|not enabled)|SERVICE_DISABLED")
_WRONG_PROJECT = re.compile(r"permission denied on resource project|project .* (was |is )?not found|unknown project", re.IGNORECASE)


class Absent(errors.NotFound):
    """GKE has no such thing."""


class Busy(errors.Conflict):
    """Another operation works on the cluster."""


def kinds(error: BaseException) -> set[str]:
    """The names of an exception's class and of its ancestors."""
    return {kind.__name__ for kind in type(error).__mro__}


def reason(error: BaseException) -> str:
    """google.rpc.ErrorInfo's reason, which says more than the status: SERVICE_DISABLED, RATE_LIMIT_EXCEEDED."""
    return str(getattr(error, "reason", "") or "")


def said(error: BaseException) -> str:
    """The sentence, without the library's decoration."""
    text = str(getattr(error, "message", "") or error) or type(error).__name__
    text = re.sub(r"^(\d{3} )?(GET|POST|PUT|DELETE) https?://\S+: ", "", text)
    return " ".join(text.split())[:600]


def is_unanswered(error: BaseException) -> bool:
    return bool(kinds(error) & _UNANSWERED) and not kinds(error) & {"RefreshError", "DefaultCredentialsError"}


def is_already_there(error: BaseException) -> bool:
    """Over REST the status alone is known, and it is also that of an aborted request."""
    return "AlreadyExists" in kinds(error) or ("Conflict" in kinds(error) and "already exists" in said(error).lower())


def may_be_retried(error: BaseException) -> bool:
    """Whether the same question may be answered in a moment. A quota of resources is not a limit of the rate."""
    if "TooManyRequests" in kinds(error) or "ResourceExhausted" in kinds(error):
        return reason(error) == "RATE_LIMIT_EXCEEDED" or _RATE.search(said(error)) is not None or not _QUOTA.search(said(error))
    return is_unanswered(error) and not _NO_TOKEN.search(said(error))


@dataclass(frozen=True, slots=True)
class _Rule:
    """The first rule whose `kinds` and `matches` fit decides."""

    kinds: frozenset[str]
    kind: Callable[..., errors.ProvisionerError]
    remedy: str
    matches: Callable[[str], Any] = bool


def _rule(names: str, kind: type[errors.ProvisionerError], remedy: str, pattern: re.Pattern[str] | None = None) -> _Rule:
    return _Rule(frozenset(names.split()), kind, remedy, pattern.search if pattern else bool)


_RULES: Sequence[_Rule] = (
    _rule(
        "RefreshError Unauthorized Unauthenticated InvalidOperation",
        errors.CredentialsExpired,
        "Run: gcloud auth application-default login; in CI, ask for a new token.",
    ),
    _rule(
        "ServiceUnavailable TransportError",
        errors.CredentialsExpired,
        "Run: gcloud auth application-default login; in CI, ask for a new token.",
        _NO_TOKEN,
    ),
    _rule(
        "DefaultCredentialsError",
        errors.CredentialsMissing,
        "Run: gcloud auth application-default login; or set GOOGLE_APPLICATION_CREDENTIALS to a key's file.",
    ),
    _rule("Forbidden PermissionDenied", errors.ApiDisabled, "Run: gcloud services enable container.googleapis.com", _DISABLED),
    _rule("Forbidden PermissionDenied TooManyRequests ResourceExhausted", errors.QuotaExceeded, "Ask for a higher quota, take fewer or "
          "smaller nodes, or another location; the console shows quotas under IAM & Admin.", _QUOTA),
    _rule("Forbidden PermissionDenied NotFound", errors.ProjectUnknown, "Give the project's id with --project, and check that the account "
          "belongs to it: gcloud projects describe ID.", _WRONG_PROJECT),
    _rule("Forbidden PermissionDenied", errors.PermissionMissing, "Ask for the role roles/container.admin (Kubernetes Engine Admin) in the "
          "project, and roles/iam.serviceAccountUser on the nodes' account."),
    _rule("NotFound", Absent, "See list-clusters --provider gke."),
    _rule("FailedPrecondition BadRequest", Busy, "Wait until it has ended, and run the command again.", _BUSY),
    _rule("InvalidArgument BadRequest OutOfRange", errors.SpecInvalid, "Change what GKE names, and run the command again."),
    _rule("FailedPrecondition Conflict AlreadyExists", errors.Conflict, "Change what GKE names, and run the command again."),
)  # fmt: skip


def told(error: BaseException, doing: str) -> errors.ProvisionerError:
    """The error to raise in an exception's place."""
    names, sentence = kinds(error), said(error)
    judged = f"{sentence} {reason(error)}"
    if reason(error) == "CONSUMER_INVALID":
        judged += " unknown project"
    for rule in _RULES:
        if names & rule.kinds and rule.matches(judged):
            return rule.kind(f"{doing}: {sentence}", remedy=rule.remedy)
    return errors.UpstreamFailure(
        f"{doing}: {sentence}", remedy="Run the same command again, it continues; GKE's state is on status.cloud.google.com."
    )


def of_operation(operation: dict[str, Any]) -> errors.ProvisionerError | None:
    """Why an operation ended badly, or None."""
    error = operation.get("error") or {}
    message = error.get("message") or operation.get("statusMessage") or ""
    if not error.get("code") and not message:
        return None
    what = f"{operation.get('operationType', 'the operation')} ({operation.get('name')})"
    text = f"GKE could not carry out {what}: {message or error.get('code')}"
    quota = _QUOTA.search(message) is not None or error.get("code") == 8
    denied = error.get("code") == 7
    if quota:
        return errors.QuotaExceeded(text, remedy="Ask for a higher quota, take fewer or smaller nodes, or another location.")
    if denied:
        return errors.PermissionMissing(text, remedy="Give the account of the nodes and GKE's service agent the rights that it names.")
    return errors.UpstreamFailure(
        text, remedy="Do away with the reason; delete-cluster removes what is there, and create-cluster begins anew."
    )
