"""A trace against an API server that is played: how the tracers are started, waited for, heard, kept alive and removed."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import pytest

from provisioner import errors
from provisioner.deploy.client import Client
from provisioner.deploy.stream import Ended, Line
from provisioner.trace import job, run
from tests.fakes.websocket import STATUS, STDERR, STDOUT

PODS = f"/api/v1/namespaces/{job.NAMESPACE}/pods"
NOT_YET = {"status": "Failure", "message": "container tracer not found in pod", "code": 500}


class Cluster:
    """Jobs that are applied get a pod each; attaching is `api.run`."""

    def __init__(self, api) -> None:
        self.api = api
        self.jobs: dict[str, dict] = {}
        self.deleted: list[str] = []
        self.pod = {"metadata": {"name": "p"}, "status": {"phase": "Pending"}}
        self.pods_seen = 0
        api.answer = self.answer

    def answer(self, method, target, body):
        path = target.split("?")[0]
        name = path.rpartition("/")[2]
        if path.startswith(job.PATH) and method == "PATCH":
            self.jobs[name] = body
            return 200, body
        if path.startswith(job.PATH) and method == "DELETE":
            self.deleted.append(name)
            return 200, {}
        if path == PODS:
            self.pods_seen += 1  # the Job's controller takes its time
            wanted = target.rpartition("%3D")[2]
            return 200, {"items": [{"metadata": {"name": f"{wanted}-pod"}}] if self.pods_seen > 2 else []}
        if path.startswith(PODS):
            return 200, self.pod
        return 404, {"message": path}


@pytest.fixture
def cluster(api, monkeypatch):
    monkeypatch.setattr(run, "_LOOK_SECONDS", 0.01)
    return Cluster(api)


@pytest.fixture
def talk(api):
    with Client(api.credentials) as client:
        yield client


def request(*nodes, seconds=0.0):
    return run.Request("drops", "image:1", nodes, {"port": 53}, seconds)


def speaks(channels, *documents):
    channels.send(STDOUT, b"".join(json.dumps(document).encode() + b"\n" for document in documents))


def words(channels):
    """What the tracer hears on its standard input, in a list that grows."""
    heard: list[bytes] = []

    def listen():
        with contextlib.suppress(OSError, ValueError):  # of a connection that is closed at this end
            for _, frame in channels.heard():
                if frame[:1] == b"\0":
                    heard.append(frame[1:])

    threading.Thread(target=listen, daemon=True).start()
    return heard


def until(condition, within=30.0):
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_tracer_is_started_attached_to_as_soon_as_it_runs_heard_and_removed(cluster, api, talk, patient):
    attempts, heard = [], []

    def attach(command, channels):
        attempts.append(command)
        if len(attempts) < 3:
            channels.send(STDERR, b"")
            channels.send(STATUS, json.dumps(NOT_YET).encode())
            return
        heard.append(words(channels))
        speaks(channels, {"type": "ready"}, {"type": "drop"})
        until(lambda: b"end\n" in heard[0])
        speaks(channels, {"type": "end"})
        channels.end()

    api.run = attach
    said = []
    with run.Tracing(talk, request("node-0", seconds=30), patient) as tracing:
        for event in tracing.events(0.1):
            if isinstance(event, Line):
                said.append((event.source, json.loads(event.text)["type"]))
            if said and said[-1][1] == "drop":
                tracing.finish()
    assert said == [("node-0", "ready"), ("node-0", "drop"), ("node-0", "end")]
    assert attempts == [None] * 3
    assert heard[0][0] == b"begin\n"
    (document,) = cluster.jobs.values()
    assert document["spec"]["template"]["spec"]["nodeName"] == "node-0"
    assert document["spec"]["template"]["spec"]["containers"][0]["args"] == ["drops", '{"port":53}']
    assert 30 < document["spec"]["activeDeadlineSeconds"] < 3600
    assert cluster.deleted == list(cluster.jobs)


def test_a_tracer_hears_that_the_command_is_still_there(cluster, api, talk, patient, monkeypatch):
    monkeypatch.setattr(run, "_BEAT_SECONDS", 0.02)
    done = threading.Event()

    def attach(_command, channels):
        heard = words(channels)
        until(lambda: heard.count(b"\n") >= 3)
        done.set()
        speaks(channels, {"type": "end"})
        channels.end()

    api.run = attach
    with run.Tracing(talk, request("node-0"), patient) as tracing:
        list(tracing.events(0.1))
    assert done.is_set()


def test_what_keeps_one_node_from_tracing_does_not_keep_the_others(cluster, api, talk, patient, monkeypatch):
    monkeypatch.setattr(run, "_STATUS_SECONDS", 0.0)
    cluster.pod = {"status": {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}]}}
    first = threading.Lock()

    def attach(_command, channels):
        if not first.acquire(blocking=False):
            channels.send(STATUS, json.dumps(NOT_YET).encode())
            return
        speaks(channels, {"type": "ready"}, {"type": "end"})
        channels.end()

    api.run = attach
    with run.Tracing(talk, request("node-0", "node-1"), patient) as tracing:
        ended = [event for event in tracing.events(None) if isinstance(event, Ended)]
    assert sorted(str(event.failure) for event in ended) == ["ErrImagePull: no such image", "None"]
    assert sorted(cluster.deleted) == sorted(cluster.jobs)


def test_a_tracer_that_does_not_come_to_run_in_time_is_said_and_removed(cluster, api, talk, impatient):
    impatient.left = 0
    api.run = lambda _command, channels: channels.send(STATUS, json.dumps(NOT_YET).encode())
    with run.Tracing(talk, request("node-0"), impatient) as tracing:
        (ended,) = [event for event in tracing.events(None) if isinstance(event, Ended)]
    assert "took too long" in str(ended.failure)
    assert cluster.deleted == list(cluster.jobs)


NODES = {
    "items": [
        {"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}
        for name, ready in (("a", "True"), ("b", "False"), ("c", "True"))
    ]
}


def test_the_nodes_are_those_that_are_named_or_all_that_are_ready(api, talk):
    api.on("GET", "/api/v1/nodes", (200, NODES))
    assert run.nodes_of(talk, ()) == ["a", "c"]
    assert run.nodes_of(talk, ("c", "c")) == ["c"]
    with pytest.raises(errors.NotFound, match="no node d"):
        run.nodes_of(talk, ("d",))
    with pytest.raises(errors.Conflict, match="b is not ready"):
        run.nodes_of(talk, ("b",))


def test_a_pod_is_named_with_or_without_its_namespace(api, talk):
    pod = {"metadata": {"namespace": "default", "name": "a"}, "spec": {}, "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}
    api.on("GET", "/api/v1/namespaces/default/pods/a", (200, pod))
    assert run.pod_of(talk, "a") == run.pod_of(talk, "default/a") == ("default/a", ["10.0.0.1", "fd00::1"])
    with pytest.raises(errors.NotFound, match="no pod b in other"):
        run.pod_of(talk, "other/b")
    pod["spec"] = {"hostNetwork": True, "nodeName": "n"}
    with pytest.raises(errors.Usage, match="on its node's network") as found:
        run.pod_of(talk, "a")
    assert "--node n" in found.value.remedy


def test_what_a_killed_command_left_before_its_tracer_ran_is_swept(cluster, api, talk):
    def left(name, created, ready):
        return {"metadata": {"name": name, "creationTimestamp": f"2030-01-01T00:{created}:00Z"}, "status": {"ready": ready}}

    listed = {"items": [left("old", "00", 0), left("running", "00", 1), left("young", "59", 0)]}
    answer = cluster.answer
    api.answer = lambda method, target, body: (
        (200, listed) if method == "GET" and target.startswith(job.PATH) else answer(method, target, body)
    )
    now = 1893456000.0 + 3600  # 2030-01-01T01:00:00Z
    assert run.sweep(talk, now) == 1
    assert cluster.deleted == ["old"]


def test_names_come_in_a_thread_and_again_when_a_pods_is_unknown(api, talk, monkeypatch):
    monkeypatch.setattr(run, "_NAMES_SECONDS", 0.01)

    def pods(*addresses):
        return {"items": [{"metadata": {"namespace": "d", "name": a}, "spec": {}, "status": {"podIPs": [{"ip": a}]}} for a in addresses]}

    api.on("GET", "/api/v1/pods", (200, pods("10.0.0.1")), (200, pods("10.0.0.1", "10.0.0.2")))
    api.on("GET", "/api/v1/services", (200, {"items": []}))
    api.on("GET", "/api/v1/nodes", (200, {"items": [{"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.0.0.0/24"]}}]}))
    lookup = run.Lookup(talk)

    def name(address):
        document = {"protocol": "TCP", "source": {"address": address, "port": 1, "pod": ""}}
        return lookup.name_ends(document)["source"]["pod"]

    until(lambda: name("10.0.0.1") == "d/10.0.0.1")
    assert name("192.0.2.1") == ""
    assert len([target for _, target, _ in api.requests if target.startswith("/api/v1/pods")]) == 1
    monkeypatch.setattr(run, "_ASK_AGAIN_SECONDS", 0.01)
    until(lambda: name("10.0.0.2") == "d/10.0.0.2")
