"""The API of Google Kubernetes Engine: questions and orders in, plain JSON out.

google-cloud-container speaks gRPC to Google and REST to a loopback endpoint (CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER, gcloud's own
variable). It takes half a second to import, so that happens when a client is made. Its exceptions stay here: callers see
`errors.ProvisionerError`s. What may be retried is retried within the deadline; the library's own retries are off, so that they do not
add up. Enumeration values that the library does not know are kept as numbers, both ways.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from provisioner import errors
from provisioner.plan.deadline import TimeLimit
from provisioner.plan.steps import Deadline
from provisioner.providers.gke import faults
from provisioner.providers.gke.request import Json

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

ENDPOINT_VARIABLE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER"
PROJECT_VARIABLES = ("CLOUDSDK_CORE_PROJECT", "GOOGLE_CLOUD_PROJECT")
LOCATION_VARIABLES = ("CLOUDSDK_COMPUTE_REGION", "CLOUDSDK_COMPUTE_ZONE")
# For one request and its answer; operations are waited for by asking again.
REQUEST_SECONDS = 30.0
# For questions that no command's time limit covers.
LOOK_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


class AlreadyThere(Exception):
    """A create met a cluster of that name. `perhaps_ours`: an earlier try of the same call got no answer, so it may have made it."""

    def __init__(self, *, perhaps_ours: bool) -> None:
        super().__init__("already there")
        self.perhaps_ours = perhaps_ours


@dataclass
class Api:
    """One identity's connection. `client` is a ClusterManagerClient; `project` that of the credentials, if they have one."""

    client: Any
    credentials: Credentials | None = None
    project: str = ""
    limit: Deadline | None = None
    request_seconds: float = 0.0
    pause: Callable[[float], None] = time.sleep
    _types: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        from google.cloud.container_v1 import types

        self._types = types

    # ---- clusters ----

    def canonical(self, request: Json) -> Json:
        """A create request as the library understands it. Raises `errors.SpecInvalid` for what it does not."""
        return self._json(self._message(self._types.CreateClusterRequest, request))

    def create(self, request: Json, deadline: Deadline) -> Json:
        """Ask for a cluster; the operation. Raises `AlreadyThere`."""
        message = self._message(self._types.CreateClusterRequest, request)
        unanswered = False

        def ask(seconds: float) -> Any:
            nonlocal unanswered
            try:
                return self.client.create_cluster(request=message, retry=None, timeout=seconds)
            except Exception as error:
                if faults.is_already_there(error):
                    raise AlreadyThere(perhaps_ours=unanswered) from None
                unanswered = unanswered or faults.is_unanswered(error)
                raise

        return self._ask(ask, "asking for the cluster", deadline)

    def cluster(self, name: str, deadline: Deadline | None = None) -> Json | None:
        """One cluster by its full name, or None."""
        return self._maybe(lambda seconds: self.client.get_cluster(name=name, retry=None, timeout=seconds), f"looking for {name}", deadline)

    def clusters(self, parent: str, deadline: Deadline | None = None) -> list[Json]:
        """All of a place; the location `-` is every place."""
        answer = self._ask(
            lambda seconds: self.client.list_clusters(parent=parent, retry=None, timeout=seconds), f"listing {parent}", deadline
        )
        found: list[Json] = answer.get("clusters", [])
        return found

    def delete(self, name: str, deadline: Deadline) -> Json | None:
        """Ask for a deletion; the operation, or None for what is not there. Raises `faults.Busy` while another operation runs."""
        return self._maybe(lambda seconds: self.client.delete_cluster(name=name, retry=None, timeout=seconds), f"deleting {name}", deadline)

    # ---- operations ----

    def operation(self, name: str, deadline: Deadline | None = None) -> Json | None:
        """One operation by its full name, or None: GKE forgets them after a while."""
        return self._maybe(
            lambda seconds: self.client.get_operation(name=name, retry=None, timeout=seconds), f"asking for {name}", deadline
        )

    def operations(self, parent: str, deadline: Deadline | None = None) -> list[Json]:
        answer = self._ask(
            lambda seconds: self.client.list_operations(parent=parent, retry=None, timeout=seconds), "listing operations", deadline
        )
        found: list[Json] = answer.get("operations", [])
        return found

    def token(self) -> str:
        """An access token, for the cluster's API server; empty where there are no credentials."""
        if self.credentials is None:
            return ""
        from google.auth import exceptions
        from google.auth.transport.requests import Request

        try:
            if not self.credentials.valid:
                self.credentials.refresh(Request())  # type: ignore[no-untyped-call,unused-ignore]
        except exceptions.GoogleAuthError as error:
            raise faults.told(error, "asking for an access token") from None
        return str(self.credentials.token or "")

    # ---- one question ----

    def _maybe(self, ask: Callable[[float], Any], doing: str, deadline: Deadline | None) -> Json | None:
        try:
            return self._ask(ask, doing, deadline)
        except faults.Absent:
            return None

    def _ask(self, ask: Callable[[float], Any], doing: str, deadline: Deadline | None) -> Json:
        deadline = deadline or self.limit or TimeLimit.after(LOOK_SECONDS)
        longest = self.request_seconds or REQUEST_SECONDS
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._json(ask(max(0.1, min(longest, deadline.remaining()))))
            except (AlreadyThere, errors.ProvisionerError):
                raise
            except Exception as error:
                if not faults.may_be_retried(error):
                    raise faults.told(error, doing) from error
                wait = pause * random.uniform(0.8, 1.2)  # noqa: S311 -- spreads callers, keeps no secret
                if deadline.remaining() <= wait:
                    deadline.check(doing)
                    raise errors.Timeout(
                        f"GKE did not answer in time: {doing}: {faults.said(error)}",
                        remedy="Run the same command again, it continues; or give it more with --timeout.",
                    ) from error
                self.pause(wait)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _message(self, kind: Any, body: Json) -> Any:
        from google.protobuf import json_format

        message = kind()
        try:
            json_format.ParseDict(body, kind.pb(message))
        except json_format.ParseError as error:
            raise errors.SpecInvalid(
                f"the request is not one that google-cloud-container knows: {error}",
                remedy="Give a value of an enumeration by its number, or install a newer google-cloud-container.",
                field="spec.gke",
            ) from None
        return message

    def _json(self, message: Any) -> Json:
        from google.protobuf import json_format

        if message is None:
            return {}
        found: Json = json_format.MessageToDict(type(message).pb(message))
        return found


def open_api(environment: Mapping[str, str] = os.environ, limit: Deadline | None = None) -> Api:
    """The API of the environment. Raises `errors.CredentialsMissing`."""
    endpoint = environment.get(ENDPOINT_VARIABLE, "")
    project = next((environment[name] for name in PROJECT_VARIABLES if environment.get(name)), "")
    if is_loopback(endpoint):
        return _loopback(endpoint, project, limit)
    import google.auth
    from google.auth import exceptions
    from google.cloud.container_v1 import ClusterManagerClient

    try:
        credentials, found = google.auth.default(scopes=_SCOPES)
    except exceptions.GoogleAuthError as error:
        raise faults.told(error, "looking for credentials") from None
    host = urlsplit(endpoint).netloc or endpoint
    options = {"api_endpoint": host} if host else None
    return Api(ClusterManagerClient(credentials=credentials, client_options=options), credentials, project or found or "", limit)


def is_loopback(endpoint: str) -> bool:
    """http://127.0.0.1:PORT/ and its like: nothing that leaves the machine goes unencrypted."""
    parts = urlsplit(endpoint)
    return parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}


def _loopback(endpoint: str, project: str, limit: Deadline | None) -> Api:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.container_v1 import ClusterManagerClient
    from google.cloud.container_v1.services.cluster_manager.transports import ClusterManagerRestTransport

    anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call,unused-ignore]
    transport = ClusterManagerRestTransport(host=urlsplit(endpoint).netloc, url_scheme="http", credentials=anonymous)
    return Api(ClusterManagerClient(transport=transport), None, project, limit)
