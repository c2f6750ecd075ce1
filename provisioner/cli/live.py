"""The gates on a running cluster, for `check --context` and `deploy`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner import errors
from provisioner.cli import credentials

if TYPE_CHECKING:
    from provisioner.compatibility.check import Checked, Gate
    from provisioner.deploy.client import Client
    from provisioner.deploy.context import ContextAccess
    from provisioner.deploy.observe import Facts

# Specs, plans and facts are documents of our own, and in no cluster.
_NOT_IN_A_CLUSTER = "provisioner.dev/"
_CILIUM = "cilium/cilium"


def access(context: str, kubeconfig: Path | None) -> ContextAccess:
    """Of a context in --kubeconfig, or in the file that kubectl would read."""
    from provisioner.deploy.context import ContextAccess

    return ContextAccess(kubeconfig if kubeconfig is not None else credentials.default_target().path, context)


def check_context(context: str, kubeconfig: Path | None, gate: Gate, checked: Checked, seconds: float, *, choose: bool) -> Gate:
    """Judge everything in the cluster that a rule is about; the gate with the cluster's own dataplane, where it is to be chosen."""
    from provisioner.deploy.client import ApiError, Client, UnavailableError
    from provisioner.deploy.observe import facts
    from provisioner.plan.deadline import TimeLimit

    with Client(access(context, kubeconfig), TimeLimit.after(seconds)) as client:
        try:
            try:
                found = facts(client)
            except ApiError as error:  # the objects may be readable all the same
                found = None
                checked.findings.append(not_checked("the cluster's network", f"It may not be read, and was not checked: {error}"))
            gate = _chosen(client, found, gate) if choose and found is not None else gate
            check_cluster(client, found, gate, checked)
        except (ApiError, UnavailableError) as error:
            checked.findings.append(not_checked(f"context {context}", f"The cluster cannot be read: {error}"))
    return gate


def check_cluster(
    client: Client, found: Facts | None, gate: Gate, checked: Checked, networks: tuple[Iterable[Any], Iterable[Any]] = ((), ())
) -> None:
    """`networks` are the pods' and Services' ranges that anetd would be told."""
    from provisioner.compatibility import check
    from provisioner.compatibility.model import Dataplane, Place
    from provisioner.deploy import observe

    place = Place()
    unread: list[observe.Unread] = []
    kinds = [kind for kind in gate.matrix.by_kind if not kind.startswith(_NOT_IN_A_CLUSTER)]
    if found is not None and gate.dataplane is Dataplane.ANETD:
        check.check_document(found.to_document(*networks), place, gate, checked)
    for document in observe.objects(client, kinds, unread):
        check.check_document(document, place, gate, checked)
    checked.findings += [not_checked(one.kind, f"Its objects may not be read, and were not checked: {one.reason}") for one in unread]


def not_checked(subject: str, reason: str) -> Any:
    from provisioner.compatibility.check import NOT_CHECKED
    from provisioner.compatibility.model import Finding, Place, Severity

    remedy = "Give a context that is reached and may list these kinds."
    return Finding(NOT_CHECKED, Severity.ERROR, subject, Place(), "", reason, remedy)


def _chosen(client: Client, found: Facts, gate: Gate) -> Gate:
    from provisioner.compatibility.model import Dataplane
    from provisioner.deploy import observe

    if found.is_gke:
        return replace(gate, dataplane=Dataplane.GKE, version=gate.version or found.version)
    if not found.agent:
        for document in observe.objects(client, ["apps/DaemonSet"], []):
            for container in document["spec"]["template"]["spec"]["containers"]:
                name, _, tag = container.get("image", "").partition("@")[0].rpartition(":")
                if name.endswith(_CILIUM):
                    return replace(gate, dataplane=Dataplane.CILIUM, version=gate.version or tag)
    return gate


def require_reachable(error: Exception, context: str) -> errors.ProvisionerError:
    """What a command that needs the cluster says when it cannot be read."""
    return errors.UpstreamFailure(
        f"the cluster of the context {context} cannot be read: {error}", remedy="Give a context that is reached and may read the cluster."
    )
