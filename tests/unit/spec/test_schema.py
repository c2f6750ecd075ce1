"""The JSON Schema says what the loader takes."""

from __future__ import annotations

import json

from provisioner.spec import ClusterSpec, json_schema


def test_the_schema_is_json_and_names_the_document_s_fields() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert schema["required"] == ["metadata"]
    body = schema["$defs"]["Body"]
    assert set(body["properties"]) == {
        "provider", "numNodes", "kubernetesVersion", "stackType", "podCIDR", "serviceCIDR", "podCIDRv6", "serviceCIDRv6",
        "nodeSubnet", "dataplane", "allow",
    }  # fmt: skip
    assert body["additionalProperties"] is False
    assert body["properties"]["numNodes"]["maximum"] == 20


def test_every_default_of_the_schema_is_in_the_default_document() -> None:
    document = ClusterSpec.make("demo", stack_type="ipv4-ipv6").to_document()
    for name, field in json_schema()["$defs"]["Body"]["properties"].items():
        if field.get("default") is not None and name != "stackType":
            assert document["spec"][name] == field["default"], name


def test_every_field_is_described() -> None:
    for definition in ("Body", "Dataplane", "Metadata"):
        for name, field in json_schema()["$defs"][definition]["properties"].items():
            assert field.get("description") or "$ref" in field, name
