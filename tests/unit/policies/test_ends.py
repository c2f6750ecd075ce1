"""Names and ports of the command line, and the nearest ones where they are wrong."""

from __future__ import annotations

import pytest

from provisioner import errors
from provisioner.policies.ends import nearest, question
from provisioner.policies.objects import Objects, overlay

from .test_objects import objects, pod, service

CONTAINERS = [{"ports": [{"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]
PORTS = ({"name": "http", "port": 80, "targetPort": "web"}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53})


@pytest.fixture
def cluster():
    files = objects(
        pods=[
            pod("front", {}, "10.0.0.1"),
            pod("back", {"app": "back"}, "10.0.0.2 fd00::2", containers=CONTAINERS),
            pod("both", {}, "10.0.0.3"),
            pod("front", {}, "10.0.0.4", namespace="mon"),
            {**pod("job"), "status": {"phase": "Succeeded", "podIPs": [{"ip": "10.0.0.9"}]}},
        ],
        services=[
            service("web", {"app": "back"}, *PORTS),
            service("both", {"app": "back"}, {"port": 80}),
            service("alone", {"app": "back"}, PORTS[0], clusterIP="None"),
            service("empty", {"app": "nobody"}, {"port": 80}),
            service("away", None, {"port": 80}, type="ExternalName", externalName="example.com"),
        ],
    )
    base = Objects()
    overlay(base, files)
    base.add("pods", pod("young"))
    return base


@pytest.mark.parametrize(
    ("ends", "port", "protocol", "wanted"),
    [
        ("shop/front shop/back", "8080", None, "pod:shop/front pod:shop/back 8080 TCP"),
        ("shop/front shop/back", "web", None, "pod:shop/front pod:shop/back 8080 TCP"),
        ("shop/front shop/back", "dns", "udp", "pod:shop/front pod:shop/back 53 UDP"),
        ("shop/front shop/back", "1", "SCTP", "pod:shop/front pod:shop/back 1 SCTP"),
        ("shop/front shop/web", "80", None, "pod:shop/front service:shop/web 80 TCP"),
        ("shop/front shop/web", "http", None, "pod:shop/front service:shop/web 80 TCP"),
        ("shop/front shop/web", "dns", None, "pod:shop/front service:shop/web 53 UDP"),
        ("shop/front shop/web", "53", None, "pod:shop/front service:shop/web 53 TCP"),
        ("shop/front shop/web", "53", "UDP", "pod:shop/front service:shop/web 53 UDP"),
        ("shop/front svc:shop/both", "80", None, "pod:shop/front service:shop/both 80 TCP"),
        ("shop/front pod:shop/both", "80", None, "pod:shop/front pod:shop/both 80 TCP"),
        ("shop/front shop/alone", "http", None, "pod:shop/front service:shop/alone http TCP"),
        ("shop/front shop/alone", "9999", None, "pod:shop/front service:shop/alone 9999 TCP"),
        ("shop/front shop/back", "", "icmp", "pod:shop/front pod:shop/back  ICMP"),
        ("shop/both 192.0.2.1", "443", None, "pod:shop/both 192.0.2.1 443 TCP"),
        ("2001:db8::1 shop/back", "443", "UDP", "2001:db8::1 pod:shop/back 443 UDP"),
    ],
)
def test_a_question_is_what_the_words_say(cluster, ends, port, protocol, wanted):
    asked = question(cluster, *ends.split(), port, protocol)
    assert f"{asked.source} {asked.target} {asked.port} {asked.protocol}" == wanted


@pytest.mark.parametrize(
    ("ends", "port", "protocol", "kind", "field", "words"),
    [
        ("shop/frint shop/back", "80", None, errors.NotFound, "--from", "shop/front"),
        ("shop/front shop/bakc", "80", None, errors.NotFound, "--to", "shop/back"),
        ("sohp/front shop/back", "80", None, errors.NotFound, "--from", "Did you mean shop/front or mon/front"),
        ("shop/front shop/wbe", "80", None, errors.NotFound, "--to", "shop/web"),
        ("shop/front shop/job", "80", None, errors.NotFound, "--to", "ended"),
        ("shop/young shop/back", "80", None, errors.NotFound, "--from", "no address yet"),
        ("shop/web shop/back", "80", None, errors.Usage, "--from", "a Service sends nothing"),
        ("shop/front shop/both", "80", None, errors.Usage, "--to", "pod:shop/both or service:shop/both"),
        ("front shop/back", "80", None, errors.Usage, "--from", "NAMESPACE/POD"),
        ("shop/front job:shop/back", "80", None, errors.Usage, "--to", "NAMESPACE/SERVICE"),
        ("shop/front 10.0.0.300", "80", None, errors.Usage, "--to", "an address"),
        ("shop/front shop/web", "8080", None, errors.NotFound, "--port", "80/TCP (http), 53/UDP (dns), 53/TCP (dns-tcp)"),
        ("shop/front shop/web", "80", "UDP", errors.NotFound, "--port", "80/TCP (http)"),
        ("shop/front shop/back", "http", None, errors.NotFound, "--port", "web (8080/TCP), dns (53/UDP)"),
        ("shop/front shop/back", "dns", None, errors.NotFound, "--port", "web (8080/TCP)"),
        ("shop/back shop/front", "web", None, errors.NotFound, "--port", "It names none"),
        ("shop/front shop/back", "0", None, errors.Usage, "--port", "65535"),
        ("shop/front shop/back", "65536", None, errors.Usage, "--port", "65535"),
        ("shop/front 192.0.2.1", "http", None, errors.Usage, "--port", "number"),
        ("shop/front shop/back", "80", "GRE", errors.Usage, "--protocol", "TCP, UDP, SCTP"),
        ("shop/front shop/back", "80", "ICMP", errors.Usage, "--port", "Leave it out"),
        ("shop/front shop/web", "", "ICMP", errors.Usage, "--to", "Name a pod"),
        ("shop/front shop/empty", "80", None, errors.NotFound, "--to", "no endpoints"),
        ("shop/front shop/away", "80", None, errors.Usage, "--to", "example.com"),
    ],
)
def test_what_is_wrong_is_told_with_its_flag_and_the_way_out(cluster, ends, port, protocol, kind, field, words):
    with pytest.raises(kind) as caught:
        question(cluster, *ends.split(), port, protocol)
    assert caught.value.field == field
    assert words in f"{caught.value.message} {caught.value.remedy}"


def test_the_nearest_are_those_of_the_same_beginning_then_the_same_name_elsewhere_then_the_alike():
    names = ["shop/front-7d4f", "mon/front", "shop/frint", "shop/back"]
    assert nearest("shop/front", names) == ["shop/front-7d4f", "mon/front", "shop/frint"]
    assert nearest("x/y", names) == []
