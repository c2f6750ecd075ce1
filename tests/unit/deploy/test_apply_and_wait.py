"""Applying and waiting against an API server that is late, refuses, breaks off, or never gets ready."""

from __future__ import annotations

import dataclasses

import pytest

from provisioner import deploy, errors
from provisioner.deploy import apply, client, wait

NODE = "/api/v1/nodes"
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "kube-system"}, "data": {"x": "y"}}
ROLE = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"}, "rules": []}
MANIFESTS = [deploy.Manifest("1.yaml", "", [CONFIG_MAP, ROLE])]
CONFIG_MAP_PATH = "/api/v1/namespaces/kube-system/configmaps/a"
ROLE_PATH = "/apis/rbac.authorization.k8s.io/v1/clusterroles/r"
AGENT_PATH = "/apis/apps/v1/namespaces/kube-system/daemonsets/anetd"
DNS_PATH = "/apis/apps/v1/namespaces/kube-system/deployments/coredns"


@pytest.fixture
def ready(api):
    api.on("GET", "/readyz", (200, "ok"))
    api.on("PATCH", CONFIG_MAP_PATH, (201, {}))
    api.on("PATCH", ROLE_PATH, (200, {}))
    return api


def patches(api):
    return [(target.split("?")[0], body) for method, target, body in api.requests if method == "PATCH"]


def test_objects_are_applied_in_order_as_the_clients_own_identity(ready, patient, lines):
    deploy.apply_all(ready.credentials, MANIFESTS, patient, lines.append)
    assert patches(ready) == [(CONFIG_MAP_PATH, CONFIG_MAP), (ROLE_PATH, ROLE)]
    assert all("fieldManager=provisioner&force=true" in target for method, target, _ in ready.requests if method == "PATCH")
    assert set(ready.client_names) == {"client"}
    assert lines[-1] == "applied 2 objects"


def test_a_server_that_is_coming_up_is_waited_for(ready, patient, lines):
    ready.on("GET", "/readyz", (500, "not yet"), (403, {"message": "no roles yet"}), (200, "ok"))
    ready.on("PATCH", CONFIG_MAP_PATH, (404, {"message": 'namespaces "kube-system" not found'}), (409, {"message": "again"}), (201, {}))
    deploy.apply_all(ready.credentials, MANIFESTS, patient, lines.append)
    assert [path for path, _ in patches(ready)] == [CONFIG_MAP_PATH] * 3 + [ROLE_PATH]


def test_a_connection_that_is_closed_between_requests_is_made_again(ready, patient, lines):
    ready.close_after_each = True
    deploy.apply_all(ready.credentials, MANIFESTS, patient, lines.append)
    assert len(patches(ready)) == 2


@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_is_told_at_once_with_the_servers_words(ready, patient, lines, status):
    ready.on("PATCH", CONFIG_MAP_PATH, (status, {"message": "data: Invalid value"}))
    with pytest.raises(errors.UpstreamFailure) as caught:
        deploy.apply_all(ready.credentials, MANIFESTS, patient, lines.append)
    assert "ConfigMap a" in caught.value.message
    assert "data: Invalid value" in caught.value.message
    assert len(patches(ready)) == 1


def test_a_lasting_403_is_told_after_the_grace(ready, patient, lines, monkeypatch):
    monkeypatch.setattr(apply, "_GRACE_SECONDS", 0.0)
    ready.on("PATCH", CONFIG_MAP_PATH, (403, {"message": "forbidden"}))
    with pytest.raises(errors.UpstreamFailure, match="forbidden"):
        deploy.apply_all(ready.credentials, MANIFESTS, patient, lines.append)


def test_a_server_that_never_answers_ends_in_a_timeout_that_says_why(api, impatient, lines):
    credentials = dataclasses.replace(api.credentials, server="https://127.0.0.1:1")
    with pytest.raises(errors.Timeout) as caught:
        deploy.apply_all(credentials, MANIFESTS, impatient, lines.append)
    assert "the last answer" in caught.value.message
    assert "refused" in caught.value.message
    assert api.credentials.client_key not in str(caught.value)


def test_a_server_of_another_authority_is_not_talked_to(api, certificates):
    credentials = dataclasses.replace(api.credentials, ca_certificate=certificates["client"][0])
    with client.Client(credentials) as talk, pytest.raises(client.UnavailableError, match=r"(?i)certificate"):
        talk.get(NODE)
    assert api.requests == []


def node(name, status="True", message=""):
    return {"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status, "message": message}]}}


def test_nodes_are_counted_until_all_are_ready(api, patient, lines):
    api.on(
        "GET",
        NODE,
        (200, {"items": []}),
        (503, "gone"),
        (200, {"items": [node("a"), node("b", "False")]}),
        (200, {"items": [node("a"), node("b")]}),
    )
    deploy.wait_nodes_ready(api.credentials, 2, patient, lines.append)
    assert [line for line in lines if "of" in line] == ["0 of 2 nodes ready", "1 of 2 nodes ready", "2 of 2 nodes ready"]


def test_a_late_node_is_named_with_its_reason(api, impatient, lines):
    api.on(
        "GET",
        NODE,
        (200, {"items": [node("a"), node("b", "False", "cni plugin not initialized"), {"metadata": {"name": "c"}, "status": {}}]}),
    )
    with pytest.raises(errors.Timeout) as caught:
        deploy.wait_nodes_ready(api.credentials, 4, impatient, lines.append)
    for part in ("1 of 4 nodes ready", "only 3 of 4", "node b: cni plugin not initialized", "node c: has not reported"):
        assert part in caught.value.message
    assert caught.value.exit_code == 8


def daemonset(ready, updated, generation=1, observed=1):
    status = {"numberReady": ready, "updatedNumberScheduled": updated, "observedGeneration": observed}
    return {"metadata": {"generation": generation}, "status": status}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (daemonset(2, 2), (True, "anetd ready on 2 of 2 nodes")),
        (daemonset(2, 1), (False, "anetd ready on 1 of 2 nodes")),
        (daemonset(2, 2, generation=2), (False, "anetd ready on 0 of 2 nodes")),
        ({"metadata": {}}, (False, "anetd ready on 0 of 2 nodes")),
    ],
    ids=["all", "an old version runs", "the change is not seen yet", "nothing known"],
)
def test_the_agent_counts_where_its_current_version_is_ready(document, expected):
    assert wait.daemonset_progress(document, 2) == expected


def deployment(available, updated, condition="True", generation=1, observed=1):
    status = {"availableReplicas": available, "updatedReplicas": updated, "observedGeneration": observed}
    status["conditions"] = [{"type": "Available", "status": condition}]
    return {"metadata": {"generation": generation}, "spec": {"replicas": 2}, "status": status}


@pytest.mark.parametrize(
    ("document", "done"),
    [
        (deployment(1, 2), True),
        (deployment(0, 2), False),
        (deployment(2, 0), False),
        (deployment(2, 2, "False"), False),
        (deployment(2, 2, generation=2), False),
    ],
)
def test_dns_is_ready_when_one_pod_of_the_current_version_is(document, done):
    assert wait.deployment_progress(document)[0] is done


def test_a_pod_that_does_not_start_is_explained_by_its_state_and_its_warnings(api, impatient, lines):
    pod = {
        "metadata": {"name": "anetd-x"},
        "spec": {"nodeName": "demo-0"},
        "status": {
            "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [
                {
                    "name": "anetd",
                    "ready": False,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                    "lastState": {"terminated": {"exitCode": 1, "message": "no BTF"}},
                }
            ],
        },
    }
    event = {"involvedObject": {"kind": "Pod", "name": "anetd-x"}, "reason": "FailedMount", "message": "no bpffs", "lastTimestamp": "1"}
    other = {"involvedObject": {"kind": "Pod", "name": "stranger"}, "reason": "Other", "message": "unrelated"}
    api.on("GET", AGENT_PATH, (200, daemonset(0, 2)))
    api.on("GET", "/api/v1/namespaces/kube-system/pods", (200, {"items": [pod]}))
    api.on("GET", "/api/v1/namespaces/kube-system/events", (200, {"items": [other, event]}))
    with pytest.raises(errors.Timeout) as caught:
        deploy.wait_agent_ready(api.credentials, 2, impatient, lines.append)
    for part in ("0 of 2", "pod anetd-x on demo-0: CrashLoopBackOff: back-off 10s", "ended with 1: no BTF", "FailedMount: no bpffs"):
        assert part in caught.value.message
    assert "unrelated" not in caught.value.message


def crashing(restarts, *, state=None, name="anetd-x"):
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 80s"}}
    ended = {"terminated": {"exitCode": 1, "message": '{"message": "no BTF"}'}}
    container = {"name": "anetd", "ready": False, "restartCount": restarts, "state": state or waiting, "lastState": ended}
    return {"metadata": {"name": name}, "spec": {"nodeName": "demo-0"}, "status": {"containerStatuses": [container]}}


def agent_pods(api, *pods):
    api.on("GET", AGENT_PATH, (200, daemonset(0, 1)))
    api.on("GET", "/api/v1/namespaces/kube-system/pods", *((200, {"items": [pod]}) for pod in pods))
    api.on("GET", "/api/v1/namespaces/kube-system/events", (200, {"items": []}))


def test_an_agent_that_ends_again_and_again_is_not_waited_for(api, patient, lines):
    agent_pods(api, *(crashing(restarts) for restarts in range(5)))
    with pytest.raises(errors.UpstreamFailure) as caught:
        deploy.wait_agent_ready(api.credentials, 1, patient, lines.append)
    for part in ("restarted 4 times", "pod anetd-x on demo-0", "anetd ended with 1: no BTF"):
        assert part in caught.value.message
    assert caught.value.remedy
    assert caught.value.exit_code == 9


@pytest.mark.parametrize(
    "pods",
    [
        [crashing(7), crashing(10)],
        [crashing(0), crashing(3)],
        [crashing(0), crashing(4, state={"running": {}})],
        [crashing(0), crashing(9, name="anetd-of-the-next-version")],
        [crashing(0), crashing(9) | {"metadata": {"name": "anetd-x", "deletionTimestamp": "now"}}],
    ],
    ids=["restarts of an earlier create", "few restarts", "it runs again", "another pod's restarts", "it is being replaced"],
)
def test_an_agent_that_may_still_recover_is_waited_for(api, impatient, lines, pods):
    agent_pods(api, *pods)
    with pytest.raises(errors.Timeout):
        deploy.wait_agent_ready(api.credentials, 1, impatient, lines.append)


def test_a_pod_that_nobody_creates_is_explained_by_its_owners_warnings(api, impatient, lines):
    event = {
        "involvedObject": {"kind": "ReplicaSet", "name": "coredns-1"},
        "reason": "FailedCreate",
        "message": "forbidden",
        "eventTime": None,
    }
    api.on("GET", DNS_PATH, (200, deployment(0, 0)))
    api.on("GET", "/api/v1/namespaces/kube-system/pods", (200, {"items": []}))
    api.on("GET", "/api/v1/namespaces/kube-system/events", (200, {"items": [event]}))
    with pytest.raises(errors.Timeout, match="FailedCreate: forbidden"):
        deploy.wait_dns_ready(api.credentials, impatient, lines.append)


def test_an_unscheduled_pod_is_explained_by_the_scheduler():
    pod = {
        "metadata": {"name": "p"},
        "spec": {},
        "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}]},
    }
    assert wait.pod_reasons(pod) == ["pod p on no node: 0/2 nodes are available"]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ('{"message": "first"}\n{"level": "error", "message": "no BTF"}\n', "no BTF"),
        ("cut off at the beginn\nplain words\n\n", "plain words"),
        ('"a string"', '"a string"'),
        ("", ""),
    ],
)
def test_of_a_log_the_last_record_tells_why(log, expected):
    assert wait.last_words(log) == expected
