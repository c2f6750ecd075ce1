"""Arguments and options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from provisioner import errors
from provisioner.cli.output import Format

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


def duration(text: str) -> float:
    """Seconds from `90`, `90s`, `5m`, `1h30m`."""
    match = _DURATION.fullmatch(text)
    seconds = sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match and text else 0
    if seconds <= 0:
        raise errors.Usage(f"--timeout {text!r} is not a time", remedy="Write seconds, or 90s, 5m, 1h30m.", field="--timeout")
    return seconds


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The cluster's name.", show_default=False)]
OptionalName = Annotated[str, typer.Argument(metavar="[NAME]", help="The cluster's name; it wins over the file's.", show_default=False)]
Output = Annotated[Format, typer.Option("--output", "-o", help="How the result is printed on stdout.")]
TimeoutOption = Annotated[str, typer.Option("--timeout", metavar="TIME", help="For the whole command: seconds, or 90s, 5m, 1h30m.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan, change nothing; exit code 2 when there is something to do.")]
Kubeconfig = Annotated[
    Path | None,
    typer.Option("--kubeconfig", metavar="PATH", help="Default: the first file of $KUBECONFIG, or ~/.kube/config.", show_default=False),
]
BinDir = Annotated[
    Path | None,
    typer.Option(
        "--kubernetes-bin-dir", metavar="DIR", help="Use the Kubernetes, etcd and CoreDNS programs found there.", show_default=False
    ),
]

Config = Annotated[
    str | None,
    typer.Option("--config", "-f", metavar="FILE", help="A cluster's document; - is stdin. Flags win over it.", show_default=False),
]
ProviderOption = Annotated[str | None, typer.Option("--provider", help="Where the cluster is made: local.", show_default=False)]
NumNodes = Annotated[int | None, typer.Option("--num-nodes", metavar="N", help="Nodes that run pods. [default: 2]", show_default=False)]
KubernetesVersion = Annotated[str | None, typer.Option("--kubernetes-version", metavar="X.Y.Z", show_default=False)]
StackTypeOption = Annotated[str | None, typer.Option("--stack-type", help="ipv4 or ipv4-ipv6. [default: ipv4]", show_default=False)]
PodCIDR = Annotated[
    str | None, typer.Option("--pod-cidr", metavar="CIDR", help="Pods' addresses. [default: 10.244.0.0/16]", show_default=False)
]
ServiceCIDR = Annotated[
    str | None, typer.Option("--service-cidr", metavar="CIDR", help="Services' addresses. [default: 10.96.0.0/16]", show_default=False)
]
PodCIDRv6 = Annotated[str | None, typer.Option("--pod-cidr-v6", metavar="CIDR", help="With ipv4-ipv6.", show_default=False)]
ServiceCIDRv6 = Annotated[str | None, typer.Option("--service-cidr-v6", metavar="CIDR", help="With ipv4-ipv6.", show_default=False)]
NodeSubnet = Annotated[
    str | None, typer.Option("--node-subnet", metavar="CIDR", help="The nodes' own network. [default: a free one]", show_default=False)
]
RoutingModeOption = Annotated[str | None, typer.Option("--routing-mode", help="native or vxlan. [default: native]", show_default=False)]
Mtu = Annotated[int | None, typer.Option("--mtu", help="Of pods' devices. [default: the node device's]", show_default=False)]
Masquerade = Annotated[
    bool | None,
    typer.Option(
        "--masquerade/--no-masquerade",
        help="Whether pods reach the outside behind their node's address. [default: yes]",
        show_default=False,
    ),
]
NonMasqueradeCIDRs = Annotated[
    list[str] | None,
    typer.Option(
        "--non-masquerade-cidr", metavar="CIDR", help="Outside that sees pods' own addresses; may be repeated.", show_default=False
    ),
]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be repeated.", show_default=False)]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow", metavar="RULE=REASON", help="Let a compatibility gate's rule pass, and why; may be repeated.", show_default=False
    ),
]
AdmissionOption = Annotated[
    str | None,
    typer.Option("--admission", help="Objects that the dataplane would ignore: deny, warn or off. [default: deny]", show_default=False),
]


def label_pairs(labels: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in labels:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise errors.Usage(f"--label {text!r} is not KEY=VALUE", remedy="Write it as in --label team=network.", field="--label")
        pairs[key] = value
    return pairs
