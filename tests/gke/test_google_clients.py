"""Google's own clients judge the server of the tests: gcloud takes a cluster through its whole life, google-cloud-container over both wires."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.container_v1 import ClusterManagerClient, types
from google.cloud.container_v1.services.cluster_manager.transports import ClusterManagerGrpcTransport, ClusterManagerRestTransport

from provisioner import errors
from provisioner.plan.deadline import TimeLimit
from provisioner.plan.engine import walk
from provisioner.providers.base import ClusterState
from provisioner.providers.gke.api import AlreadyThere, Api
from provisioner.providers.gke.provider import GkeProvider
from provisioner.spec import ClusterSpec
from tests.fakes.gke import Core, Fault, GrpcServer, RestServer, ServerError
from tests.fakes.gke.core import EXHAUSTED, PERMISSION_DENIED, UNAUTHENTICATED, UNAVAILABLE
from tests.gke.gcloud import Gcloud, Ran, needs_gcloud

PARENT = "projects/demo/locations/us-central1"


@needs_gcloud
def test_gcloud_takes_a_cluster_through_its_whole_life(gcloud: Gcloud, core: Core, server: RestServer, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"

    def clusters(*arguments: str) -> Ran:
        ran = gcloud.run(server.url, "clusters", *arguments, "--location", "us-central1", env={"KUBECONFIG": str(kubeconfig)})
        assert ran.code == 0, ran.err
        return ran

    core.operation_seconds = 1.0  # gcloud has to ask more than once
    created = clusters("create", "life", "--enable-dataplane-v2", "--enable-ip-alias", "--release-channel", "regular")
    assert "RUNNING" in created.out
    assert core.count("get_operation") > 1
    core.operation_seconds = 0.0
    described = json.loads(clusters("describe", "life", "--format", "json").out)
    assert described["status"] == "RUNNING"
    assert described["networkConfig"]["datapathProvider"] == "ADVANCED_DATAPATH"
    assert described["currentNodeCount"] == 9
    assert [item["name"] for item in json.loads(clusters("list", "--format", "json").out)] == ["life"]

    clusters("update", "life", "--enable-fqdn-network-policy")
    clusters("update", "life", "--enable-dataplane-v2-flow-observability")
    clusters("update", "life", "--update-labels", "team=network")
    cluster = core.clusters[f"{PARENT}/clusters/life"]
    assert cluster.network_config.enable_fqdn_network_policy
    assert cluster.monitoring_config.advanced_datapath_observability_config.enable_relay
    assert dict(cluster.resource_labels) == {"team": "network"}

    clusters("get-credentials", "life")
    assert "gke_demo_us-central1_life" in kubeconfig.read_text()
    operations = gcloud.run(server.url, "operations", "list", "--location", "us-central1", "--format", "json")
    assert "CREATE_CLUSTER" in {item["operationType"] for item in json.loads(operations.out)}

    clusters("delete", "life", "--quiet")
    assert core.clusters == {}
    gone = gcloud.run(server.url, "clusters", "describe", "life", "--location", "us-central1")
    assert gone.code == 1
    assert "Not found" in gone.err


@needs_gcloud
def test_gcloud_hears_the_refusals_and_unknown_values(gcloud: Gcloud, core: Core, server: RestServer) -> None:
    words = ("--location", "us-central1", "--async")
    assert gcloud.run(server.url, "clusters", "create", "b", "--enable-dataplane-v2", *words).code == 0
    again = gcloud.run(server.url, "clusters", "create", "b", "--enable-dataplane-v2", *words)
    assert "Already exists" in again.err
    core.clusters[f"{PARENT}/clusters/b"].network_config.datapath_provider = 3
    assert gcloud.run(server.url, "clusters", "list", *words[:2]).code == 0


def test_a_field_that_gke_does_not_know_is_refused(server: RestServer) -> None:
    import urllib.error
    import urllib.request

    body = json.dumps({"cluster": {"name": "a", "initialNodeCount": 1, "networkConfig": {"datapathProvidor": "ADVANCED_DATAPATH"}}})
    request = urllib.request.Request(f"{server.url}v1/{PARENT}/clusters", body.encode(), {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 400
    assert 'Unknown name "datapathProvidor"' in json.load(caught.value)["error"]["message"]


@pytest.fixture(params=["grpc", "rest"])
def client(request: pytest.FixtureRequest, core: Core) -> Iterator[ClusterManagerClient]:
    """google-cloud-container over each of its wires."""
    if request.param == "rest":
        with RestServer(core) as rest:
            host = rest.url.removeprefix("http://").rstrip("/")
            yield ClusterManagerClient(
                transport=ClusterManagerRestTransport(host=host, url_scheme="http", credentials=AnonymousCredentials())
            )
        return
    with GrpcServer(core) as served, grpc.insecure_channel(served.address) as channel:
        yield ClusterManagerClient(transport=ClusterManagerGrpcTransport(channel=channel))


def test_google_cloud_container_takes_a_cluster_through_its_life(client: ClusterManagerClient, core: Core) -> None:
    cluster = types.Cluster(name="life", initial_node_count=1, network_config={"datapath_provider": "ADVANCED_DATAPATH"})
    operation = client.create_cluster(parent=PARENT, cluster=cluster)
    assert operation.operation_type == types.Operation.Type.CREATE_CLUSTER
    assert client.get_operation(name=f"{PARENT}/operations/{operation.name}").status == types.Operation.Status.DONE
    found = client.get_cluster(name=f"{PARENT}/clusters/life")
    assert found.status == types.Cluster.Status.RUNNING
    assert [item.name for item in client.list_clusters(parent="projects/demo/locations/-").clusters] == ["life"]
    client.update_cluster(name=f"{PARENT}/clusters/life", update={"desired_enable_fqdn_network_policy": True})
    assert client.get_cluster(name=f"{PARENT}/clusters/life").network_config.enable_fqdn_network_policy
    with pytest.raises((exceptions.Conflict, exceptions.AlreadyExists)):
        client.create_cluster(parent=PARENT, cluster=cluster)
    client.delete_cluster(name=f"{PARENT}/clusters/life")
    with pytest.raises(exceptions.NotFound):
        client.get_cluster(name=f"{PARENT}/clusters/life")
    with pytest.raises((exceptions.InvalidArgument, exceptions.BadRequest), match="is not allowed"):
        client.create_cluster(
            parent=PARENT,
            cluster=types.Cluster(
                name="a", initial_node_count=1, network_policy={"enabled": True}, network_config={"datapath_provider": "ADVANCED_DATAPATH"}
            ),
        )


# --- the provider over both wires ---


@pytest.fixture
def provider(client: ClusterManagerClient, home: Path) -> GkeProvider:
    return GkeProvider(Api(client, limit=TimeLimit.after(60)), "demo", "us-central1")


def spec(**gke: Any) -> ClusterSpec:
    head = {"apiVersion": "provisioner.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "demo"}}
    return ClusterSpec.from_document({**head, "spec": {"provider": "gke", "dataplane": {"version": "v2"}, "gke": gke}})


def test_the_provider_makes_meets_and_deletes_a_cluster(provider: GkeProvider, core: Core) -> None:
    core.operation_seconds = 0.1
    wanted = spec(enableFqdnNetworkPolicy=True, inTransitEncryption=77)
    walk(provider.plan_create(wanted), TimeLimit.after(60))
    info = provider.describe("demo")
    assert (info.state, info.num_nodes) == (ClusterState.RUNNING, 9)
    assert info.details["networkConfig"]["inTransitEncryptionConfig"] == 77
    walk(provider.plan_create(wanted), TimeLimit.after(60))
    assert core.count("create_cluster") == 1
    with pytest.raises(errors.Conflict) as caught:
        provider.plan_create(spec(enableFqdnNetworkPolicy=False))
    assert [detail["change"] for detail in caught.value.details] == ["recreate"]
    walk(provider.plan_delete("demo"), TimeLimit.after(60))
    with pytest.raises(errors.NotFound):
        provider.plan_delete("demo")


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (ServerError(UNAUTHENTICATED, "invalid authentication credentials"), errors.CredentialsExpired),
        (ServerError(PERMISSION_DENIED, "API is disabled", "SERVICE_DISABLED"), errors.ApiDisabled),
        (ServerError(PERMISSION_DENIED, "no", "CONSUMER_INVALID"), errors.ProjectUnknown),
        (ServerError(PERMISSION_DENIED, "you may not"), errors.PermissionMissing),
        (ServerError(EXHAUSTED, "the quota of CPUS is used up"), errors.QuotaExceeded),
    ],
)
def test_refusals_are_told_apart_over_both_wires(
    provider: GkeProvider, core: Core, refusal: ServerError, expected: type[errors.ProvisionerError]
) -> None:
    core.faults.append(Fault("get_cluster", refusal, times=9))
    with pytest.raises(errors.ProvisionerError) as caught:
        provider.plan_create(spec())
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    "kind", [ServerError(UNAVAILABLE, "later"), ServerError(EXHAUSTED, "slow down", "RATE_LIMIT_EXCEEDED"), "reset", "reset-after"]
)
def test_what_may_be_retried_is_retried_over_both_wires(provider: GkeProvider, core: Core, kind: str | ServerError) -> None:
    core.faults += [Fault("create_cluster", kind), Fault("get_cluster", kind, after=1), Fault("delete_cluster", kind)]
    walk(provider.plan_create(spec()), TimeLimit.after(60))
    walk(provider.plan_delete("demo"), TimeLimit.after(60))
    assert core.clusters == {}
    assert [fault.times for fault in core.faults] == [0, 0, 0]


def test_whoever_comes_second_is_told(provider: GkeProvider) -> None:
    request = provider.plan_create(spec()).request
    assert request is not None
    provider.api.create(dict(request), TimeLimit.after(60))
    with pytest.raises(AlreadyThere) as caught:
        provider.api.create(dict(request), TimeLimit.after(60))
    assert not caught.value.perhaps_ours


def test_a_value_that_the_library_cannot_name_is_refused_with_the_way_out(provider: GkeProvider) -> None:
    request = provider.plan_create(spec()).request
    assert request is not None
    strange = {**request, "cluster": {**request["cluster"], "networkConfig": {"datapathProvider": "ADVANCED_DATAPATH_V3"}}}
    with pytest.raises(errors.SpecInvalid, match="ADVANCED_DATAPATH_V3") as caught:
        provider.api.canonical(strange)
    assert "number" in caught.value.remedy
