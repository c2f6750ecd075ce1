"""Objects of files in the place of a cluster's, and what is made up where files are silent."""

from __future__ import annotations

import pytest

from provisioner.policies.objects import Objects, addresses, overlay, slices_of


def pod(name, labels=None, address=None, namespace="shop", **rest):
    status = {"podIPs": [{"ip": text} for text in address.split()]} if address else {}
    spec = {"nodeName": "n1", "containers": rest.pop("containers", [])} | rest
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels or {}}, "spec": spec, "status": status}


def service(name, selector, *ports, **rest):
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": {"selector": selector, "ports": list(ports), **rest}}


def objects(**kinds):
    found = Objects()
    for kind, items in kinds.items():
        for item in items:
            found.add(kind, item)
    return found


def laid(base, files):
    overlay(base, files)
    return base


def test_a_file_s_object_stands_for_the_cluster_s_of_its_name_and_the_others_stay():
    base = objects(networkpolicies=[{"metadata": {"name": name, "namespace": "shop"}, "spec": {}} for name in ("a", "b")])
    new = {"metadata": {"name": "a", "namespace": "shop"}, "spec": {"podSelector": {"matchLabels": {"new": "yes"}}}}
    found = laid(base, objects(networkpolicies=[new])).document()["networkpolicies"]
    assert [item["spec"] for item in found] == [new["spec"], {}]


def test_an_object_without_a_namespace_is_in_default():
    found = laid(Objects(), objects(networkpolicies=[{"metadata": {"name": "a"}}]))
    assert list(found.kinds["networkpolicies"]) == [("default", "a")]
    assert list(found.kinds["namespaces"]) == [("", "default")]


def test_a_pod_of_a_file_keeps_the_address_and_node_of_the_cluster_s():
    base = objects(pods=[pod("a", {"v": "1"}, "10.0.0.1 fd00::1")], namespaces=[{"metadata": {"name": "shop"}}])
    new = {"metadata": {"name": "a", "namespace": "shop", "labels": {"v": "2"}}, "spec": {"containers": []}}
    found = laid(base, objects(pods=[new]))
    (item,) = found.document()["pods"]
    assert (addresses(item), item["spec"]["nodeName"], item["metadata"]["labels"]) == (["10.0.0.1", "fd00::1"], "n1", {"v": "2"})
    assert found.notes == []


def test_a_pod_that_nobody_has_given_an_address_gets_one_of_its_own_of_each_family_that_pods_have():
    files = objects(pods=[pod("a"), pod("b"), pod("c", hostNetwork=True), {**pod("d"), "status": {"phase": "Failed"}}])
    found = laid(Objects(), files)
    given = {name: addresses(item) for (_, name), item in found.kinds["pods"].items()}
    assert len({text for own in given.values() for text in own}) == 4
    assert [len(given[name]) for name in "abcd"] == [2, 2, 0, 0]
    assert "shop/a, shop/b" in found.notes[0]
    single = laid(objects(pods=[pod("x", address="10.0.0.1")]), objects(pods=[pod("a")]))
    assert len(addresses(single.kinds["pods"]["shop", "a"])) == 1


HTTP = {"name": "http", "port": 80, "targetPort": "web"}


def test_endpoints_of_a_file_s_service_follow_from_its_selector_and_each_pod_s_own_port():
    named = [{"ports": [{"name": "web", "containerPort": 8080}]}], [{"ports": [{"name": "web", "containerPort": 9090}]}]
    files = objects(
        pods=[
            pod("a", {"app": "x"}, "10.0.0.1", containers=named[0]),
            pod("b", {"app": "x"}, "10.0.0.2", containers=named[1]),
            pod("c", {"app": "x"}, "10.0.0.3"),
            pod("d", {"app": "y"}, "10.0.0.4", containers=named[0]),
            pod("e", {"app": "x"}, "10.0.0.5", containers=named[0], namespace="other"),
        ],
        services=[service("s", {"app": "x"}, HTTP)],
    )
    found = slices_of(laid(Objects(), files), ("shop", "s"))
    assert [(item["endpoints"][0]["addresses"], item["ports"]) for item in found] == [
        (["10.0.0.1"], [{"name": "http", "protocol": "TCP", "port": 8080}]),
        (["10.0.0.2"], [{"name": "http", "protocol": "TCP", "port": 9090}]),
    ]


def test_a_cluster_s_slices_stay_unless_pods_or_the_service_are_in_a_file():
    live = {"metadata": {"name": "s-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "s"}}, "endpoints": []}

    def base():
        return objects(
            pods=[pod("a", {"app": "x"}, "10.0.0.1")], services=[service("s", {"app": "x"}, {"port": 80})], endpointslices=[live]
        )

    policy = {"metadata": {"name": "p", "namespace": "shop"}, "spec": {}}
    assert slices_of(laid(base(), objects(networkpolicies=[policy])), ("shop", "s")) == [live]
    (made,) = slices_of(laid(base(), objects(pods=[pod("a", {"app": "x"})])), ("shop", "s"))
    assert made["endpoints"][0]["targetRef"] == {"kind": "Pod", "namespace": "shop", "name": "a"}
    assert made["ports"] == [{"name": "", "protocol": "TCP", "port": 80}]


def test_a_service_without_a_selector_and_slices_of_the_file_are_left_as_they_are():
    own = {"metadata": {"name": "s-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "s"}}, "endpoints": []}
    files = objects(services=[service("s", {"app": "x"}, {"port": 80}), service("t", None, {"port": 80})], endpointslices=[own])
    files.add("pods", pod("a", {"app": "x"}, "10.0.0.1"))
    found = laid(Objects(), files)
    assert slices_of(found, ("shop", "s")) == [own]
    assert slices_of(found, ("shop", "t")) == []


def test_a_service_of_a_file_has_an_address_and_one_that_the_cluster_has_keeps_its_own():
    files = objects(services=[service("new", {"app": "x"}), service("old", {"app": "x"}), service("alone", {"app": "x"}, clusterIP="None")])
    live = service("old", {"app": "y"}, clusterIP="10.96.0.7", clusterIPs=["10.96.0.7", "fd00::7"])
    found = laid(objects(services=[live]), files).kinds["services"]
    given = {name: item["spec"].get("clusterIPs") for (_, name), item in found.items()}
    assert (given["old"], given["alone"]) == (["10.96.0.7", "fd00::7"], None)
    assert len(given["new"]) == 1
    assert found["shop", "old"]["spec"]["selector"] == {"app": "x"}


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_service_of_one_family_gets_endpoints_of_that_family(family):
    files = objects(
        pods=[pod("a", {"app": "x"}, "10.0.0.1 fd00::1")], services=[service("s", {"app": "x"}, {"port": 80}, ipFamilies=[family])]
    )
    (made,) = slices_of(laid(Objects(), files), ("shop", "s"))
    assert made["addressType"] == family
    assert (":" in made["endpoints"][0]["addresses"][0]) == (family == "IPv6")
