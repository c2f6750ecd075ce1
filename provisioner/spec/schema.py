"""The JSON Schema of a cluster's document, for editors and CI."""

from __future__ import annotations

from typing import Any

from provisioner.spec.models import ClusterSpec


def json_schema() -> dict[str, Any]:
    """Draft 2020-12. What spans fields (overlaps, room for the nodes) is beyond a schema and checked on loading."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://provisioner.dev/schemas/v1alpha1/cluster.json",
        **ClusterSpec.model_json_schema(by_alias=True),
        "title": "Cluster",
    }
