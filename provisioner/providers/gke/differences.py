"""In what a cluster that is there differs from the one asked for, and what can be done about each difference. Pure.

Only what was asked for is compared: what a spec does not say is GKE's or somebody else's. Both sides are the API's JSON, in which a field
that is left out has its default. What GKE answers in another form than it was asked in is compared in its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from provisioner.providers.gke.request import Json

EXPIRY_LABEL = "provisioner-expires-at"


class Change(StrEnum):
    """Whether GKE can make the difference go away."""

    IN_PLACE = "in-place"
    RECREATE_POOL = "recreate-pool"
    RECREATE = "recreate"
    NEVER = "never"


CHANGE_WORDS: Mapping[Change, str] = {
    Change.IN_PLACE: "can be changed in place",
    Change.RECREATE_POOL: "only by another node pool",
    Change.RECREATE: "only by recreating the cluster",
    Change.NEVER: "cannot be had",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of the cluster: dotted, pools by their names, as in nodePools[default-pool].config.machineType."""

    field: str
    wanted: Any
    found: Any
    change: Change

    def data(self) -> Json:
        return {"field": self.field, "wanted": self.wanted, "found": self.found, "change": self.change.value}

    def __str__(self) -> str:
        return f"{self.field} is {_shown(self.found)}, asked for {_shown(self.wanted)}: {CHANGE_WORDS[self.change]}"


# Said in a request and never answered: they shape what is made and are gone.
_INPUT_ONLY = {"name", "ipAllocationPolicy.createSubnetwork", "ipAllocationPolicy.subnetworkName", "ipAllocationPolicy.nodeIpv4CidrBlock"}

# Longest prefix decides. Sources: which fields ClusterUpdate has, and what GKE's documentation calls immutable.
_CHANGES: Mapping[str, Change] = {
    "": Change.RECREATE,
    "addonsConfig": Change.IN_PLACE,
    "autopilot": Change.RECREATE,
    "controlPlaneEndpointsConfig": Change.IN_PLACE,
    "initialClusterVersion": Change.IN_PLACE,
    "ipAllocationPolicy": Change.RECREATE,
    "ipAllocationPolicy.stackType": Change.IN_PLACE,
    "locations": Change.IN_PLACE,
    "loggingConfig": Change.IN_PLACE,
    "monitoringConfig": Change.IN_PLACE,
    "networkConfig": Change.IN_PLACE,
    "networkConfig.datapathProvider": Change.RECREATE,
    "nodePoolDefaults": Change.IN_PLACE,
    "nodePools": Change.IN_PLACE,
    "nodePools.config": Change.RECREATE_POOL,
    "nodePools.config.diskSizeGb": Change.IN_PLACE,
    "nodePools.config.diskType": Change.IN_PLACE,
    "nodePools.config.gvnic": Change.IN_PLACE,
    "nodePools.config.imageType": Change.IN_PLACE,
    "nodePools.config.labels": Change.IN_PLACE,
    "nodePools.config.machineType": Change.IN_PLACE,
    "nodePools.config.resourceLabels": Change.IN_PLACE,
    "nodePools.config.tags": Change.IN_PLACE,
    "nodePools.config.taints": Change.IN_PLACE,
    "nodePools.config.workloadMetadataConfig": Change.IN_PLACE,
    "nodePools.maxPodsConstraint": Change.RECREATE_POOL,
    "releaseChannel": Change.IN_PLACE,
    "resourceLabels": Change.IN_PLACE,
    "shieldedNodes": Change.IN_PLACE,
    "verticalPodAutoscaling": Change.IN_PLACE,
    "workloadIdentityConfig": Change.IN_PLACE,
}
# Switches that GKE turns on in place and off only with a new cluster.
_ONE_WAY = {"networkConfig.enableFqdnNetworkPolicy", "networkConfig.enableL4ilbSubsetting"}


def differences(wanted: Json, found: Json) -> Sequence[Difference]:
    """`wanted` is a request's cluster in canonical form, `found` the cluster; sorted by field."""
    skipped = {"nodePools"} if _autopilot(found) and _autopilot(wanted) else set()
    told = _mapping({key: value for key, value in wanted.items() if key not in skipped}, found, "", "", found)
    return sorted(told, key=lambda difference: difference.field)


def _autopilot(cluster: Json) -> bool:
    return bool(cluster.get("autopilot", {}).get("enabled"))


def _mapping(wanted: Mapping[str, Any], found: Mapping[str, Any], path: str, shown: str, cluster: Json) -> Iterable[Difference]:
    for key, value in wanted.items():
        here = f"{path}.{key}" if path else key
        named = f"{shown}.{key}" if shown else key
        if here in _INPUT_ONLY or key == EXPIRY_LABEL:
            continue
        other = found.get(key)
        if here == "nodePools":
            yield from _pools(value, other or [], cluster)
        elif isinstance(value, Mapping):
            yield from _mapping(value, other if isinstance(other, Mapping) else {}, here, named, cluster)
        elif not _equal(here, value, found, key, cluster):
            yield Difference(named, value, _told(here, found, key, cluster), _change(here, value, cluster))


def _pools(wanted: Sequence[Json], found: Sequence[Json], cluster: Json) -> Iterable[Difference]:
    there = {pool.get("name"): pool for pool in found}
    for pool in wanted:
        shown = f"nodePools[{pool['name']}]"
        other = there.get(pool["name"])
        if other is None:
            yield Difference(shown, "there", None, Change.IN_PLACE)
            continue
        # An autoscaler has its own mind about how many there are.
        skipped = {"name"} | ({"initialNodeCount"} if pool.get("autoscaling", {}).get("enabled") else set())
        yield from _mapping({key: value for key, value in pool.items() if key not in skipped}, other, "nodePools", shown, cluster)


def _equal(path: str, wanted: Any, found: Mapping[str, Any], key: str, cluster: Json) -> bool:
    other = _told(path, found, key, cluster)
    if not wanted and not other:
        return True
    compare = _MEANINGS.get(path)
    if compare is not None:
        return compare(wanted, other)
    if isinstance(wanted, list):
        return _as_set(wanted) == _as_set(other or [])
    return bool(wanted == other)


def _told(path: str, found: Mapping[str, Any], key: str, cluster: Json) -> Any:
    if path == "initialClusterVersion":
        return cluster.get("currentMasterVersion") or found.get(key)
    return found.get(key)


def _same_version(wanted: str, found: Any) -> bool:
    return wanted in {"latest", "-"} or str(found) == wanted or str(found).startswith((f"{wanted}.", f"{wanted}-"))


def _same_tail(wanted: str, found: Any) -> bool:
    """GKE answers with a network's name or its whole path."""
    return wanted.rpartition("/")[2] == str(found).rpartition("/")[2]


def _same_range(wanted: str, found: Any) -> bool:
    return str(found).endswith(wanted) if wanted.startswith("/") else wanted == found


_MEANINGS: Mapping[str, Callable[[Any, Any], bool]] = {
    "initialClusterVersion": _same_version,
    "nodePools.version": _same_version,
    "network": _same_tail,
    "subnetwork": _same_tail,
    "clusterIpv4Cidr": _same_range,
    "ipAllocationPolicy.clusterIpv4CidrBlock": _same_range,
    "ipAllocationPolicy.servicesIpv4CidrBlock": _same_range,
}


def _as_set(items: Sequence[Any]) -> set[str]:
    return {str(sorted(item.items())) if isinstance(item, Mapping) else str(item) for item in items}


def _change(path: str, wanted: Any, cluster: Json) -> Change:
    dataplane_v2 = cluster.get("networkConfig", {}).get("datapathProvider") == "ADVANCED_DATAPATH"
    if path.startswith("networkPolicy.") and dataplane_v2:
        return Change.NEVER  # the Calico add-on beside Dataplane V2
    if _autopilot(cluster) and path in {"networkConfig.enableIntraNodeVisibility", "networkConfig.inTransitEncryptionConfig"}:
        return Change.NEVER  # Autopilot decides
    if path in _ONE_WAY and not wanted:
        return Change.RECREATE
    parts = path.split(".")
    return next(_CHANGES[prefix] for end in range(len(parts), -1, -1) if (prefix := ".".join(parts[:end])) in _CHANGES)


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)
