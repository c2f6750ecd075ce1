"""Services for people: where each port answers, with which backends, and why the other endpoints are left out. Pure.

What is said is resolved anew from the objects, by the functions that the rows come from; the rows' own numbers are added where they stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agent.reconcile.compiler import Compiler
from agent.services.endpoints import Candidate, candidates, categorise, left_out
from agent.services.frontends import Policy, Resolved, Wanted, resolve, resolve_host_port
from agent.services.inputs import Claimant, Inputs
from agent.watch.records import PROTOCOL_NAMES, EndpointSlice, Key, Service, ServicePort

Document = dict[str, Any]


def explain(key: Key, inputs: Inputs, compiler: Compiler | None) -> list[Document]:
    """One document a port and family; none if there is no such Service, or it has no cluster address."""
    service = inputs.services.get(key)
    if service is None:
        return []
    slices = inputs.slices(key)
    resolved = resolve(service, slices, inputs.here)
    return [
        _port(service, port, family, slices, resolved, inputs, compiler)
        for port in service.ports
        for family in sorted({address.version for address in service.addresses})
    ]


def explain_host_ports(inputs: Inputs, compiler: Compiler | None) -> list[Document]:
    """One document a host port."""
    found = []
    for port in inputs.host_ports.values():
        resolved = resolve_host_port(port)
        backend = _socket(str(port.pod_address), port.pod_port)
        found.append(
            {
                "service": "",
                "type": "",
                "portName": "",
                "protocol": _protocol(port.protocol),
                "family": f"IPv{port.pod_address.version}",
                "trouble": "",
                "frontends": [_frontend(wanted, port, compiler) for wanted in resolved.frontends],
                "backends": [backend],
                "localBackends": [],
                "leftOut": [],
            }
        )
    return sorted(found, key=lambda row: str(row["frontends"]))


def _port(
    service: Service,
    port: ServicePort,
    family: int,
    slices: Sequence[EndpointSlice],
    resolved: Resolved,
    inputs: Inputs,
    compiler: Compiler | None,
) -> Document:
    wanted = [
        each
        for each in resolved.frontends
        if (each.inside.port, each.inside.protocol, each.inside.family) == (port.name, port.protocol, family)
    ]
    policies = sorted({name.policy for each in wanted for name in (each.inside, each.outside) if name is not None})
    found = candidates(port, family, slices, inputs.here.node)
    choice = categorise(found, inputs.here, regardless=service.publish_not_ready)
    reasons = list(_without_port(service, port, family, slices))
    for policy in policies:
        local = policy is Policy.LOCAL
        said = left_out(found, choice, inputs.here, local=local, regardless=service.publish_not_ready)
        reasons += [_reason(each, why, policy.name.title()) for each, why in said.items()]
    out = compiler.left_out.get(service.key) if compiler is not None else None
    return {
        "service": str(service.key),
        "type": service.kind,
        "affinitySeconds": service.affinity_seconds,
        "sourceRanges": [str(network) for network in service.source_ranges if network.version == family],
        "trafficDistribution": service.traffic_distribution,
        "loadBalancerClass": service.load_balancer_class,
        "portName": port.name,
        "protocol": _protocol(port.protocol),
        "family": f"IPv{family}",
        "trouble": f"left out: the table {out.table} has no room for it" if out is not None else "",
        "frontends": [_frontend(each, service.key, compiler) for each in wanted],
        "backends": _backends(choice.cluster) if Policy.CLUSTER in policies else [],
        "localBackends": _backends(choice.local) if Policy.LOCAL in policies else [],
        "leftOut": reasons,
    }


def _frontend(wanted: Wanted, claimant: Claimant, compiler: Compiler | None) -> Document:
    owner = compiler.owner(wanted.key) if compiler is not None else None
    row = compiler.frontend(wanted.key) if compiler is not None and owner == claimant else None
    outside = wanted.outside or wanted.inside
    return {
        "kind": str(wanted.kind),
        "address": "" if wanted.key.scope else str(wanted.key.address),
        "port": wanted.key.port,
        "protocol": _protocol(wanted.key.protocol),
        "policyInside": wanted.inside.policy.name.title(),
        "policyOutside": outside.policy.name.title(),
        "flags": [flag.name for flag in row.flags] if row is not None else [],
        "id": row.service_id if row is not None else 0,
        "outsideId": row.outside_id if row is not None else 0,
        "heldBy": str(owner) if owner is not None and owner != claimant else "",
    }


def _without_port(service: Service, port: ServicePort, family: int, slices: Sequence[EndpointSlice]) -> Iterator[Document]:
    """Endpoints that are no candidates at all."""
    families = {address.version for address in service.addresses}
    for each in slices:
        offered = {(target.name, target.protocol) for target in each.ports if target.port}
        if each.family not in families and family == min(families):
            why = f"the Service has no IPv{each.family} cluster address"
        elif each.family == family and (port.name, port.protocol) not in offered:
            why = f"its slice {each.key.name} has no port {port.name or '(without a name)'}/{_protocol(port.protocol)}"
        else:
            continue
        for endpoint in each.endpoints:
            yield {"endpoint": str(endpoint.address), "node": endpoint.node, "zone": endpoint.zone, "policy": "", "why": why}


def _reason(candidate: Candidate, why: str, policy: str) -> Document:
    end = candidate.endpoint
    return {"endpoint": _socket(str(end.address), candidate.port), "node": end.node, "zone": end.zone, "policy": policy, "why": why}


def _backends(members: Sequence[Candidate]) -> list[str]:
    return [_socket(str(each.endpoint.address), each.port) for each in members]


def _socket(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _protocol(number: int) -> str:
    return PROTOCOL_NAMES.get(number, str(number))
