"""What a check finds in texts: objects wherever they are, and what could not be checked."""

from __future__ import annotations

import pytest
import yaml

from provisioner.compatibility import check, matrix
from provisioner.compatibility.model import Dataplane, Place, Severity

MATRIX = matrix.load()
SCTP = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "a"},
    "spec": {"ports": [{"port": 1, "protocol": "SCTP", "targetPort": 2}]},
}


def findings(text, dataplane=Dataplane.ANETD, *, strict=True, **settings):
    checked = check.Checked()
    check.check_stream(text, "x.yaml", check.Gate(MATRIX, dataplane, **settings), checked, strict=strict)
    return checked.all_findings()


def rules(*arguments, **settings):
    return [(found.rule, found.place.line) for found in findings(*arguments, **settings)]


def test_a_finding_names_the_object_and_the_line_and_says_why_and_what_to_do():
    text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  ports:\n  - port: 1\n    protocol: SCTP\n    targetPort: 2\n"
    (found,) = findings(text)
    assert (found.rule, found.severity, found.subject) == ("sctp-service", Severity.ERROR, "Service shop/web")
    assert (found.place, found.field) == (Place("x.yaml", 9), "spec.ports[0].protocol")
    feature = MATRIX.features["sctp-services"]
    assert (found.reason, found.remedy) == (feature.cell(Dataplane.ANETD).reason, feature.way_out)
    assert found.sources


def test_objects_are_found_in_lists_of_lists_and_several_documents():
    inner = {"apiVersion": "v1", "kind": "List", "items": [SCTP, {"apiVersion": "v1", "kind": "List", "items": [SCTP]}]}
    typed = {"apiVersion": "v1", "kind": "ServiceList", "items": [{key: SCTP[key] for key in ("metadata", "spec")}]}
    assert [rule for rule, _ in rules(yaml.safe_dump_all([SCTP, inner, typed]))] == ["sctp-service"] * 4


def test_an_object_behind_an_anchor_is_an_object():
    text = "apiVersion: v1\nkind: List\nitems:\n- &one\n  apiVersion: v1\n  kind: Service\n  spec: {ports: [{protocol: SCTP, port: 1, targetPort: 2}]}\n- *one\n"
    assert [rule for rule, _ in rules(text)] == ["sctp-service"] * 2


def test_helm_hooks_are_checked_and_named():
    hook = {**SCTP, "metadata": {"name": "a", "annotations": {"helm.sh/hook": "pre-install"}}}
    (found,) = findings(yaml.safe_dump(hook))
    assert found.subject == "Service a (Helm hook pre-install)"


def test_a_definition_of_an_unsupported_kind_is_refused_and_another_is_not():
    def definition(group, kind):
        return yaml.safe_dump(
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": "x"},
                "spec": {"group": group, "names": {"kind": kind}},
            }
        )

    assert [rule for rule, _ in rules(definition("cilium.io", "CiliumNetworkPolicy"))] == ["cilium-network-policy"]
    assert [rule for rule, _ in rules(definition("cilium.io", "CiliumNode"))] == ["cilium-other-kind"]
    assert rules(definition("cert-manager.io", "Certificate")) == []
    assert rules(definition("cilium.io", "CiliumNetworkPolicy"), Dataplane.CILIUM) == []


def test_kinds_that_nobody_knows_are_one_note_each_and_no_error():
    text = "apiVersion: example.com/v1\nkind: Foo\n---\napiVersion: example.com/v1\nkind: Foo\n---\napiVersion: apps/v1\nkind: Deployment\n"
    (found,) = findings(text)
    assert (found.rule, found.severity, found.subject, found.place.line) == ("unknown-kind", Severity.NOTE, "2 of example.com/Foo", 1)


@pytest.mark.parametrize(
    "text", ["a: 1\n", "- 1\n", "text\n", "apiVersion: v1\n", "apiVersion: 1\nkind: Service\n", "kind: {}\napiVersion: v1\n"]
)
def test_what_is_no_object_is_an_error_where_it_was_named_and_a_note_where_it_was_found(text):
    assert [(f.rule, f.severity) for f in findings(text)] == [("not-kubernetes", Severity.ERROR)]
    assert [(f.rule, f.severity) for f in findings(text, strict=False)] == [("not-kubernetes", Severity.NOTE)]


def test_what_cannot_be_read_is_an_error_and_what_came_before_was_checked():
    text = yaml.safe_dump(SCTP) + "---\na: [\n"
    assert [found.rule for found in findings(text)] == ["sctp-service", "unreadable"]


@pytest.mark.parametrize(
    "document",
    [
        {"apiVersion": "v1", "kind": "Service", "metadata": None, "spec": None},
        {"apiVersion": "v1", "kind": "Service", "metadata": [], "spec": {"ports": {"protocol": "SCTP"}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": 1, "annotations": 3}, "spec": {"ports": [None, 1, []]}},
        {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": {"names": []}},
        {"apiVersion": "provisioner.dev/v1alpha1", "kind": "Cluster", "spec": []},
        {"apiVersion": "v1", "kind": "List", "items": None},
    ],
)
def test_objects_of_strange_shapes_are_no_crash(document):
    assert all(found.rule != "sctp-service" for found in findings(yaml.safe_dump(document)))


def test_a_rule_that_is_allowed_is_told_with_its_reason_and_refuses_nothing():
    (found,) = findings(yaml.safe_dump(SCTP), allowed={"sctp-service": "only in tests"})
    assert (found.severity, found.allowed, found.refuses) == (Severity.ERROR, "only in tests", False)


def test_what_a_version_does_not_have_yet_is_refused_on_it_and_not_on_a_later_one():
    text = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
    (found,) = findings(text, Dataplane.GKE, version="v1.35.1-gke.1")
    assert "1.36.0-gke.4447000" in found.reason
    assert found.refuses
    assert findings(text, Dataplane.GKE, version="1.36.0-gke.4447000") == []
    assert findings(text, Dataplane.GKE) == []


def test_a_spec_is_judged_by_its_own_provider_whatever_the_rest_is_judged_by():
    text = "apiVersion: provisioner.dev/v1alpha1\nkind: Cluster\nspec:\n  provider: gke\n  dataplane: {version: v2}\n  gke:\n    enableNetworkPolicy: true\n"
    assert rules(text, Dataplane.ANETD) == [("calico-add-on", 7)]


def test_verdicts_differ_by_dataplane():
    text = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: a}\n"
    assert [rule for rule, _ in rules(text, Dataplane.ANETD)] == ["cilium-clusterwide-network-policy"]
    assert rules(text, Dataplane.GKE) == rules(text, Dataplane.CILIUM) == []


def test_the_worst_comes_first():
    text = yaml.safe_dump_all([{"apiVersion": "example.com/v1", "kind": "Foo"}, SCTP])
    assert [found.severity for found in findings(text)] == [Severity.ERROR, Severity.NOTE]
