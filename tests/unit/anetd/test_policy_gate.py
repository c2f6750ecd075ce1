"""Between CNI and the policy loop: who may have a network when, and what the loop hears of addresses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import ip_address

import pytest

from agent.cni.policygate import PolicyGate, pod_key
from agent.cni.protocol import Attachment, CniError, Code
from agent.cni.store import Record, State
from agent.watch.policy_records import Pod
from agent.watch.policy_records import pod as decode_pod
from agent.watch.records import Key

KEY = Key("n", "web")
A1, A2 = ip_address("10.1.0.1"), ip_address("10.1.0.2")


def record(container: str, *addresses: str, pod: str = "n/web") -> Record:
    held = tuple(ip_address(each) for each in addresses) or (A1,)
    return Record(Attachment(container, "eth0"), State.INTENT, held, "/run/netns/x", (1, 2), 1500, 1, pod)


class Loop:
    """A gate with Pods that its test knows, and threads that wait at it."""

    def __init__(self, seconds: float = 30.0) -> None:
        self.pods: dict[Key, Pod] = {}
        self.woken = 0
        self.gate = PolicyGate(self.wake, lambda pod, uid: f"{pod} {uid} is not known", seconds)
        self.pool = ThreadPoolExecutor(4)

    def wake(self) -> None:
        self.woken += 1

    def know(self, uid: str, key: Key = KEY) -> None:
        self.pods[key] = Pod(key, uid, (), (), "node")

    def round(self) -> dict[Key, object]:
        taken = self.gate.take(self.pods.get)
        self.gate.applied(taken)
        return dict(taken.endpoints)

    def admitted(self, each: Record) -> Future[None]:
        started = threading.Event()

        def ask() -> None:
            started.set()
            self.gate.admit(each)

        future = self.pool.submit(ask)
        assert started.wait(30)
        return future


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    for held in (record("a"), record("b")):
        made.gate.leave(held)  # nobody waits on when a test failed
    made.pool.shutdown()


def test_a_pod_is_let_through_by_the_round_that_knows_its_object(loop: Loop) -> None:
    loop.gate.enter(record("a"), "u1")
    waiting = loop.admitted(record("a"))
    assert loop.round() == {KEY: (A1,)}
    assert not waiting.done()
    loop.know("u1")
    assert loop.round() == {}  # its addresses were taken before
    waiting.result(30)
    loop.gate.admit(record("a"))  # and is not asked again


def test_a_pod_of_the_same_name_is_another_pod(loop: Loop) -> None:
    loop.know("old")
    loop.gate.enter(record("a"), "new")
    waiting = loop.admitted(record("a"))
    loop.round()
    assert not waiting.done()
    loop.know("new")
    loop.round()
    waiting.result(30)


def test_a_pod_from_a_file_is_known_by_the_uid_that_its_image_in_the_api_tells(loop: Loop) -> None:
    annotations = {"kubernetes.io/config.mirror": "hash-of-the-file"}
    loop.pods[KEY] = decode_pod({"metadata": {"namespace": "n", "name": "web", "uid": "of-the-image", "annotations": annotations}})
    loop.gate.enter(record("a"), "hash-of-the-file")
    waiting = loop.admitted(record("a"))
    loop.round()
    waiting.result(30)


def test_a_round_that_fails_lets_nobody_through(loop: Loop) -> None:
    loop.know("u1")
    loop.gate.enter(record("a"), "u1")
    waiting = loop.admitted(record("a"))
    loop.gate.take(loop.pods.get)
    assert not waiting.done()
    assert loop.gate.endpoints() == {KEY: (A1,)}  # what it had taken is there to be taken up anew
    loop.round()
    waiting.result(30)


def test_whom_a_round_did_not_take_up_it_does_not_let_through(loop: Loop) -> None:
    loop.know("u1")
    taken = loop.gate.take(loop.pods.get)
    loop.gate.enter(record("a"), "u1")
    loop.gate.applied(taken)
    waiting = loop.admitted(record("a"))
    assert not waiting.done()
    loop.round()
    waiting.result(30)


def test_who_waits_too_long_is_asked_to_try_again_in_words() -> None:
    gate = PolicyGate(lambda: None, lambda pod, uid: f"{pod} ({uid}) is not known", seconds=0.01)
    gate.enter(record("a"), "u1")
    with pytest.raises(CniError, match=r"n/web gets no network before its policy is in force: n/web \(u1\) is not known") as caught:
        gate.admit(record("a"))
    assert caught.value.code is Code.TRY_AGAIN_LATER


def test_an_attachment_that_kubelet_did_not_ask_for_has_no_policy_to_wait_for() -> None:
    loop = Loop(seconds=0.0)
    loop.gate.enter(record("a", pod=""))
    loop.gate.admit(record("a", pod=""))
    loop.gate.leave(record("a", pod=""))
    assert (loop.round(), loop.woken) == ({}, 0)


def test_an_address_goes_from_one_pod_to_another_within_one_round(loop: Loop) -> None:
    other = Key("n", "other")
    loop.know("u1")
    loop.know("u2", other)
    loop.gate.enter(record("a"), "u1")
    loop.round()
    loop.gate.leave(record("a"))
    loop.gate.enter(record("b", pod="n/other"), "u2")
    assert loop.round() == {KEY: None, other: (A1,)}


def test_a_pod_with_a_new_sandbox_has_both_addresses_until_the_old_one_is_gone(loop: Loop) -> None:
    loop.gate.enter(record("a", "10.1.0.1", "fd00::1"))
    loop.gate.enter(record("b", "10.1.0.2"))
    assert loop.round() == {KEY: (A1, ip_address("fd00::1"), A2)}
    loop.gate.leave(record("a", "10.1.0.1", "fd00::1"))
    loop.gate.leave(record("a", "10.1.0.1", "fd00::1"))
    assert loop.round() == {KEY: (A2,)}


def test_pods_of_which_nothing_is_written_down_are_known_by_their_addresses(loop: Loop) -> None:
    loop.gate.adopt([A1, A2])
    finished = Pod(Key("n", "done"), "u0", (), (A2,), "node", finished=True)
    loop.gate.identify({KEY: Pod(KEY, "u1", (), (A1,), "node"), finished.key: finished})
    assert loop.gate.endpoints() == {KEY: (A1,), Key("", "10.1.0.2"): (A2,)}
    loop.gate.give_up([A1, A2])
    assert loop.round() == {KEY: None, Key("", "10.1.0.2"): None}
    assert loop.gate.endpoints() == {}


@pytest.mark.parametrize(
    "step", [lambda gate: gate.enter(record("b")), lambda gate: gate.leave(record("a"))], ids=["a pod comes", "a pod goes"]
)
def test_the_loop_is_woken(step: Callable[[PolicyGate], None]) -> None:
    loop = Loop()
    loop.gate.enter(record("a"))
    before = loop.woken
    step(loop.gate)
    assert loop.woken == before + 1


def test_names_of_pods() -> None:
    assert pod_key("n/web") == KEY
    assert pod_key("") is None
