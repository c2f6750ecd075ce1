"""What is rendered: compared with golden files, and judged by rules that hold for every spec.

UPDATE_GOLDEN=1 writes the golden files anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import jinja2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from provisioner import deploy
from provisioner.deploy import render
from provisioner.deploy.apply import object_path
from provisioner.spec import ClusterSpec

GOLDEN = Path(__file__).parent / "golden"
SPECS = {
    "plain": ClusterSpec.make("demo"),
    "one-node": ClusterSpec.make("demo", num_nodes=1),
    "dual-stack-vxlan": ClusterSpec.make(
        "demo",
        stack_type="ipv4-ipv6",
        dataplane={"routing_mode": "vxlan", "mtu": 1400, "masquerade": False, "non_masquerade_cidrs": ["192.168.0.0/16"]},
    ),
}


def context_of(spec, **changes):
    return deploy.DeployContext(
        **{
            "api_server": "https://172.30.0.2:6443",
            "cluster_dns": deploy.cluster_dns_addresses(spec),
            "anetd_image": "provisioner.local/anetd:1-a",
            "coredns_image": "provisioner.local/coredns:1-b",
            "upstream_dns": ("192.0.2.53",),
            **changes,
        }
    )


def objects(spec, **changes):
    found = [document for manifest in deploy.render_all(spec, context_of(spec, **changes)) for document in manifest.objects]
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


@pytest.mark.parametrize("name", SPECS)
def test_manifests_are_the_golden_ones(name):
    for manifest in deploy.render_all(SPECS[name], context_of(SPECS[name])):
        golden = GOLDEN / name / manifest.name
        if os.environ.get("UPDATE_GOLDEN"):
            golden.parent.mkdir(parents=True, exist_ok=True)
            golden.write_text(manifest.text)
        assert manifest.text == golden.read_text(), "run the tests with UPDATE_GOLDEN=1 if the change is meant"


def test_the_agent_is_not_privileged_and_has_only_the_capabilities_it_explains():
    pod = objects(SPECS["plain"])["DaemonSet", "anetd"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert security["privileged"] is False
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN", "NET_RAW", "BPF", "PERFMON"]}
    assert security["readOnlyRootFilesystem"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["hostNetwork"] is True
    assert "hostPID" not in pod


def test_every_volume_is_mounted_and_every_mount_has_a_volume():
    for kind, name in (("DaemonSet", "anetd"), ("Deployment", "coredns")):
        pod = objects(SPECS["plain"])[kind, name]["spec"]["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_no_role_grants_writing_but_of_events_or_secrets():
    for (kind, name), document in objects(SPECS["plain"]).items():
        for rule in document.get("rules", []) if kind == "ClusterRole" else []:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]
            allowed = {"create", "patch"} if rule["resources"] == ["events"] else {"list", "watch"}
            assert set(rule["verbs"]) <= allowed, name


def test_only_a_cluster_with_a_pool_lets_the_agent_write_the_status_of_services():
    def granted(**changes):
        rules = objects(SPECS["plain"], **changes)["ClusterRole", "anetd"]["rules"]
        return {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}

    more = granted(load_balancer_pool=["172.30.0.192/26"]) - granted()
    assert more == {("services", "get"), ("services/status", "patch")}


def test_a_changed_configuration_changes_the_pod_template():
    def digest(spec):
        return objects(spec)["DaemonSet", "anetd"]["spec"]["template"]["metadata"]["annotations"]["provisioner.dev/config-digest"]

    assert digest(SPECS["plain"]) == digest(SPECS["one-node"])
    assert digest(SPECS["plain"]) != digest(SPECS["dual-stack-vxlan"])


def test_dns_has_the_tenth_address_of_each_service_network():
    service = objects(SPECS["dual-stack-vxlan"])["Service", "kube-dns"]["spec"]
    assert service["clusterIPs"] == ["10.96.0.10", "fd00:10:96::a"]
    assert service["ipFamilies"] == ["IPv4", "IPv6"]
    assert service["ipFamilyPolicy"] == "PreferDualStack"
    assert objects(SPECS["plain"])["Service", "kube-dns"]["spec"]["ipFamilyPolicy"] == "SingleStack"


def test_without_a_usable_resolver_nothing_is_forwarded():
    corefile = objects(SPECS["plain"], upstream_dns=())["ConfigMap", "coredns"]["data"]["Corefile"]
    assert "forward" not in corefile
    assert "forward . 192.0.2.53 {" in objects(SPECS["plain"])["ConfigMap", "coredns"]["data"]["Corefile"]


def test_every_object_has_a_place_in_the_api():
    for spec in SPECS.values():
        for document in objects(spec).values():
            assert object_path(document).endswith("/" + document["metadata"]["name"])


def test_an_undefined_name_in_a_template_is_an_error(monkeypatch):
    values = render._values
    monkeypatch.setattr(render, "_values", lambda *args: {name: value for name, value in values(*args).items() if name != "health_port"})
    with pytest.raises(jinja2.UndefinedError):
        deploy.render_all(SPECS["plain"], context_of(SPECS["plain"]))


@settings(deadline=None, max_examples=60)
@given(text=st.text(min_size=1, max_size=60))
@example(text="\\ud83d\\ude00 \U0001f600 {{ x }} --- \x85 #")
def test_no_value_can_change_a_documents_structure(text):
    found = objects(SPECS["plain"], anetd_image=text, api_server=text)
    assert found["DaemonSet", "anetd"]["spec"]["template"]["spec"]["containers"][0]["image"] == text
    assert json.loads(found["ConfigMap", "anetd-config"]["data"]["config.json"])["apiServer"] == text
    assert len(found) == 19


def test_the_agents_configuration_is_what_the_agent_reads():
    context = context_of(SPECS["dual-stack-vxlan"], load_balancer_pool=["172.30.0.192/26"])
    config = deploy.agent_config(SPECS["dual-stack-vxlan"], context)
    assert config == {
        "clusterName": "demo",
        "apiServer": "https://172.30.0.2:6443",
        "podCIDRs": ["10.244.0.0/16", "fd00:10:244::/56"],
        "serviceCIDRs": ["10.96.0.0/16", "fd00:10:96::/112"],
        "routingMode": "vxlan",
        "device": "",
        "mtu": 1400,
        "masquerade": False,
        "nonMasqueradeCIDRs": ["192.168.0.0/16"],
        "attachMode": "auto",
        "socketLB": True,
        "policyLogDenyPolicies": False,
        "loadBalancerMode": "snat",
        "layout": "v2",
        "loadBalancerPool": ["172.30.0.192/26"],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", ("192.0.2.1",)),
        ("# comment\nnameserver 127.0.0.53\nsearch x\n", ()),
        ("nameserver fe80::1%eth0\nnameserver 2001:db8::1\n", ("2001:db8::1",)),
        ("nameserver\nnameserver nonsense\n", ()),
        ("".join(f"nameserver 192.0.2.{number}\n" for number in range(1, 6)), ("192.0.2.1", "192.0.2.2", "192.0.2.3")),
    ],
)
def test_only_resolvers_that_a_pod_can_reach_are_used(text, expected):
    from provisioner.deploy.resolvers import usable

    assert usable(text) == expected


def test_a_local_stub_is_looked_behind(tmp_path):
    (tmp_path / "stub").write_text("nameserver 127.0.0.53\n")
    (tmp_path / "real").write_text("nameserver 192.0.2.1\n")
    assert deploy.host_resolvers((tmp_path / "stub", tmp_path / "gone", tmp_path / "real")) == ("192.0.2.1",)
    assert deploy.host_resolvers((tmp_path / "gone",)) == ()


# ---- the admission policies ----


def admission_of(**dataplane):
    return objects(ClusterSpec.make("demo", dataplane=dataplane))


def test_the_admission_policy_is_the_matrix_s():
    from provisioner.compatibility import admission, matrix
    from provisioner.compatibility.model import Dataplane

    found = objects(SPECS["plain"])
    for policy in admission.policies(matrix.load(), Dataplane.ANETD):
        rendered = found["ValidatingAdmissionPolicy", policy.name]["spec"]
        assert rendered["validations"] == list(policy.validations)
        assert rendered["matchConstraints"]["resourceRules"] == list(policy.resources)
        binding = found["ValidatingAdmissionPolicyBinding", policy.name]["spec"]
        assert binding == {"policyName": policy.name, "validationActions": list(policy.actions)}


def test_by_setting_admission_warns_or_is_off():
    for mode, wanted in (("deny", {"Deny", "Warn"}), ("warn", {"Warn"}), ("off", {"Audit"})):
        bindings = [document for (kind, _), document in admission_of(admission=mode).items() if kind == "ValidatingAdmissionPolicyBinding"]
        actions = [document["spec"]["validationActions"] for document in bindings]
        assert {action for found in actions for action in found} == wanted, mode


def test_what_was_let_pass_is_written_down_in_the_cluster_and_not_refused_there():
    found = objects(ClusterSpec.make("demo", allow={"sctp-service": 'a "trial"'}))
    assert json.loads(found["ConfigMap", "provisioner-gates"]["data"]["allowed"]) == {"sctp-service": 'a "trial"'}
    assert "[sctp-service]" not in json.dumps(found["ValidatingAdmissionPolicy", "provisioner-unsupported"])
    assert "[sctp-service]" in json.dumps(objects(SPECS["plain"])["ValidatingAdmissionPolicy", "provisioner-unsupported"])
