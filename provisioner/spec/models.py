"""The pydantic models of the document. They take what a document may say, fill in the defaults and refuse the rest.

Invariant: an instance is valid. What pydantic cannot say of a single field (networks against each other) is checked when the whole
is made, and told through `problems_of` with the place in the document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Network, IPv6Network, NetmaskValueError, ip_interface, ip_network
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from provisioner.spec.fields import GATE, WHOLE, Model, choice, invalid
from provisioner.spec.gke import Gke
from provisioner.spec.gke_checks import gke_problems
from provisioner.spec.networks import IPNetwork, Problem, network_problems

API_VERSION: Final = "provisioner.dev/v1alpha1"
KIND: Final = "Cluster"
DEFAULT_KUBERNETES_VERSION = "1.34.4"
MAX_NAME_LENGTH = 40
MAX_NODES = 20
# Of one pool and zone: what gcloud puts into a pool before it makes another.
MAX_NODES_GKE = 1000
# IPv6 asks every link to carry 1280 octets.
MIN_MTU, MAX_MTU = 1280, 65535

_ALLOW = "spec.allow"
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_VERSION = re.compile(r"v?(\d+\.\d+\.\d+)")


class StackType(StrEnum):
    """Which address families pods and Services have."""

    IPV4 = "ipv4"
    IPV4_IPV6 = "ipv4-ipv6"


class RoutingMode(StrEnum):
    """How a packet reaches a pod on another node: routed by the nodes' own link, or in a VXLAN tunnel."""

    NATIVE = "native"
    VXLAN = "vxlan"


class AdmissionMode(StrEnum):
    """What the API server does with objects that the dataplane would ignore: refuse them, warn, or only write it to its audit log."""

    DENY = "deny"
    WARN = "warn"
    OFF = "off"


class LoadBalancerMode(StrEnum):
    """Who answers a client outside whose backend is not on the node it asked: that node, or the backend's node directly."""

    SNAT = "snat"
    DSR = "dsr"


class ProviderName(StrEnum):
    """Where clusters are made."""

    LOCAL = "local"
    GKE = "gke"


def _name(value: object) -> object:
    if not isinstance(value, str):
        raise invalid(f"is {value!r}, which is not text", "Put the name in quotes.")
    if not value:
        raise invalid("is empty", "Give the cluster a name.")
    if len(value) > MAX_NAME_LENGTH:
        raise invalid(
            f"{value!r} has {len(value)} characters, and at most {MAX_NAME_LENGTH} are possible",
            "Shorten it: node names are made from it.",
        )
    if not _DNS_LABEL.fullmatch(value):
        raise invalid(
            f"{value!r} is not a DNS-1123 label",
            "Use lower-case letters, digits and '-', beginning and ending with a letter or a digit.",
        )
    return value


def _version(value: object) -> object:
    if not isinstance(value, str):
        raise invalid(f"is {value!r}, which YAML reads as a number", f'Write all three parts in quotes: "{DEFAULT_KUBERNETES_VERSION}".')
    match = _VERSION.fullmatch(value)
    if match is None:
        raise invalid(f"{value!r} is not a version", f"Write all three parts, as in {DEFAULT_KUBERNETES_VERSION}.")
    return match[1]


def _dataplane_version(value: object) -> object:
    if value != "v2":
        raise invalid(
            f"is {value!r}: there is no other dataplane here than v2",
            "Set it to v2, or give --dataplane-v2.",
            GATE,
        )
    return value


def _network(value: object, family: int | None) -> IPNetwork:
    if isinstance(value, IPv4Network | IPv6Network):
        network: IPNetwork = value
    else:
        if not isinstance(value, str):
            raise invalid(f"is {value!r}, which is not a network", 'Write it as text, as in "10.244.0.0/16".')
        if "/" not in value:
            raise invalid(f"{value!r} has no prefix length", "Write address/length, as in 10.244.0.0/16.")
        try:
            network = ip_network(value, strict=False)
        except (AddressValueError, NetmaskValueError, ValueError):
            raise invalid(f"{value!r} is not a network", "Write address/length, as in 10.244.0.0/16 or fd00:10:244::/56.") from None
        if ip_interface(value).ip != network.network_address:
            raise invalid(f"{value!r} is an address inside a network", f"Write the network itself: {network}.")
    if family is not None and network.version != family:
        raise invalid(f"{network} is IPv{network.version}", f"An IPv{family} network belongs here.")
    return network


def _labels(value: object) -> object:
    if not isinstance(value, Mapping):
        raise invalid("is not a mapping of names to values", "Write one `name: value` a line.")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise invalid(f"{key!r}: {text!r} is not text", "Put names and values in quotes.")
        prefix, slash, name = key.rpartition("/")
        if (slash and (len(prefix) > 253 or not _LABEL_PREFIX.fullmatch(prefix))) or not _LABEL_NAME.fullmatch(name):
            raise invalid(f"{key!r} is not a label's name", "Use [PREFIX/]NAME of letters, digits, '-', '_' and '.', the name 63 at most.")
        if text and not _LABEL_NAME.fullmatch(text):
            raise invalid(f"{key}: {text!r} is not a label's value", "Use at most 63 letters, digits, '-', '_' and '.'.")
    return value


def _allowances(value: object) -> object:
    if not isinstance(value, Mapping):
        raise invalid("is not a mapping of rules to reasons", "Write one `rule: reason` a line.")
    for rule, reason in value.items():
        if not isinstance(rule, str) or not isinstance(reason, str) or not reason.strip():
            raise invalid(f"has no reason for {rule!r}", "Write why the rule may pass, as text, for whoever asks later.")
    return value


CIDRv4 = Annotated[IPv4Network, BeforeValidator(lambda value: _network(value, 4))]
CIDRv6 = Annotated[IPv6Network, BeforeValidator(lambda value: _network(value, 6))]
CIDR = Annotated[IPv4Network | IPv6Network, BeforeValidator(lambda value: _network(value, None))]


class Dataplane(Model):
    """The node agent's part."""

    version: Annotated[Literal["v2"], BeforeValidator(_dataplane_version)] = Field("v2", description="The only one there is.")
    routing_mode: Annotated[RoutingMode, choice(RoutingMode)] = Field(
        RoutingMode.NATIVE, description="native: the nodes share a link and route to each other; vxlan: pods' packets travel in a tunnel."
    )
    mtu: StrictInt | None = Field(
        None, ge=MIN_MTU, le=MAX_MTU, description="Of the pods' devices; by default what the node's device carries."
    )
    masquerade: StrictBool = Field(default=True, description="Whether pods reach the outside behind their node's address.")
    non_masquerade_cidrs: tuple[CIDR, ...] = Field(
        (), alias="nonMasqueradeCIDRs", description="Destinations outside the cluster that see the pods' own addresses."
    )
    admission: Annotated[AdmissionMode, choice(AdmissionMode)] = Field(
        AdmissionMode.DENY,
        description="What happens to objects that the dataplane would ignore: deny, warn, or off (in the audit log only).",
    )
    socket_lb: StrictBool = Field(
        default=True,
        alias="socketLB",
        description="Whether Services are translated at the socket where that is possible, not packet by packet.",
    )
    load_balancer_mode: Annotated[LoadBalancerMode, choice(LoadBalancerMode)] = Field(
        LoadBalancerMode.SNAT,
        description="snat: the node that a client outside asked answers it; dsr: the backend's node does, and sees the client's address.",
    )
    load_balancer_pool: tuple[CIDR, ...] | None = Field(
        None,
        description="Addresses for Services of type LoadBalancer, within the nodes' network; by default a part of it, with [] none.",
    )
    policy_log_deny_policies: StrictBool = Field(
        default=False,
        description="Whether the policy log's denials name the policies that isolate the pod; GKE's do not.",
    )


class Metadata(Model):
    """Name and labels."""

    name: Annotated[StrictStr, BeforeValidator(_name)] = Field(
        description="A DNS-1123 label.", max_length=MAX_NAME_LENGTH, pattern=f"^{_DNS_LABEL.pattern}$"
    )
    labels: Annotated[dict[StrictStr, StrictStr], BeforeValidator(_labels)] = Field(
        default_factory=dict, description="Given to every node, too."
    )


class Body(Model):
    """The document's `spec`."""

    provider: Annotated[ProviderName, choice(ProviderName)] = Field(ProviderName.LOCAL, description="Where the cluster is made.")
    num_nodes: StrictInt = Field(
        2,
        ge=1,
        le=MAX_NODES_GKE,
        description=f"Nodes that run pods, {MAX_NODES} at most with provider local; with gke in each zone, and 3 by default.",
    )
    kubernetes_version: Annotated[StrictStr, BeforeValidator(_version)] = Field(
        DEFAULT_KUBERNETES_VERSION, description="All three parts.", pattern=f"^{_VERSION.pattern}$"
    )
    stack_type: Annotated[StackType, choice(StackType)] = Field(StackType.IPV4, description="Address families of pods and Services.")
    pod_cidr: CIDRv4 = Field(IPv4Network("10.244.0.0/16"), alias="podCIDR", description="Pods' addresses; each node takes a /24.")
    service_cidr: CIDRv4 = Field(IPv4Network("10.96.0.0/16"), alias="serviceCIDR", description="Services' addresses.")
    pod_cidr_v6: CIDRv6 = Field(
        IPv6Network("fd00:10:244::/56"), alias="podCIDRv6", description="With ipv4-ipv6: pods' addresses; each node takes a /64."
    )
    service_cidr_v6: CIDRv6 = Field(
        IPv6Network("fd00:10:96::/112"), alias="serviceCIDRv6", description="With ipv4-ipv6: Services' addresses."
    )
    node_subnet: CIDRv4 | None = Field(None, description="The nodes' own network; by default the provider picks a free one.")
    dataplane: Dataplane = Field(default_factory=Dataplane, description="The node agent's part.")
    allow: Annotated[dict[StrictStr, StrictStr], BeforeValidator(_allowances)] = Field(
        default_factory=dict, description="Rules of the compatibility gates that may pass, each with the reason why."
    )
    gke: Gke | None = Field(None, description="With provider gke: where, and with which of GKE's features.")


class ClusterSpec(Model):
    """A whole document. `make`, `from_document` and `provisioner.spec.load_spec` build one; the properties read it."""

    api_version: Literal["provisioner.dev/v1alpha1"] = Field(API_VERSION, description="The version of this format.")
    kind: Literal["Cluster"] = Field(KIND, description="The kind of document.")
    metadata: Metadata
    body: Body = Field(default_factory=Body, alias="spec")

    @classmethod
    def make(cls, name: str, *, labels: Mapping[str, str] | None = None, **body: Any) -> Self:
        """A spec from Python values, in snake_case: `ClusterSpec.make("demo", num_nodes=3, dataplane=Dataplane(mtu=1400))`."""
        return cls(metadata=Metadata(name=name, labels=dict(labels or {})), body=Body(**body))

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_document`."""
        return cls.model_validate(dict(document), by_alias=True, by_name=False)

    def to_document(self) -> dict[str, Any]:
        """The document with every default written out, in JSON's types."""
        if self.provider is ProviderName.GKE:
            return self._gke_document()
        document = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        if not self.dual_stack:
            del document["spec"]["podCIDRv6"], document["spec"]["serviceCIDRv6"]
        return document

    def _gke_document(self) -> dict[str, Any]:
        """What was said, and no more: to GKE, a default written out is another request than one left out."""
        document = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
        document = {"apiVersion": self.api_version, "kind": self.kind} | document
        document["spec"] = {"provider": self.provider.value, **document.get("spec", {})}
        return document

    def differences(self, other: ClusterSpec) -> Sequence[str]:
        """The dotted names of the fields in which `other` differs, sorted. What was allowed is no property of the cluster."""
        mine, theirs = _flat(self.to_document()), _flat(other.to_document())
        return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name) and not name.startswith(_ALLOW))

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        problems = list(gke_problems(self) if self.provider is ProviderName.GKE else self._local_problems())
        if problems:
            raise PydanticCustomError(
                WHOLE, "{reason}", {"reason": "; ".join(problem.reason for problem in problems), "problems": problems}
            )
        return self

    def _local_problems(self) -> list[Problem]:
        problems = list(network_problems(self))
        if self.body.gke is not None:
            problems.append(Problem(("spec", "gke"), "has no effect with provider local", "Set spec.provider to gke (--provider gke)."))
        if self.num_nodes > MAX_NODES:
            problems.append(Problem(("spec", "numNodes"), f"is {self.num_nodes}", f"Use {MAX_NODES} or less."))
        if not self.dual_stack:
            for field, name in (("pod_cidr_v6", "podCIDRv6"), ("service_cidr_v6", "serviceCIDRv6")):
                if field in self.body.model_fields_set:
                    problems.append(
                        Problem(("spec", name), "has no effect with stackType ipv4", "Set spec.stackType to ipv4-ipv6, or leave it out.")
                    )
        return problems

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata.labels

    @property
    def provider(self) -> ProviderName:
        return self.body.provider

    @property
    def num_nodes(self) -> int:
        return self.body.num_nodes

    @property
    def kubernetes_version(self) -> str:
        return self.body.kubernetes_version

    @property
    def stack_type(self) -> StackType:
        return self.body.stack_type

    @property
    def dual_stack(self) -> bool:
        return self.body.stack_type is StackType.IPV4_IPV6

    @property
    def pod_cidr(self) -> IPv4Network:
        return self.body.pod_cidr

    @property
    def pod_cidr_v6(self) -> IPv6Network:
        return self.body.pod_cidr_v6

    @property
    def pod_cidrs(self) -> tuple[IPNetwork, ...]:
        return (self.pod_cidr, self.pod_cidr_v6) if self.dual_stack else (self.pod_cidr,)

    @property
    def service_cidr(self) -> IPv4Network:
        return self.body.service_cidr

    @property
    def service_cidr_v6(self) -> IPv6Network:
        return self.body.service_cidr_v6

    @property
    def service_cidrs(self) -> tuple[IPNetwork, ...]:
        return (self.service_cidr, self.service_cidr_v6) if self.dual_stack else (self.service_cidr,)

    @property
    def node_subnet(self) -> IPv4Network | None:
        return self.body.node_subnet

    @property
    def allow(self) -> Mapping[str, str]:
        return self.body.allow

    @property
    def dataplane(self) -> Dataplane:
        return self.body.dataplane

    @property
    def gke(self) -> Gke:
        return self.body.gke or Gke()


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
