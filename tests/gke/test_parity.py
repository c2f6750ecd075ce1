"""For the same words gcloud and provisioner send the same request: both are caught in one run, and compared field by field."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud.container_v1 import types
from google.protobuf import json_format

from provisioner.cli import main
from provisioner.providers.gke import api
from tests.fakes.gke import Core, RestServer
from tests.gke.gcloud import Gcloud, needs_gcloud

CASES = yaml.safe_load(Path(__file__).with_name("parity.yaml").read_text())


def line(case: dict[str, Any], name: str) -> list[str]:
    return [name, "--location", case.get("location", "us-central1"), *shlex.split(case["flags"]), "--async"]


@pytest.fixture(scope="module")
def bodies(gcloud: Gcloud) -> dict[str, dict[str, Any]]:
    """Cluster's name -> the body of gcloud's request, for all cases."""
    core = Core()
    with RestServer(core) as server:
        for index, case in enumerate(CASES):
            command = "create-auto" if case.get("autopilot") else "create"
            ran = gcloud.run(server.url, "clusters", command, *line(case, f"case-{index}"))
            assert (ran.code == 0) is ("refused" not in case), f"{case['row']}: {ran.err}"
            assert case.get("refused", "") in ran.err
    return {body["cluster"]["name"]: body for body in core.bodies}


@needs_gcloud
@pytest.mark.parametrize(("index", "case"), list(enumerate(CASES)), ids=[case["row"] for case in CASES])
def test_gcloud_and_provisioner_send_equal_bodies(
    index: int,
    case: dict[str, Any],
    bodies: dict[str, Any],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"case-{index}"
    expected = flat(bodies[name])
    core = Core()
    with RestServer(core) as server:
        monkeypatch.setenv(api.ENDPOINT_VARIABLE, server.url)
        words = ["create-cluster", *line(case, name), "--provider", "gke", "--project", "demo", "--no-kubeconfig", "--output", "json"]
        words += ["--autopilot", "--dataplane-v2"] if case.get("autopilot") else []
        words += ["--allow", f"{case['allow']}=to compare what is sent"] if "allow" in case else []
        assert main.main([word for word in words if word != "--async"] + ["--dry-run"]) == 2
        planned = flat(json.loads(capsys.readouterr().out)["request"])
        code = main.main(words)
        assert code == (3 if "refused" in case else 0), capsys.readouterr().err
        assert case.get("refused", "") in capsys.readouterr().err
    differing = {key for key in planned.keys() | expected.keys() if planned.get(key) != expected.get(key)}
    assert differing == {f"cluster.{field}" for field in case.get("differs", {})}
    # What went over the wire says the same in the library's spelling: numbers for words.
    sent = next(request for method, request in core.requests if method == "create_cluster")
    assert sent == message({"parent": bodies[name]["parent"], "cluster": unflat(planned)})


@needs_gcloud
def test_every_row_was_compared(bodies: dict[str, Any]) -> None:
    assert set(bodies) == {f"case-{index}" for index in range(len(CASES))}
    assert len(CASES) >= 50


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists and empty mappings stay."""
    if isinstance(value, dict) and value:
        return {key: item for name, inner in value.items() for key, item in flat(inner, f"{path}.{name}" if path else name).items()}
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        return {key: item for inner in value for key, item in flat(inner, f"{path}[{inner['name']}]").items()}
    return {path: value}


def unflat(planned: dict[str, Any]) -> dict[str, Any]:
    """The cluster of a flattened request."""
    cluster: dict[str, Any] = {}
    for key, value in planned.items():
        if key == "parent":
            continue
        where = cluster
        *outer, last = key.removeprefix("cluster.").replace("nodePools[default-pool]", "nodePools:default-pool").split(".")
        for part in outer:
            where = where.setdefault(part, {})
        where[last] = value
    cluster["nodePools"] = [cluster.pop("nodePools:default-pool")]
    return cluster


def message(body: dict[str, Any]) -> Any:
    return json_format.ParseDict(body, types.CreateClusterRequest.pb()())
