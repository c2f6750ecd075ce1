"""NetworkPolicy by the real agent on the real kernel: what it cuts and lets, when, and what happens to it when the agent or the API does not."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .api import NAMESPACES, NODES, PODS, POLICIES
from .conftest import NODE, NODE_NAME, Agent, eventually, namespace_document, node_document, run
from .ends import ANSWER_SECONDS, PORT, End, exchanged, is_cut_off, reaches

Make = Callable[..., End]


@pytest.fixture
def end(node: Agent, pod: Callable[[str], str]) -> Iterator[Make]:
    """Makes pods that have their network and answer."""
    made: list[End] = []

    def make(name: str, *, add: bool = True, **options: Any) -> End:
        each = End(node, pod, name, **options)
        made.append(each)
        if add:
            status, result = each.add()
            assert status == 0, result
            each.serve()
        return each

    yield make
    for each in made:
        each.close()


def policy(name: str, spec: dict[str, Any], namespace: str = "default") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-of-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"podSelector": {}, **spec},
    }


def selecting(**labels: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": labels}}


def allow_to(target: dict[str, str], *peers: dict[str, Any], **rule: Any) -> dict[str, Any]:
    return {**selecting(**target), "ingress": [{"from": list(peers), **rule}] if peers or rule else []}


def closed(**target: str) -> dict[str, Any]:
    return {**selecting(**target), "policyTypes": ["Ingress"]}


def in_force(node: Agent) -> bool:
    return bool(node.ask("policy")["inForce"])


def test_a_policy_cuts_and_lets_in_both_families_and_goes_again(node: Agent, end: Make) -> None:
    node.start()
    web, friend, stranger = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"}), end("stranger")
    for family in (4, 6):
        reaches(stranger, web, family=family)
    node.api.put(POLICIES, policy("web", allow_to({"app": "web"}, selecting(role="friend"))))
    for family in (4, 6):
        is_cut_off(stranger, web, family=family)
        reaches(friend, web, family=family)
        reaches(web, stranger, family=family)  # its own way out is open
    stranger.put(role="friend")
    reaches(stranger, web)
    friend.put(role="foe")
    is_cut_off(friend, web)
    node.api.remove(POLICIES, "web", "default")
    reaches(friend, web)
    eventually(lambda: not node.kernel()["isolation"] and not node.kernel()["policies"] and not node.kernel()["classes"], what="no rows")


def test_egress_is_judged_too(node: Agent, end: Make) -> None:
    node.start()
    web, other, client = end("web", labels={"app": "web"}), end("other"), end("client", labels={"role": "client"})
    rules = [{"to": [selecting(app="web")], "ports": [{"protocol": "UDP", "port": PORT}]}]
    node.api.put(POLICIES, policy("client", {**selecting(role="client"), "policyTypes": ["Egress"], "egress": rules}))
    is_cut_off(client, other)
    reaches(client, web)
    with pytest.raises(OSError):
        client.connect(web, within=2.0)
    reaches(other, client)


def test_taking_an_allow_away_cuts_a_live_flow_and_deleting_the_last_policy_leaves_it(node: Agent, end: Make) -> None:
    node.start()
    web, friend = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"})
    node.api.put(POLICIES, policy("web", allow_to({"app": "web"}, selecting(role="friend"))))
    reaches(friend, web)
    connection = friend.connect(web)
    assert exchanged(connection, ANSWER_SECONDS)
    node.api.put(POLICIES, policy("web", closed(app="web")))
    eventually(lambda: not exchanged(connection, 0.5), within=45, what="the flow is cut")
    node.api.put(POLICIES, policy("web", allow_to({"app": "web"}, selecting(role="friend"))))
    eventually(lambda: exchanged(connection, 5.0), within=60, what="the flow goes on")
    node.api.remove(POLICIES, "web", "default")
    eventually(lambda: not node.kernel()["isolation"], what="no isolation")
    assert exchanged(connection, ANSWER_SECONDS)


def test_a_pod_has_no_network_before_its_policy_is_in_force(node: Agent, end: Make) -> None:
    """Its host end is down while its Pod is not known, and the runtime is told to try again."""
    node.start()
    node.api.put(POLICIES, policy("web", closed(app="web")))
    web = end("web", add=False, labels={"app": "web"})
    node.api.remove(PODS, "web", "default")
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(web.add)
        name = eventually(lambda: next(iter(node.links()), None), what="a host end")
        assert not adding.done()
        assert "state DOWN" in run("ip", "-n", NODE, "link", "show", name).stdout
        status, error = adding.result()
    assert (status, error["code"]) == (1, 11)
    assert "has not told anetd of this pod yet" in error["msg"]
    assert node.links() == []
    eventually(lambda: not node.kernel()["isolation"], what="no isolation")
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(web.add)
        eventually(node.links, what="a host end")
        web.put()
        status, result = adding.result()
    assert status == 0, result
    isolated = {str(address) for address in node.kernel()["isolation"]}
    assert isolated == set(web.addresses.values())


def test_an_older_pod_of_the_same_name_is_not_taken_for_the_new_one(node: Agent, end: Make) -> None:
    node.start()
    web = end("web", add=False)
    status, error = node.cni("ADD", "web", web.path, known=False, CNI_ARGS=web.arguments.replace("uid-of-web", "uid-of-another"))
    assert (status, error["code"]) == (1, 11)
    assert "only of an earlier one" in error["msg"]
    assert web.add()[0] == 0


class Flow:
    """Datagrams of a pod to another, one after the other as they are answered or given up, from a thread."""

    def __init__(self, client: End, server: End, *, allowed: bool) -> None:
        self.asked = self.answered = 0
        self._client, self._server, self._allowed = client, server, allowed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.asked += 1
            self.answered += self._client.ask(self._server, within=ANSWER_SECONDS if self._allowed else 0.05)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(ANSWER_SECONDS * 2)
        heard = sum(sender == self._client.addresses[4] for sender, _ in self._server.heard)
        if self._allowed:
            assert self.answered == self.asked > 0, f"{self.asked - self.answered} of {self.asked} were not answered"
        else:
            assert (self.answered, heard) == (0, 0), f"{heard} of {self.asked} arrived"
            assert self.asked > 0


def test_killed_in_the_middle_of_writing_nothing_is_let_through_or_cut_off(node: Agent, end: Make) -> None:
    node.start()
    web, friend, stranger = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"}), end("stranger")
    node.api.put(POLICIES, policy("web", allow_to({"app": "web"}, selecting(role="friend"))))
    is_cut_off(stranger, web)
    reaches(friend, web)
    web.heard.clear()
    flows = [Flow(friend, web, allowed=True), Flow(stranger, web, allowed=False)]
    blocks = [{"ipBlock": {"cidr": f"198.51.{number}.0/24"}} for number in range(200)]
    for attempt in range(6):
        # Both versions of every policy agree about the two pods, and disagree about hundreds of rows.
        peers = blocks[attempt % 2 * 100 :][:100]
        node.api.put(POLICIES, policy("web", allow_to({"app": "web"}, selecting(role="friend"), *peers)))
        node.api.put(POLICIES, policy(f"more-{attempt}", allow_to({"app": "web"}, *peers)))
        time.sleep(0.004 * attempt)
        node.kill()
        node.start()
        eventually(lambda: in_force(node), what="policies in force")
    for flow in flows:
        flow.end()


def test_an_agent_that_finds_the_api_away_leaves_what_is_in_force(node: Agent, end: Make) -> None:
    node.start()
    web, stranger, nobody = end("web", labels={"app": "web"}), end("stranger"), end("nobody", add=False)
    node.api.remove(PODS, "nobody", "default")
    node.api.put(POLICIES, policy("web", closed(app="web")))
    is_cut_off(stranger, web)
    before = {name: node.kernel()[name] for name in ("isolation", "classes", "policies")}
    node.api.silent = True
    node.api.hang_up()
    eventually(lambda: not node.status()["api"]["pods"]["connected"], what="the API is missed")
    status, error = nobody.add()
    assert (status, error["code"]) == (1, 11)
    assert "does not answer at the moment" in error["msg"]
    node.kill()
    node.start(wait=False)
    eventually(lambda: node.status().get("endpoints"), what="the agent serves CNI")
    status, error = nobody.add()
    assert (status, error["code"]) == (1, 11)
    assert "has not heard yet from the API server" in error["msg"]
    # What the refused ADD had written goes after its answer.
    eventually(lambda: {name: node.kernel()[name] for name in before} == before, what="the tables are as before")
    is_cut_off(stranger, web)
    node.api.remove(POLICIES, "web", "default")
    node.api.silent = False
    eventually(lambda: node.status()["ready"], within=60, what="ready")
    reaches(stranger, web)


def test_while_the_api_is_away_a_pod_that_is_known_gets_its_network(node: Agent, end: Make) -> None:
    node.start()
    node.api.put(POLICIES, policy("web", closed(app="web")))
    web, stranger = end("web", add=False, labels={"app": "web"}), end("stranger")
    eventually(lambda: node.ask("policy")["known"]["pods"] == 2, what="both pods are known")
    node.api.silent = True
    node.api.hang_up()
    eventually(lambda: not node.status()["api"]["pods"]["connected"], what="the API is missed")
    status, result = web.add()
    assert status == 0, result
    web.serve()
    is_cut_off(stranger, web)


def test_a_policy_that_flaps_ends_as_it_is_and_never_touches_others(node: Agent, end: Make) -> None:
    node.start()
    web, friend, stranger = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"}), end("stranger")
    node.api.put(POLICIES, policy("base", allow_to({"app": "web"}, selecting(role="friend"))))
    is_cut_off(stranger, web)
    reaches(friend, web)
    web.heard.clear()
    steady = Flow(friend, web, allowed=True)
    for number in range(40):
        if number % 2:
            node.api.remove(POLICIES, "flapping", "default")
        else:
            node.api.put(POLICIES, policy("flapping", allow_to({"app": "web"}, {"podSelector": {}})))
        time.sleep(0.1)
    is_cut_off(stranger, web)
    steady.end()
    node.api.put(POLICIES, policy("flapping", allow_to({"app": "web"}, {"podSelector": {}})))
    reaches(stranger, web)


def test_a_thousand_policies_on_one_pod(node: Agent, end: Make) -> None:
    node.start()
    web, friend, stranger = end("web", labels={"app": "web"}), end("friend", labels={"role": "r999"}), end("stranger")
    for number in range(1000):
        node.api.put(POLICIES, policy(f"p{number}", allow_to({"app": "web"}, selecting(role=f"r{number}"))))
    eventually(lambda: node.ask("policy")["known"]["policies"] == 1000, within=60, what="all policies are known")
    reaches(friend, web)
    is_cut_off(stranger, web)
    (row,) = [row for row in node.ask("endpoints") if row["address"] == web.addresses[4]]
    assert len(row["policy"]["ingress"]["policies"]) == 1000
    node.api.remove(POLICIES, "p999", "default")
    is_cut_off(friend, web)
    for number in range(999):
        node.api.remove(POLICIES, f"p{number}", "default")
    reaches(stranger, web)


def test_an_address_that_is_used_again_at_once_is_judged_as_its_new_pods(node: Agent, end: Make) -> None:
    """Two addresses for two pods at a time: each new pod has the address of one that has just gone."""
    node.api.put(NODES, node_document(NODE_NAME, ["10.99.1.0/29"], ["192.0.2.10"]))
    node.api.put(POLICIES, policy("secret", closed(kind="secret")))
    node.api.put(POLICIES, policy("public", allow_to({"kind": "public"}, selecting(kind="client"))))
    node.start()
    client = end("client", labels={"kind": "client"})
    used: set[str] = set()
    for number in range(12):
        kind = "secret" if number % 2 else "public"
        others = [end(f"{kind}-{number}-{each}", labels={"kind": kind}) for each in range(4)]
        used |= {other.addresses[4] for other in others}
        for other in others:
            if kind == "public":
                reaches(client, other)
            else:
                assert not client.ask(other)
        for other in others:
            if kind == "secret":
                assert other.heard == []
            other.delete()
    assert len(used) == 4
    reaches_after = end("public-last", labels={"kind": "public"})
    reaches(client, reaches_after)


def test_a_namespace_that_is_relabelled_while_pods_start(node: Agent, end: Make) -> None:
    node.start()
    node.api.put(NAMESPACES, namespace_document("team"))
    web = end("web", labels={"app": "web"})
    node.api.put(POLICIES, policy("web", allow_to({"app": "web"}, {"namespaceSelector": {"matchLabels": {"trusted": "yes"}}})))
    probe = end("probe")
    is_cut_off(probe, web)
    others = []
    for number in range(10):
        node.api.put(NAMESPACES, namespace_document("team", **({"trusted": "yes"} if number % 2 else {})))
        others.append(end(f"other-{number}", namespace="team"))
    for other in others:
        reaches(other, web)
    node.api.put(NAMESPACES, namespace_document("team"))
    for other in others:
        is_cut_off(other, web)


def test_a_pod_that_is_deleted_by_force_keeps_its_policy_until_its_sandbox_is_gone(node: Agent, end: Make) -> None:
    node.start()
    node.api.put(POLICIES, policy("web", closed(app="web")))
    web, stranger = end("web", labels={"app": "web"}), end("stranger")
    is_cut_off(stranger, web)
    node.api.remove(PODS, "web", "default")
    node.api.put(POLICIES, policy("another", closed(app="other")))
    eventually(lambda: node.ask("policy")["known"] == {"pods": 1, "namespaces": 1, "policies": 2}, what="what there is")
    is_cut_off(stranger, web)
    node.kill()
    node.start()
    is_cut_off(stranger, web)
    assert web.node.cni("DEL", "web", web.path)[0] == 0
    eventually(lambda: not node.kernel()["isolation"], what="no isolation")


def test_a_lost_store_leaves_no_pod_open(node: Agent, end: Make) -> None:
    node.start()
    node.api.put(POLICIES, policy("web", closed(app="web")))
    web, stranger = end("web", labels={"app": "web"}), end("stranger")
    is_cut_off(stranger, web)
    web.heard.clear()
    flow = Flow(stranger, web, allowed=False)
    node.kill()
    shutil.rmtree(node.directory / "state")
    node.start()
    eventually(lambda: in_force(node), what="policies in force")
    is_cut_off(stranger, web)
    flow.end()


def metrics(node: Agent) -> str:
    return run("ip", "netns", "exec", NODE, "curl", "-sS", "--max-time", "5", "http://127.0.0.1:9879/metrics").stdout


def metric(node: Agent, name: str) -> float:
    return float(next(line for line in metrics(node).splitlines() if line.startswith(f"{name} ")).split()[1])


def test_a_table_that_is_full_closes_the_pod_with_an_event_and_opens_it_again(node: Agent, end: Make) -> None:
    (node.directory / "sizes.json").write_text('{"policies": 64}')
    node.start()
    web, friend = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"})
    small = policy("web", allow_to({"app": "web"}, selecting(role="friend")))
    node.api.put(POLICIES, small)
    reaches(friend, web)
    ports = [{"protocol": "TCP", "port": 2 * number + 1} for number in range(200)]
    node.api.put(POLICIES, policy("large", allow_to({"app": "web"}, selecting(role="friend"), ports=ports)))
    is_cut_off(friend, web)
    eventually(lambda: metric(node, "anetd_policy_pods_closed") == 1, what="the metric")
    told = eventually(lambda: [each for each in node.api.told.values() if each["reason"] == "PolicyDoesNotFit"], what="the event")
    assert {each["regarding"]["kind"] for each in told} == {"NetworkPolicy"}
    assert "large" in {each["regarding"]["name"] for each in told}
    assert node.ask("policy")["troubles"]
    node.api.remove(POLICIES, "large", "default")
    reaches(friend, web)
    eventually(lambda: metric(node, "anetd_policy_pods_closed") == 0, what="the metric")


def test_counters_follow_rules_and_go_with_them(node: Agent, end: Make) -> None:
    node.start()
    web, friend, stranger = end("web", labels={"app": "web"}), end("friend", labels={"role": "friend"}), end("stranger")
    node.api.put(POLICIES, policy("web", allow_to({"app": "web"}, selecting(role="friend"))))
    is_cut_off(stranger, web)
    reaches(friend, web)
    (row,) = [row for row in node.ask("endpoints") if row["address"] == web.addresses[4]]
    ingress = row["policy"]["ingress"]
    assert ingress["policies"] == ["default/web"]
    assert ingress["denied"]["packets"] >= 1
    assert [(each["rules"], each["packets"] >= 1) for each in ingress["allowed"]] == [(["default/web ingress[0]"], True)]
    assert row["policy"]["egress"]["isolated"] is False
    drops = {(row["reason"], row["direction"]): row["packets"] for row in node.status()["drops"]}
    assert sum(count for (reason, _), count in drops.items() if reason == "INGRESS_DENIED") >= 1
    (shown,) = node.ask("policy default/web")["policies"]
    assert shown["pods"] == ["default/web"]
    assert "anetd_policy_in_force 1" in metrics(node)
    found = node.ask(f'conntrack {{"address": ["{friend.addresses[4]}"]}}')
    assert {flow["toPod"] for flow in found["flows"] if flow["protocol"] == "UDP"} == {"default/web"}
