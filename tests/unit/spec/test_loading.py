"""Documents and flags become one spec; what is wrong is told with its place and the way out."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from provisioner import errors
from provisioner.spec import ClusterSpec, Override, RoutingMode, StackType, load_spec

HEAD = "apiVersion: provisioner.dev/v1alpha1\nkind: Cluster\n"
NAMED = HEAD + "metadata: {name: demo}\n"


def refused(text: str | None, *overrides: Override) -> errors.ProvisionerError:
    with pytest.raises(errors.ProvisionerError) as caught:
        load_spec(text, source="c.yaml", overrides=overrides)
    return caught.value


def test_the_least_document_gets_every_default() -> None:
    spec = load_spec(NAMED, source="c.yaml")
    assert (spec.name, spec.num_nodes, spec.kubernetes_version, spec.stack_type) == ("demo", 2, "1.34.4", StackType.IPV4)
    assert [str(n) for n in (*spec.pod_cidrs, *spec.service_cidrs)] == ["10.244.0.0/16", "10.96.0.0/16"]
    assert spec.node_subnet is None
    assert spec.dataplane.routing_mode is RoutingMode.NATIVE
    assert spec.dataplane.masquerade
    assert spec.dataplane.mtu is None


def test_dual_stack_has_a_network_of_each_family() -> None:
    spec = load_spec(NAMED + "spec: {stackType: ipv4-ipv6}\n")
    assert [str(n) for n in spec.pod_cidrs] == ["10.244.0.0/16", "fd00:10:244::/56"]
    assert [str(n) for n in spec.service_cidrs] == ["10.96.0.0/16", "fd00:10:96::/112"]


def test_a_flag_wins_over_the_file_and_makes_what_the_file_lacks() -> None:
    overrides = [
        Override(("metadata", "name"), "other", "NAME"),
        Override(("spec", "numNodes"), 5, "--num-nodes"),
        Override(("spec", "dataplane", "routingMode"), "vxlan", "--routing-mode"),
    ]
    spec = load_spec(NAMED + "spec: {numNodes: 3, dataplane: {mtu: 1400}}\n", overrides=overrides)
    assert (spec.name, spec.num_nodes, spec.dataplane.routing_mode, spec.dataplane.mtu) == ("other", 5, RoutingMode.VXLAN, 1400)
    assert load_spec(None, overrides=overrides).name == "other"


def test_an_empty_section_is_one_that_a_flag_may_fill() -> None:
    assert load_spec(NAMED + "spec:\n", overrides=[Override(("spec", "numNodes"), 3, "--num-nodes")]).num_nodes == 3


@dataclass(frozen=True)
class Case:
    """A document's body after the head, the field and line that the error names, and words of its reason and remedy."""

    body: str
    field: str
    line: int
    reason: str
    remedy: str


CASES = {
    "unknown field, near one": Case("metadata: {name: a}\nspec:\n  numNode: 3\n", "spec.numNode", 5, "not a known field", "numNodes?"),
    "unknown field in snake case": Case("metadata: {name: a}\nspec:\n  pod_cidr: x\n", "spec.pod_cidr", 5, "not a known field", "podCIDR?"),
    "unknown field, wrong case": Case(
        "metadata: {name: a}\nspec:\n  dataplane:\n    routingmode: vxlan\n",
        "spec.dataplane.routingmode",
        6,
        "not a known field",
        "routingMode?",
    ),
    "unknown field, near none": Case("metadata: {name: a}\nxyzzy: 1\n", "xyzzy", 4, "not a known field", "Known here"),
    "no name": Case("metadata: {}\n", "metadata.name", 3, "missing", "argument"),
    "empty name": Case("metadata: {name: ''}\n", "metadata.name", 3, "empty", "name"),
    "name in capitals": Case("metadata: {name: Demo}\n", "metadata.name", 3, "DNS-1123", "lower-case"),
    "name with a dot": Case("metadata: {name: a.b}\n", "metadata.name", 3, "DNS-1123", "lower-case"),
    "name that ends in a newline": Case('metadata: {name: "a\\n"}\n', "metadata.name", 3, "DNS-1123", "lower-case"),
    "name that climbs": Case("metadata: {name: ../x}\n", "metadata.name", 3, "DNS-1123", "lower-case"),
    "name of 41": Case(f"metadata: {{name: {'a' * 41}}}\n", "metadata.name", 3, "41 characters", "Shorten"),
    "name that is a number": Case("metadata: {name: 12}\n", "metadata.name", 3, "not text", "quotes"),
    "no nodes": Case("metadata: {name: a}\nspec: {numNodes: 0}\n", "spec.numNodes", 4, "is 0", "1 or more"),
    "21 nodes": Case("metadata: {name: a}\nspec: {numNodes: 21}\n", "spec.numNodes", 4, "is 21", "20 or less"),
    "nodes in quotes": Case("metadata: {name: a}\nspec: {numNodes: '3'}\n", "spec.numNodes", 4, "not a whole number", "quotes"),
    "nodes as a truth": Case("metadata: {name: a}\nspec: {numNodes: yes}\n", "spec.numNodes", 4, "not a whole number", "number"),
    "version as a number": Case(
        "metadata: {name: a}\nspec: {kubernetesVersion: 1.34}\n", "spec.kubernetesVersion", 4, "YAML reads", "quotes"
    ),
    "version of two parts": Case(
        "metadata: {name: a}\nspec: {kubernetesVersion: v1.34}\n", "spec.kubernetesVersion", 4, "not a version", "three parts"
    ),
    "stack type": Case("metadata: {name: a}\nspec: {stackType: ipv6}\n", "spec.stackType", 4, "'ipv6'", "ipv4-ipv6"),
    "provider": Case("metadata: {name: a}\nspec: {provider: aws}\n", "spec.provider", 4, "'aws'", "local"),
    "routing mode": Case(
        "metadata: {name: a}\nspec: {dataplane: {routingMode: geneve}}\n", "spec.dataplane.routingMode", 4, "'geneve'", "vxlan"
    ),
    "mtu": Case("metadata: {name: a}\nspec: {dataplane: {mtu: 900}}\n", "spec.dataplane.mtu", 4, "900", "1280 or more"),
    "masquerade": Case("metadata: {name: a}\nspec: {dataplane: {masquerade: 'no'}}\n", "spec.dataplane.masquerade", 4, "'no'", "true"),
    "address for a network": Case("metadata: {name: a}\nspec: {podCIDR: 10.1.2.3/16}\n", "spec.podCIDR", 4, "inside", "10.1.0.0/16"),
    "no prefix": Case("metadata: {name: a}\nspec: {podCIDR: 10.1.0.0}\n", "spec.podCIDR", 4, "prefix length", "/16"),
    "no network": Case("metadata: {name: a}\nspec: {podCIDR: ten/8}\n", "spec.podCIDR", 4, "not a network", "address/length"),
    "a network as a number": Case("metadata: {name: a}\nspec: {podCIDR: 10}\n", "spec.podCIDR", 4, "not a network", "text"),
    "wrong family": Case("metadata: {name: a}\nspec: {podCIDR: 'fd00::/56'}\n", "spec.podCIDR", 4, "IPv6", "IPv4"),
    "a list's item": Case(
        "metadata: {name: a}\nspec:\n  dataplane:\n    nonMasqueradeCIDRs:\n    - 10.0.0.0/8\n    - nowhere\n",
        "spec.dataplane.nonMasqueradeCIDRs[1]",
        8,
        "prefix length",
        "/16",
    ),
    "no list": Case(
        "metadata: {name: a}\nspec: {dataplane: {nonMasqueradeCIDRs: 3}}\n", "spec.dataplane.nonMasqueradeCIDRs", 4, "not a list", "item"
    ),
    "ipv6 network with ipv4 alone": Case(
        "metadata: {name: a}\nspec: {podCIDRv6: 'fd00::/56'}\n", "spec.podCIDRv6", 4, "no effect", "ipv4-ipv6"
    ),
    "label with a number": Case("metadata: {name: a, labels: {x: 1}}\n", "metadata.labels", 3, "not text", "quotes"),
    "label's name": Case("metadata: {name: a, labels: {-x: y}}\n", "metadata.labels", 3, "label's name", "letters"),
    "label's value": Case("metadata: {name: a, labels: {x: 'y z'}}\n", "metadata.labels", 3, "label's value", "letters"),
    "spec that is a list": Case("metadata: {name: a}\nspec: [1]\n", "spec", 4, "not a mapping", "indented"),
    "the same field twice": Case("metadata: {name: a}\nspec:\n  numNodes: 1\n  numNodes: 2\n", "spec.numNodes", 6, "twice", "one of them"),
    "merge key": Case("metadata: {name: a}\nspec:\n  <<: {numNodes: 1}\n", "spec", 5, "must be text", "quotes"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_wrong_value_is_refused_with_its_line_reason_and_remedy(case: Case) -> None:
    error = refused(HEAD + case.body)
    assert isinstance(error, errors.SpecInvalid)
    assert error.exit_code == 3
    assert error.field == case.field
    assert error.message.startswith(f"c.yaml:{case.line}: ")
    assert case.reason in error.message
    assert case.remedy in error.remedy


def test_every_problem_is_told_at_once_in_the_document_s_order() -> None:
    error = refused(HEAD + "metadata: {name: A}\nspec:\n  numNode: 3\n  stackType: x\n")
    assert [line.split(": ")[0].strip() for line in error.message.splitlines()[1:]] == ["c.yaml:3", "c.yaml:5", "c.yaml:6"]
    assert error.field == "metadata.name"


def test_a_flag_s_error_names_the_flag() -> None:
    error = refused(NAMED, Override(("spec", "numNodes"), 99, "--num-nodes"))
    assert error.message.startswith("--num-nodes: ")
    assert error.field == "spec.numNodes"


def test_another_dataplane_is_refused_by_the_gate() -> None:
    error = refused(NAMED + "spec: {dataplane: {version: v1}}\n")
    assert isinstance(error, errors.RefusedByGate)
    assert error.exit_code == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n", "not a mapping"),
        ("a: [\n", "c.yaml:2"),
        (NAMED + "---\n" + NAMED, "c.yaml:4"),
        ("kind: Cluster\n", "apiVersion is missing"),
        ("apiVersion: v1\nkind: Cluster\n", "c.yaml:1: apiVersion is 'v1'"),
        ("apiVersion: provisioner.dev/v1alpha1\nkind: Pod\n", "c.yaml:2: kind is 'Pod'"),
        ("\x00", "special characters"),
        ("&a [*a]\n", "nested too deeply"),
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n" * 1, "apiVersion is missing"),
        ("x: !!python/object/apply:os.system [id]\n", "c.yaml:1"),
    ],
)
def test_what_is_no_document_is_refused(text: str, reason: str) -> None:
    error = refused(text)
    assert isinstance(error, errors.SpecInvalid)
    assert reason in error.message


def test_aliases_that_multiply_are_refused_early() -> None:
    lines = ["l0: &l0 [x,x,x,x,x,x,x,x,x,x]"] + [f"l{n}: &l{n} [{','.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "too large" in refused("\n".join(lines)).message


def test_braces_in_a_value_are_shown_as_they_are() -> None:
    assert "'{x}'" in refused(HEAD + "metadata: {name: '{x}'}\n").message


def test_a_spec_survives_its_document() -> None:
    for extra in ("", "spec: {stackType: ipv4-ipv6, nodeSubnet: 10.9.0.0/24, dataplane: {mtu: 1400, nonMasqueradeCIDRs: [10.0.0.0/8]}}\n"):
        spec = load_spec(NAMED + extra)
        assert ClusterSpec.from_document(spec.to_document()) == spec
        assert spec.differences(ClusterSpec.from_document(spec.to_document())) == []


def test_differences_name_the_fields() -> None:
    one = ClusterSpec.make("a")
    other = ClusterSpec.make("a", num_nodes=3, dataplane={"mtu": 1400})
    assert one.differences(other) == ["spec.dataplane.mtu", "spec.numNodes"]
