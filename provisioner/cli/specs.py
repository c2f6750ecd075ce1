"""From a command's flags and --config to a ClusterSpec: reads the file, the spec's own module does the rest."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner import errors
from provisioner.cli.options import label_pairs

if TYPE_CHECKING:
    from provisioner.spec import ClusterSpec

# Parameter of a command -> place in the document, and the flag that errors name.
FLAGS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "name": (("metadata", "name"), "NAME"),
    "provider": (("spec", "provider"), "--provider"),
    "num_nodes": (("spec", "numNodes"), "--num-nodes"),
    "kubernetes_version": (("spec", "kubernetesVersion"), "--kubernetes-version"),
    "stack_type": (("spec", "stackType"), "--stack-type"),
    "pod_cidr": (("spec", "podCIDR"), "--pod-cidr"),
    "service_cidr": (("spec", "serviceCIDR"), "--service-cidr"),
    "pod_cidr_v6": (("spec", "podCIDRv6"), "--pod-cidr-v6"),
    "service_cidr_v6": (("spec", "serviceCIDRv6"), "--service-cidr-v6"),
    "node_subnet": (("spec", "nodeSubnet"), "--node-subnet"),
    "routing_mode": (("spec", "dataplane", "routingMode"), "--routing-mode"),
    "mtu": (("spec", "dataplane", "mtu"), "--mtu"),
    "masquerade": (("spec", "dataplane", "masquerade"), "--masquerade"),
    "non_masquerade_cidrs": (("spec", "dataplane", "nonMasqueradeCIDRs"), "--non-masquerade-cidr"),
    "admission": (("spec", "dataplane", "admission"), "--admission"),
    "dataplane_v2": (("spec", "dataplane", "version"), "--dataplane-v2"),
}


def spec_from(config: str | None, flags: Mapping[str, Any], found: Mapping[str, Any] | None = None) -> ClusterSpec:
    """`flags` holds the values of the parameters named in FLAGS, `labels` and `allow`; None and "" are flags that were not given.
    `found` is the document that stands in for a file where there is none.

    Raises `errors.NotFound` for a file that is not there, and what `load_spec` raises.
    """
    from provisioner.spec import Override, load_spec

    given = {name: value for name, value in flags.items() if name in FLAGS and not _is_absent(value)}
    overrides = [Override(*_place(name, value)) for name, value in given.items()]
    if flags.get("masquerade") is False:
        overrides.append(Override(FLAGS["masquerade"][0], False, "--no-masquerade"))
    if flags.get("allow"):
        from provisioner.compatibility.allowances import split

        overrides += [Override(("spec", "allow", rule), reason, "--allow") for rule, reason in split(flags["allow"]).items()]
    for key, value in label_pairs(flags.get("labels") or []).items():
        overrides.append(Override(("metadata", "labels", key), value, "--label"))
    if config is None and found is not None:
        return load_spec(json.dumps(found), source="the cluster", overrides=overrides)
    text = None if config is None else _read(config)
    return load_spec(text, source="stdin" if config == "-" else config or "", overrides=overrides)


def _is_absent(value: Any) -> bool:
    """Not by comparison alone: 0 is a number that was given, and equals False."""
    return value is None or value is False or value in ("", [])


def _place(name: str, value: Any) -> tuple[tuple[str, ...], Any, str]:
    path, flag = FLAGS[name]
    return path, "v2" if name == "dataplane_v2" else value, flag


def _read(config: str) -> str:
    try:
        return sys.stdin.read() if config == "-" else Path(config).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise errors.NotFound(
            f"the file {config} does not exist", remedy="Give the path of a cluster's document.", field="--config"
        ) from None
    except UnicodeDecodeError:
        raise errors.SpecInvalid(
            f"{config} is not text in UTF-8", remedy="Write the document as YAML in UTF-8.", field="--config"
        ) from None
    except OSError as error:
        raise errors.SpecInvalid(
            f"{config} cannot be read: {error.strerror}", remedy="Give a file that can be read.", field="--config"
        ) from None
