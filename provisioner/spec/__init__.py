"""ClusterSpec: what a cluster is asked to be. Pure: nothing here reads a file, a socket or the machine's state.

The document (`apiVersion: provisioner.dev/v1alpha1`, `kind: Cluster`) is written in camelCase; Python reads it in snake_case, and
flat, from the object that `load` and `ClusterSpec.make` return:

| document                        | Python                                  | type                                  |
|---------------------------------|-----------------------------------------|---------------------------------------|
| metadata.name                   | spec.name                               | str                                   |
| metadata.labels                 | spec.labels                             | dict[str, str]                        |
| spec.provider                   | spec.provider                           | ProviderName                          |
| spec.numNodes                   | spec.num_nodes                          | int                                   |
| spec.kubernetesVersion          | spec.kubernetes_version                 | str, "1.34.4"                         |
| spec.stackType                  | spec.stack_type, spec.dual_stack        | StackType, bool                       |
| spec.podCIDR, podCIDRv6         | spec.pod_cidr, spec.pod_cidr_v6         | IPv4Network, IPv6Network              |
| spec.serviceCIDR, serviceCIDRv6 | spec.service_cidr, spec.service_cidr_v6 | IPv4Network, IPv6Network              |
| (both, as the stack has them)   | spec.pod_cidrs, spec.service_cidrs      | tuple of networks, IPv4 first         |
| spec.nodeSubnet                 | spec.node_subnet                        | IPv4Network, or None: provider's pick |
| spec.dataplane.version          | spec.dataplane.version                  | "v2"                                  |
| spec.dataplane.routingMode      | spec.dataplane.routing_mode             | RoutingMode                           |
| spec.dataplane.mtu              | spec.dataplane.mtu                      | int, or None: the device's            |
| spec.dataplane.masquerade       | spec.dataplane.masquerade               | bool                                  |
| spec.dataplane.nonMasqueradeCIDRs | spec.dataplane.non_masquerade_cidrs   | tuple of networks                     |
| spec.dataplane.admission        | spec.dataplane.admission                | AdmissionMode                         |
| spec.dataplane.loadBalancerPool | spec.dataplane.load_balancer_pool       | tuple of networks, or None: provider's |
| spec.allow                      | spec.allow                              | rule -> reason                        |

The IPv6 networks always have a value; they count only where `spec.dual_stack`. `spec.to_document()` is the inverse of
`ClusterSpec.from_document()`, and `spec.differences(other)` names the fields in which two specs differ.
"""

from provisioner.spec.loading import Override, load_spec
from provisioner.spec.models import AdmissionMode, ClusterSpec, Dataplane, ProviderName, RoutingMode, StackType
from provisioner.spec.networks import HostRoute, check_host_routes
from provisioner.spec.schema import json_schema

__all__ = [
    "AdmissionMode",
    "ClusterSpec",
    "Dataplane",
    "HostRoute",
    "Override",
    "ProviderName",
    "RoutingMode",
    "StackType",
    "check_host_routes",
    "json_schema",
    "load_spec",
]
