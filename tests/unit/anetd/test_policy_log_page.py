"""docs/policy-logging.md says what the log does: its records are such as are written, its reasons those that are counted."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from agent.datapath.policy_rows import Direction
from agent.policylog.counts import DROP_REASONS, Counts
from agent.policylog.form import Clock
from agent.policylog.names import Annotations, Directory, Numbers
from agent.policylog.pipeline import Pipeline
from agent.policylog.settings import INVALID, UPDATED, network_logging
from agent.watch.policy_records import ALLOW_LOG_ANNOTATION, DENY_LOG_ANNOTATION, Logging, Pod
from agent.watch.records import Key, Node

from .verdicts import verdict

PAGE = (Path(__file__).parents[3] / "docs" / "policy-logging.md").read_text()
RECORDS = re.findall(r"^```json\n(\{.*\})\n```$", PAGE, re.MULTILINE)
NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1}


def test_there_is_a_record_of_each_kind() -> None:
    found = [json.loads(text) for text in RECORDS]
    kinds = {(each["disposition"], each["connection"]["direction"]) for each in found}
    assert kinds == {(word, way) for word in ("allow", "deny") for way in ("ingress", "egress")}
    assert {each["connection"]["protocol"] for each in found} == set(NUMBERS)
    assert {each["src"].get("workload_kind") for each in found} >= {"Pod", "Node"}
    assert any("instance" in each["dest"] for each in found)
    assert any(":" in each["connection"]["src_ip"] for each in found)
    assert any(each["count"] > 1 for each in found)
    assert {"policies" in each for each in found if each["disposition"] == "deny"} == {True, False}


def learn(directory: Directory, end: dict[str, Any], address: str) -> None:
    if "pod_name" in end:
        key = Key(end["pod_namespace"], end["pod_name"])
        workload = end["workload_kind"], end["workload_name"]
        directory.take_pods({key: Pod(key, "", (), (ip_address(address),), "", workload=workload)}, {}, 0)
    elif "node_name" in end:
        directory.take_nodes({Key("", end["node_name"]): Node(end["node_name"], (), (ip_address(address),))}, 0)


@pytest.mark.parametrize("text", RECORDS)
def test_a_record_of_the_page_is_what_would_be_written(text: str) -> None:
    record = json.loads(text)
    connection, allowed = record["connection"], record["disposition"] == "allow"
    directory, annotations, sets = Directory(), Annotations(), Numbers()
    for end, address in (("src", "src_ip"), ("dest", "dest_ip")):
        learn(directory, record[end], connection[address])
    policies = [Key(row["namespace"], row["name"]) for row in record.get("policies", ())]
    annotations.rules.learn([1], lambda _: policies)
    sets.learn([7], lambda _: policies)
    seconds, _, fraction = record["timestamp"].removesuffix("Z").partition(".")
    time = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp()) * 10**9 + int(f"{fraction:0<9}")
    raw = verdict(
        connection["src_ip"],
        connection["dest_ip"],
        (connection.get("src_port", 0), connection.get("dest_port", 0)),
        NUMBERS[connection["protocol"]],
        direction=Direction[connection["direction"].upper()],
        rule=int(allowed),
        count=record["count"],
        time=time,
    )
    pipeline = Pipeline(record["node_name"], directory, annotations, Counts(), sets=sets)
    pipeline.configure(Logging(allow=True, deny=True))
    lines = pipeline.feed([raw], time, Clock(0)) + pipeline.feed([], time + 6 * 10**9, Clock(0))
    assert [line.text for line in lines] == [f"{text}\n"]


def test_the_page_names_what_there_is() -> None:
    reasons = re.findall(r"^\| (`[a-z_`, ]+`) \|", PAGE.partition("## What is lost")[2], re.MULTILINE)
    assert {reason for row in reasons for reason in re.findall(r"[a-z_]+", row)} == set(DROP_REASONS)
    metrics = {line.split()[2] for line in Counts().render() if line.startswith("# TYPE")}
    assert {f"policy_logging{name}" for name in re.findall(r"`(?:policy_logging)?(_[a-z_]+)`", PAGE)} == metrics
    for word in (ALLOW_LOG_ANNOTATION, DENY_LOG_ANNOTATION, INVALID, UPDATED, "PolicyLogNotWritten"):
        assert word in PAGE


def test_the_object_of_the_page_is_one_that_is_followed() -> None:
    import yaml

    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert network_logging(yaml.safe_load(text)).logging == Logging(allow=True, deny=True, delegate_deny=True)
