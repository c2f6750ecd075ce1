"""A cluster through its kubeconfig context: what is read of it, and what is said of what may not be read."""

from __future__ import annotations

import base64

import pytest
import yaml

from provisioner import errors
from provisioner.deploy import observe
from provisioner.deploy.client import Client
from provisioner.deploy.context import ContextAccess

OURS = {"managedFields": [{"manager": "provisioner"}]}
READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def kubeconfig(api, tmp_path):
    own = api.credentials
    user = {"client-certificate-data": encoded(own.client_certificate), "client-key-data": encoded(own.client_key)}
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": own.server, "certificate-authority-data": encoded(own.ca_certificate)}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "mine", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "mine",
            }
        )
    )
    return path


@pytest.fixture
def client(kubeconfig, patient):
    with Client(ContextAccess(kubeconfig, "mine"), patient) as client:
        yield client


def serve(api, **changes):
    """A kubeadm cluster of two nodes that has no network yet."""
    nodes = [
        {"metadata": {"name": f"n{i}"}, "spec": {"podCIDRs": [f"10.244.{i}.0/24"]}, "status": changes.get("status", {})} for i in (0, 1)
    ]
    answers = {
        "/api/v1/nodes": {"items": nodes},
        "/version": {"gitVersion": changes.get("version", "v1.34.4")},
        "/apis/networking.k8s.io/v1/servicecidrs": {"items": [{"spec": {"cidrs": ["10.96.0.0/16"]}}]},
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes": {
            "endpoints": [{"addresses": ["192.0.2.7"]}],
            "ports": [{"port": 6443}],
        },
        **changes.get("more", {}),
    }
    for path, document in answers.items():
        api.on("GET", path, (200, document))


def test_a_context_authenticates_as_its_user(api, client):
    serve(api)
    observe.facts(client)
    assert set(api.client_names) == {"client"}


def test_the_facts_of_a_new_cluster(api, client):
    serve(api)
    found = observe.facts(client)
    assert (found.version, found.nodes, found.ready_nodes, found.agent) == ("v1.34.4", 2, 0, False)
    assert (found.service_cidrs, found.api_server) == (["10.96.0.0/16"], "https://192.0.2.7:6443")
    assert found.to_document()["otherNetwork"] is False


def test_ready_nodes_without_anetd_have_another_network_and_with_it_have_not(api, client):
    serve(api, status=READY)
    assert observe.facts(client).to_document()["otherNetwork"] is True
    agent = {"/apis/apps/v1/namespaces/kube-system/daemonsets/anetd": {"metadata": OURS}}
    serve(api, status=READY, more=agent)
    assert observe.facts(client).to_document()["otherNetwork"] is False


def test_gke_has_a_network_of_its_own_though_its_agent_has_the_same_name(api, client):
    serve(api, version="v1.34.1-gke.100", more={"/apis/apps/v1/namespaces/kube-system/daemonsets/anetd": {"metadata": OURS}})
    assert observe.facts(client).to_document()["otherNetwork"] is True


def test_an_anetd_that_others_made_is_not_ours(api, client):
    serve(
        api,
        status=READY,
        more={"/apis/apps/v1/namespaces/kube-system/daemonsets/anetd": {"metadata": {"managedFields": [{"manager": "x"}]}}},
    )
    assert observe.facts(client).agent is False


def test_ranges_are_compared_with_what_the_agent_would_be_told(api, client):
    from ipaddress import ip_network

    serve(api)
    found = observe.facts(client)
    inside = found.to_document([ip_network("10.244.0.0/16")], [ip_network("10.96.0.0/16")])
    assert inside["podCIDRsOutside"] == inside["serviceCIDRsOutside"] == []
    outside = found.to_document([ip_network("10.244.0.0/24")], [ip_network("10.97.0.0/16")])
    assert (outside["podCIDRsOutside"], outside["serviceCIDRsOutside"]) == (["10.244.1.0/24"], ["10.96.0.0/16"])
    assert found.to_document([ip_network("fd00::/56")], [])["podCIDRsOutside"] == []


def test_what_an_earlier_deploy_was_told_and_kubeadm_s_range_are_found(api, client):
    assert (observe.settings(client), observe.admission_mode(client), observe.pod_ranges(client)) == ({}, None, [])
    maps = {
        "kubeadm-config": {"ClusterConfiguration": "networking: {podSubnet: '10.1.0.0/16,fd00::/56'}"},
        "anetd-config": {"config.json": '{"podCIDRs": ["10.2.0.0/16"], "routingMode": "vxlan"}'},
        "provisioner-gates": {"admission": "warn"},
    }
    for name, data in maps.items():
        api.on("GET", f"/api/v1/namespaces/kube-system/configmaps/{name}", (200, {"data": data}))
    assert observe.pod_ranges(client) == ["10.1.0.0/16", "fd00::/56"]
    assert observe.settings(client)["routingMode"] == "vxlan"
    assert observe.admission_mode(client) == "warn"


def resource(name, kind, verbs=("list",)):
    return {"name": name, "kind": kind, "verbs": list(verbs)}


def test_objects_are_listed_page_by_page_with_their_kind(api, client):
    api.on("GET", "/apis/apps", (200, {"preferredVersion": {"groupVersion": "apps/v1"}}))
    resources = [resource("daemonsets", "DaemonSet"), resource("daemonsets/status", "DaemonSet"), resource("deployments", "Deployment")]
    api.on("GET", "/apis/apps/v1", (200, {"resources": resources}))
    first = {"metadata": {"continue": "t"}, "items": [{"metadata": {"name": "a"}}]}
    owned = {"metadata": {"name": "c", "ownerReferences": [{"controller": True}]}}
    api.on("GET", "/apis/apps/v1/daemonsets", (200, first), (200, {"items": [{"metadata": {"name": "b"}}, owned]}))
    unread = []
    found = list(observe.objects(client, ["apps/DaemonSet"], unread))
    assert [(item["apiVersion"], item["kind"], item["metadata"]["name"]) for item in found] == [
        ("apps/v1", "DaemonSet", "a"),
        ("apps/v1", "DaemonSet", "b"),
    ]
    assert unread == []
    assert "continue=t" in api.requests[-1][1]


def test_a_group_that_is_not_served_has_no_objects_and_one_that_may_not_be_read_is_named(api, client):
    api.on("GET", "/apis/cilium.io", (404, {"message": "not found"}))
    api.on(
        "GET",
        "/api/v1",
        (200, {"resources": [resource("services", "Service"), resource("pods", "Pod"), resource("bindings", "Binding", ())]}),
    )
    api.on("GET", "/api/v1/services", (403, {"message": "services is forbidden"}))
    api.on("GET", "/api/v1/pods", (200, {"items": []}))
    unread = []
    assert list(observe.objects(client, ["cilium.io/*", "Service", "Pod"], unread)) == []
    assert [(one.kind, "forbidden" in one.reason) for one in unread] == [("Service", True)]


def test_whole_groups_are_listed_kind_by_kind(api, client):
    api.on("GET", "/apis/cilium.io", (200, {"preferredVersion": {"groupVersion": "cilium.io/v2"}}))
    api.on("GET", "/apis/cilium.io/v2", (200, {"resources": [resource("ciliumnodes", "CiliumNode"), resource("x", "CiliumX")]}))
    for name in ("ciliumnodes", "x"):
        api.on("GET", f"/apis/cilium.io/v2/{name}", (200, {"items": [{"metadata": {"name": name}}]}))
    assert [item["kind"] for item in observe.objects(client, ["cilium.io/*"], [])] == ["CiliumNode", "CiliumX"]


@pytest.mark.parametrize(("name", "content"), [("other", None), ("", "["), ("", "3"), ("", "")])
def test_a_context_or_file_that_cannot_be_used_is_not_found(kubeconfig, patient, name, content):
    if content is not None:
        kubeconfig.write_text(content)
    with pytest.raises(errors.NotFound) as caught:
        Client(ContextAccess(kubeconfig, name), patient)
    assert caught.value.remedy


def test_a_kubeconfig_that_is_not_there_is_not_found(tmp_path, patient):
    with pytest.raises(errors.NotFound):
        Client(ContextAccess(tmp_path / "nowhere"), patient)


def test_a_token_is_sent_and_in_no_error(api, kubeconfig, patient):
    config = yaml.safe_load(kubeconfig.read_text())
    config["users"][0]["user"] |= {"token": "SECRET"}
    kubeconfig.write_text(yaml.safe_dump(config))
    serve(api)
    with Client(ContextAccess(kubeconfig), patient) as client:
        client.get("/version")
        assert api.headers[-1]["authorization"] == "Bearer SECRET"
        with pytest.raises(Exception, match="not found") as caught:
            client.get("/nothing")
    assert "SECRET" not in str(caught.value)
