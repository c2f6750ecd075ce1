"""The flags for GKE are the fields of the spec, each in gcloud's spelling, and each reaches the document."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from provisioner import errors
from provisioner.cli.gke_flags import GKE_FLAGS, Kind, document_values
from provisioner.spec import ClusterSpec, Override, load_spec
from provisioner.spec.gke import Gke

# What only a file can say.
FILE_ONLY = {"node_pools"}
VALUES: dict[Kind, Any] = {
    Kind.TEXT: "x",
    Kind.WORD: "7",
    Kind.NUMBER: 9,
    Kind.SWITCH: True,
    Kind.OPPOSED: False,
    Kind.LIST: "a,b",
    Kind.PAIRS: "a=b",
    Kind.RULES: "deny",
}


def test_every_field_has_its_flag_and_every_flag_its_field() -> None:
    assert {flag.name for flag in GKE_FLAGS} == set(Gke.model_fields) - FILE_ONLY
    assert {flag.field for flag in GKE_FLAGS} == {Gke.model_fields[flag.name].alias for flag in GKE_FLAGS}


def test_no_flag_is_spelled_twice() -> None:
    spelled = [name for flag in GKE_FLAGS for names in flag.flags for name in names.split("/")]
    assert len(spelled) == len(set(spelled))
    assert all(re.fullmatch(r"-m|--[a-z0-9-]+", name) for name in spelled)


@pytest.mark.parametrize("flag", GKE_FLAGS, ids=lambda flag: flag.name)
def test_each_flag_reaches_the_document(flag: Any) -> None:
    value, shown = document_values({flag.name: VALUES[flag.kind]})[flag.field]
    assert shown.startswith("--")
    assert value not in (None, "", [], {})


def test_an_error_names_the_flag() -> None:
    overrides = [Override(("metadata", "name"), "demo", "NAME"), Override(("spec", "provider"), "gke", "--provider")]
    values = document_values({"release_channel": "daily"})
    overrides += [Override(("spec", "gke", field), value, flag) for field, (value, flag) in values.items()]
    with pytest.raises(errors.SpecInvalid, match=r"--release-channel: spec\.gke\.releaseChannel is 'daily'"):
        load_spec(None, overrides=overrides)


def test_a_document_for_gke_says_no_more_than_was_said() -> None:
    document = {
        "apiVersion": "provisioner.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "demo"},
        "spec": {"provider": "gke", "dataplane": {"version": "v2"}, "gke": {"enableFqdnNetworkPolicy": False, "autopilot": True}},
    }  # fmt: skip
    assert ClusterSpec.from_document(document).to_document() == document


def test_help_and_a_dry_look_at_the_spec_load_nothing_of_google_s() -> None:
    code = "import sys; from provisioner.cli import main; main.main(['create-cluster', '--help']); main.main(['schema']); print('google' in sys.modules, 'grpc' in sys.modules, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.split() == ["False", "False"]
    assert "--enable-fqdn-network-policy" in ran.stdout
    assert json.dumps("releaseChannel") in ran.stdout
