"""The real agent process and the real plugin, on a node of the test's own: pods come, go, and survive what happens to the agent."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agent.datapath.socketlb import HOOKS
from tests.datapath.socket_lab import make_cgroup, remove_cgroup

from .api import NODES, PODS, SERVICES, SLICES
from .conftest import NODE, NODE_NAME, POD_PREFIX, Agent, eventually, node_document, pod_document, run

Pod = Callable[[str], str]


def test_a_pod_gets_a_network_that_reaches_the_node_and_loses_it_again(node: Agent, pod: Pod) -> None:
    node.start()
    path = pod("a")
    status, result = node.cni("ADD", "a", path)
    assert status == 0, result
    assert [ip["address"] for ip in result["ips"]] == ["10.99.1.2/32", "fd00:99:1::2/128"]
    assert result["interfaces"][1]["sandbox"] == path
    for address in ("192.0.2.10", "2001:db8::10"):
        run("ip", "netns", "exec", POD_PREFIX + "a", "ping", "-c1", "-W1", address)
    for address in ("10.99.1.2", "fd00:99:1::2"):
        run("ip", "netns", "exec", NODE, "ping", "-c1", "-W1", address)
    assert node.links() == [result["interfaces"][0]["name"]]
    assert node.kernel()["pods"] == node.links()
    assert {str(address) for address in node.kernel()["endpoints"]} == {"10.99.1.2", "fd00:99:1::2"}
    assert node.cni("CHECK", "a", path) == (0, None)
    assert node.cni("DEL", "a", path) == (0, None)
    assert_nothing_left(node)
    assert node.cni("CHECK", "a", path)[1]["code"] == 3


def assert_nothing_left(node: Agent) -> None:
    kernel = node.kernel()
    assert node.links() == []
    assert kernel["links"] == ["device-egress", "device-ingress"]
    assert kernel["endpoints"] == {}
    status = node.status()
    assert status["ipam"]["allocated"] == []
    assert status["endpoints"] == []
    assert run("ip", "-n", NODE, "route", "show", "proto", "173").stdout == ""


def test_adding_twice_answers_the_same_and_makes_nothing_twice(node: Agent, pod: Pod) -> None:
    node.start()
    path = pod("a")
    first = node.cni("ADD", "a", path)
    assert node.cni("ADD", "a", path) == first
    run("ip", "-n", POD_PREFIX + "a", "link", "del", "eth0")
    status, _ = node.cni("ADD", "a", path)
    assert status == 0
    assert len(node.links()) == 1
    assert len(node.status()["ipam"]["allocated"]) == 2
    assert node.cni("CHECK", "a", path) == (0, None)


def test_deleting_is_right_for_unknown_containers_lost_namespaces_and_repetition(node: Agent, pod: Pod) -> None:
    node.start()
    assert node.cni("DEL", "never-added") == (0, None)
    path = pod("a")
    node.cni("ADD", "a", path)
    run("ip", "netns", "del", POD_PREFIX + "a")
    assert node.cni("DEL", "a", path) == (0, None)
    assert node.cni("DEL", "a", path) == (0, None)
    assert_nothing_left(node)


def test_check_names_what_is_wrong(node: Agent, pod: Pod) -> None:
    node.start()
    path = pod("a")
    node.cni("ADD", "a", path)
    run("ip", "-n", POD_PREFIX + "a", "addr", "flush", "dev", "eth0")
    status, error = node.cni("CHECK", "a", path)
    assert status == 1
    assert "lacks the address 10.99.1.2" in error["msg"]


def test_gc_takes_away_what_is_not_in_use(node: Agent, pod: Pod) -> None:
    node.start()
    for name in ("a", "b"):
        node.cni("ADD", name, pod(name))
    valid = [{"containerID": "b", "ifname": "eth0"}]
    config = json.dumps({"cniVersion": "1.1.0", "name": "anetd", "type": "anetd-cni", "cni.dev/valid-attachments": valid}).encode()
    assert node.cni("GC", "", config=config) == (0, None)
    assert [row["pod"] for row in node.ask("endpoints")] == ["default/b"] * 2
    assert len(node.links()) == 1


def test_addresses_used_up_is_an_error_that_names_the_network(node: Agent, pod: Pod) -> None:
    node.api.put(NODES, node_document(NODE_NAME, ["10.99.1.0/29"], ["192.0.2.10"]))
    node.start()
    for number in range(5):
        assert node.cni("ADD", f"p{number}", pod(f"p{number}"))[0] == 0
    status, error = node.cni("ADD", "one-more", pod("more"))
    assert status == 1
    assert error["code"] == 100
    assert "10.99.1.0/29" in error["msg"]
    assert "all 5" in error["msg"]
    assert node.cni("DEL", "p3")[0] == 0
    assert node.cni("ADD", "one-more", f"/run/netns/{POD_PREFIX}more")[0] == 0


def test_a_pod_that_vanished_without_a_word_gives_its_address_back_when_it_is_needed(node: Agent, pod: Pod) -> None:
    node.api.put(NODES, node_document(NODE_NAME, ["10.99.1.0/30"], ["192.0.2.10"]))
    node.start()
    assert node.cni("ADD", "a", pod("a"))[0] == 0
    run("ip", "netns", "del", POD_PREFIX + "a")
    assert node.cni("ADD", "b", pod("b"))[0] == 0


def test_waves_of_pods_leave_nothing(node: Agent, pod: Pod) -> None:
    node.start()

    def add(name: str, path: str) -> None:
        status, result = node.cni("ADD", name, path)
        assert status == 0, result

    for wave in range(5):
        names = [f"w{wave}-{number}" for number in range(20)]
        paths = {name: pod(name) for name in names}
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, names, paths.values()))
            assert len(set(node.status()["ipam"]["allocated"])) == 40
            if wave == 1:
                memory = node.status()["memoryBytes"] / (1 << 20)
                print(f"resident with 20 pods: {memory:.1f} MiB")
                assert memory < 64
            list(pool.map(lambda name, path: node.cni("DEL", name, path), names, paths.values()))
    assert_nothing_left(node)


def test_a_killed_agent_adopts_its_pods_and_repairs_what_was_half_done(node: Agent, pod: Pod) -> None:
    node.start()
    keep = pod("keep")
    _, before = node.cni("ADD", "keep", keep)
    gone = pod("gone")
    node.cni("ADD", "gone", gone)
    node.kill()
    run("ip", "netns", "del", POD_PREFIX + "gone")
    assert node.cni("ADD", "x", keep)[1]["code"] == 11
    node.start()
    assert len(node.links()) == 1
    assert node.status()["ipam"]["allocated"] == ["10.99.1.2", "fd00:99:1::2"]
    assert node.cni("ADD", "keep", keep) == (0, before)
    assert node.cni("CHECK", "keep", keep) == (0, None)
    _, another = node.cni("ADD", "new", pod("new"))
    # Neither the living pod's address nor, so soon, the one that was released.
    assert another["ips"][0]["address"] not in {"10.99.1.2/32", "10.99.1.3/32"}


def test_a_lost_store_does_not_take_running_pods_along(node: Agent, pod: Pod) -> None:
    node.start()
    path = pod("a")
    node.cni("ADD", "a", path)
    node.kill()
    shutil.rmtree(node.directory / "state")
    node.start()
    run("ip", "netns", "exec", POD_PREFIX + "a", "ping", "-c1", "-W1", "192.0.2.10")
    _, another = node.cni("ADD", "b", pod("b"))
    assert another["ips"][0]["address"] != "10.99.1.2/32"
    assert node.cni("DEL", "b") == (0, None)
    assert node.cni("DEL", "a") == (0, None)
    assert_nothing_left(node)


def test_a_node_whose_pod_cidr_changed_is_served_by_an_agent_that_starts_anew(node: Agent, pod: Pod) -> None:
    node.start()
    node.api.put(NODES, node_document(NODE_NAME, ["10.99.7.0/24"], ["192.0.2.10"]))
    assert node.process is not None
    assert node.process.wait(10) == 1
    assert "starts anew" in node.logged()
    node.start()
    _, result = node.cni("ADD", "a", pod("a"))
    assert [row["address"] for row in result["ips"]] == ["10.99.7.2/32"]


def test_a_full_run_directory_is_said_and_the_plugin_asks_to_try_again(node: Agent) -> None:
    (node.directory / "run").mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "tmpfs", str(node.directory / "run"))
    try:
        node.start(wait=False)
        assert node.process is not None
        assert node.process.wait(10) == 1
        assert "No space left" in node.logged()
        assert node.cni("ADD", "a", "/run/netns/x")[1]["code"] == 11
    finally:
        run("umount", str(node.directory / "run"))


def test_killed_at_any_moment_of_an_add_leaves_what_the_next_start_repairs(node: Agent, pod: Pod) -> None:
    node.start()
    path = pod("a")
    for attempt in range(12):
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(node.cni, "ADD", f"c{attempt}", path)
            time.sleep(0.0015 * attempt)
            node.kill()
            status, answer = adding.result()
        assert status == 0 or answer["code"] == 11
        node.start()
        if status == 0:
            assert node.cni("CHECK", f"c{attempt}", path) == (0, None)
        else:
            assert node.cni("ADD", f"c{attempt}", path)[0] == 0
        assert len(node.links()) == 1
        assert node.cni("DEL", f"c{attempt}", path) == (0, None)
        assert_nothing_left(node)


def test_sigterm_ends_it_and_leaves_everything(node: Agent, pod: Pod) -> None:
    node.start()
    node.cni("ADD", "a", pod("a"))
    before = node.kernel()
    assert node.kill(signal.SIGTERM) == 0
    assert node.kernel() == before
    assert len(node.links()) == 1
    assert (node.directory / "net.d/05-anetd.conflist").exists()


def test_a_process_that_is_not_root_is_refused(node: Agent) -> None:
    node.start()
    directory = node.directory / "run"
    for path, mode in ((node.directory, 0o755), (directory, 0o755), (directory / "cni.sock", 0o666)):
        path.chmod(mode)
    script = f"""
import socket
s = socket.socket(socket.AF_UNIX)
s.connect({str(directory / "cni.sock")!r})
print(s.recv(1000).decode())
"""
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-c", script], capture_output=True, text=True, check=True
    )
    assert '"code": 103' in done.stdout


def test_garbage_on_the_socket_is_answered_and_harms_nobody(node: Agent) -> None:
    node.start()
    for stdin, code in ((b"{", 6), (b"[]", 6), (b'{"cniVersion":"9.9.9","name":"x"}', 1), (b'{"cniVersion":"1.0.0"}', 7), (b"", 6)):
        status, error = node.cni("ADD", "a", "/run/netns/x", config=stdin)
        assert (status, error["code"]) == (1, code)
    assert node.cni("ADD", "a b", "/run/netns/x")[1]["code"] == 4
    assert node.cni("ADD", "a", "/etc/hostname")[1]["code"] == 3
    assert node.cni("STATUS", "")[0] == 0


def test_the_cni_configuration_and_the_plugin_appear_when_pods_can_be_served(node: Agent) -> None:
    node.api.remove(NODES, NODE_NAME)
    node.start(wait=False)
    eventually(lambda: "pod CIDRs" in node.status().get("waitingFor", ""))
    assert not (node.directory / "net.d").exists()
    node.api.put(NODES, node_document(NODE_NAME, ["10.99.1.0/24"], ["192.0.2.10"]))
    eventually(lambda: node.status().get("ready"))
    document = json.loads((node.directory / "net.d/05-anetd.conflist").read_text())
    assert document["plugins"] == [{"type": "anetd-cni", "capabilities": {"portMappings": True}}]
    assert (node.directory / "bin/anetd-cni").stat().st_mode & 0o777 == 0o755


def test_services_follow_the_api(node: Agent) -> None:
    service = {
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.98.0.9", "clusterIPs": ["10.98.0.9"], "ports": [{"port": 80, "protocol": "TCP"}]},
    }
    ends = {
        "metadata": {"namespace": "default", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.99.1.7"], "conditions": {"ready": True}},
            {"addresses": ["10.99.2.7"], "conditions": {"ready": False}},
        ],
    }
    node.api.put(SERVICES, service)
    node.api.put(SLICES, ends)
    node.start()
    assert [row["backends"] for row in node.ask("services")] == [["10.99.1.7:8080"]]
    ends["endpoints"][1]["conditions"]["ready"] = True  # type: ignore[index]
    began = time.monotonic()
    node.api.put(SLICES, ends)
    eventually(lambda: len(node.kernel()["backends"]) == 2)
    print(f"slice to table: {(time.monotonic() - began) * 1000:.0f} ms")
    node.api.remove(SERVICES, "web", "default")
    eventually(lambda: node.kernel()["frontends"] == {} and node.kernel()["backends"] == {} and node.kernel()["backend_slots"] == {})


def test_a_killed_agent_adopts_the_rows_of_services_and_finds_what_changed_meanwhile(node: Agent) -> None:
    def web(name: str, address: str) -> dict[str, Any]:
        spec = {"type": "NodePort", "clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80, "nodePort": 30080}]}
        return {"metadata": {"namespace": "default", "name": name, "creationTimestamp": f"2026-01-01T00:00:0{address[-1]}Z"}, "spec": spec}

    def ends(*addresses: str) -> dict[str, Any]:
        return {
            "metadata": {"namespace": "default", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address]} for address in addresses],
        }

    node.api.put(SERVICES, web("web", "10.98.0.1"))
    node.api.put(SERVICES, web("newer", "10.98.0.2"))
    node.api.put(SLICES, ends("10.99.1.7", "10.99.2.7"))
    node.start()
    before = node.kernel()
    assert len(before["frontends"]) == 5  # two cluster addresses, their marks, one node port: the older one's
    assert len(before["maglev"]) == 1
    (newer,) = node.ask("services default/newer")
    assert [row["heldBy"] for row in newer["frontends"]] == ["", "default/web"]
    assert [row["service"] for row in node.ask("services")] == ["default/newer", "default/web"]
    node.kill()
    node.start()
    assert node.kernel() == before
    node.kill()
    node.api.remove(SERVICES, "newer", "default")
    node.api.put(SLICES, ends("10.99.2.7"))
    node.start()
    after = node.kernel()
    assert len(after["frontends"]) == 3
    assert after["backends"].items() < before["backends"].items()
    assert {row.service_id for row in after["frontends"].values()} <= {row.service_id for row in before["frontends"].values()}


def test_routes_follow_nodes_in_both_modes(node: Agent) -> None:
    node.api.put(NODES, node_document("node-b", ["10.99.2.0/24", "fd00:99:2::/64"], ["192.0.2.11", "2001:db8::11"]))
    node.start()
    assert "10.99.2.0/24 via 192.0.2.11 dev dev0" in run("ip", "-n", NODE, "route").stdout
    assert "fd00:99:2::/64 via 2001:db8::11 dev dev0" in run("ip", "-n", NODE, "-6", "route").stdout
    node.api.put(NODES, node_document("node-b", ["10.99.3.0/24"], ["192.0.2.11"]))
    eventually(lambda: "10.99.3.0/24" in run("ip", "-n", NODE, "route").stdout)
    eventually(lambda: "10.99.2.0/24" not in run("ip", "-n", NODE, "route").stdout)
    node.kill(signal.SIGTERM)
    node.configure(routingMode="vxlan")
    node.start()
    assert "10.99.3.0/24 via 10.99.3.0 dev anetd-vxlan proto 173 onlink" in run("ip", "-n", NODE, "route").stdout
    assert "10.99.3.0 lladdr" in run("ip", "-n", NODE, "neigh", "show", "dev", "anetd-vxlan").stdout
    assert node.status()["mtu"] == 1450
    node.api.remove(NODES, "node-b")
    eventually(lambda: "10.99.3.0/24" not in run("ip", "-n", NODE, "route").stdout)
    eventually(lambda: "10.99.3.0" not in run("ip", "-n", NODE, "neigh").stdout)
    assert [str(network) for network in node.kernel()["routes"] if str(network).startswith("10.99.3")] == []


def test_an_api_server_that_is_away_changes_nothing_even_over_a_restart(node: Agent, pod: Pod) -> None:
    service = {
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.98.0.9", "clusterIPs": ["10.98.0.9"], "ports": [{"port": 80, "protocol": "TCP"}]},
    }
    node.api.put(SERVICES, service)
    node.start()
    node.cni("ADD", "a", pod("a"))
    node.api.put(PODS, pod_document("b"))
    eventually(lambda: node.ask("policy")["known"]["pods"] == 2)
    before = node.kernel()
    node.api.silent = True
    node.api.hang_up()
    eventually(lambda: not node.status()["api"]["nodes"]["connected"])
    assert node.kernel() == before
    assert node.cni("ADD", "b", pod("b"))[0] == 0  # it is known; who is not has to wait
    node.kill()
    node.start(wait=False)
    eventually(lambda: node.status().get("endpoints"))
    assert node.cni("ADD", "b", f"/run/netns/{POD_PREFIX}b")[0] == 0
    assert node.cni("DEL", "b", f"/run/netns/{POD_PREFIX}b")[0] == 0
    assert node.kernel()["frontends"] == before["frontends"]
    node.api.remove(SERVICES, "web", "default")
    node.api.silent = False
    eventually(lambda: node.status()["ready"], within=20)
    eventually(lambda: node.kernel()["frontends"] == {})


def test_a_history_that_was_forgotten_is_listed_anew(node: Agent) -> None:
    node.start()
    node.api.requests.clear()
    node.api.objects[NODES]["/node-b"] = {**node_document("node-b", ["10.99.2.0/24"], ["192.0.2.11"])}
    node.api.forget_history()
    eventually(lambda: "10.99.2.0/24" in run("ip", "-n", NODE, "route").stdout)
    assert any("watch" not in request for request in node.api.requests)


def test_health_pages_and_metrics(node: Agent, pod: Pod) -> None:
    node.start()
    node.cni("ADD", "a", pod("a"))

    def page(path: str) -> str:
        return run("ip", "netns", "exec", NODE, "curl", "-sS", "--max-time", "3", f"http://127.0.0.1:9879{path}").stdout

    assert page("/healthz").startswith("ok")
    assert page("/readyz") == "ok\n"
    text = page("/metrics")
    assert 'anetd_cni_request_duration_seconds_count{command="ADD"} 1' in text
    assert "anetd_endpoints 1" in text


def test_secrets_are_not_in_the_log(node: Agent) -> None:
    node.start()
    assert "a-token-for-tests" not in node.logged()
    for line in node.logged().splitlines():
        json.loads(line)
    assert (node.directory / "run").stat().st_mode & 0o777 == 0o700
    assert (node.directory / "run/cni.sock").stat().st_mode & 0o777 == 0o600


def test_it_says_whether_services_are_taken_at_the_socket(node: Agent) -> None:
    """Its cgroup2 root is what the test makes it: the machine's own is not the test's to attach to."""
    node.start()
    state = node.status()["socketLB"]
    assert (state["on"], "cgroup2" in state["reason"]) == (False, True)
    assert "no load balancing at the socket" in node.logged()
    node.kill()
    cgroup = make_cgroup("sk-agent")
    try:
        (node.directory / "cgroup").symlink_to(cgroup)
        for _ in range(2):
            node.start()
            assert node.status()["socketLB"] == {"on": True, "reason": ""}
            assert [link for link in node.kernel()["links"] if link.startswith("socket-")] == sorted(f"socket-{hook}" for hook in HOOKS)
            node.kill()
        node.configure(socketLB=False)
        node.start()
        assert node.status()["socketLB"] == {"on": False, "reason": "switched off in the configuration"}
        assert node.kernel()["links"] == ["device-egress", "device-ingress"]
    finally:
        remove_cgroup(cgroup)
