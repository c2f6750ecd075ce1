"""A command in a container: what it prints, how it ends, and that it ends when nobody reads any more."""

from __future__ import annotations

import dataclasses
import json
import threading

import pytest

from provisioner.deploy import execute
from provisioner.deploy.client import ApiError, Client, UnavailableError
from provisioner.deploy.execute import Container, Execution
from provisioner.deploy.stream import Ended, Line, Reorder, Streams
from tests.fakes.websocket import PING, STATUS, STDERR, STDOUT

WHERE = Container("kube-system", "anetd-x7k2p", "anetd")


@pytest.fixture
def talk(api):
    with Client(api.credentials) as client:
        yield client


def run(talk, *command):
    with Execution(talk, WHERE, command) as running:
        return list(running.lines()), running.exit_code, running.errors


def test_the_command_is_asked_for_word_by_word_as_the_clients_identity(api, talk):
    api.run = lambda words, channels: (channels.send(STDOUT, json.dumps(words).encode()), channels.end())
    (line,), code, _ = run(talk, "anetd", "policy-log", "--pod", "a b&c")
    assert (json.loads(line), code) == (["anetd", "policy-log", "--pod", "a b&c"], 0)
    method, target, _ = api.requests[-1]
    assert method == "GET"
    assert target.startswith("/api/v1/namespaces/kube-system/pods/anetd-x7k2p/exec?container=anetd&stdin=true&stdout=true&stderr=true&")
    assert api.client_names[-1] == "client"


def test_lines_are_whole_however_they_are_cut_on_their_way(api, talk):
    def speak(_words, channels):
        for part in (b"on", b"e\ntwo\n", b"", b"thr", b"ee\nla\xc3", b"\xa9st"):
            channels.send(STDOUT, part)
        channels.frame(PING, b"are you there")
        channels.send(STDOUT, b"x" * 70000)
        channels.end()

    api.run = speak
    assert run(talk, "speak") == (["one", "two", "three", "laést" + "x" * 70000], 0, "")


def test_a_line_without_end_does_not_fill_the_memory(api, talk, monkeypatch):
    monkeypatch.setattr(execute, "_LONGEST_LINE", 1000)

    def speak(_words, channels):
        for _ in range(10):
            channels.send(STDOUT, b"y" * 600)
        channels.send(STDOUT, b"\nnext\n")
        channels.end()

    api.run = speak
    lines, _, _ = run(talk, "speak")
    assert lines[-1] == "next"
    assert max(len(line) for line in lines) <= 1200


def test_a_command_that_fails_says_how_and_why(api, talk):
    api.run = lambda _words, channels: (channels.send(STDERR, b"no such file\n"), channels.end(3))
    assert run(talk, "cat") == ([], 3, "no such file\n")


def test_a_command_that_cannot_be_run_is_an_error_in_the_servers_words(api, talk):
    status = {"status": "Failure", "code": 500, "message": 'exec: "anetd": not found in $PATH', "reason": "InternalError"}
    api.run = lambda _words, channels: channels.send(STATUS, json.dumps(status).encode())
    with pytest.raises(ApiError, match="not found in"):
        run(talk, "anetd")


@pytest.mark.parametrize(("status", "message"), [(404, 'pods "anetd-x7k2p" not found'), (403, "pods/exec is forbidden")])
def test_a_refusal_is_told_with_its_status(api, talk, status, message):
    api.on("GET", "/api/v1/namespaces/kube-system/pods/anetd-x7k2p/exec", (status, {"message": message}))
    with pytest.raises(ApiError, match=message) as told:
        run(talk, "true")
    assert told.value.status == status


def test_a_server_that_is_away_or_hangs_up_is_unavailable(api, talk):
    with Client(dataclasses.replace(api.credentials, server="https://127.0.0.1:1")) as other, pytest.raises(UnavailableError):
        run(other, "true")
    api.run = lambda _words, channels: channels.send(STDOUT, b"half of it")
    with Execution(talk, WHERE, ["true"]) as running, pytest.raises(UnavailableError, match="ended before the command"):
        list(running.lines())


def test_one_who_says_nothing_for_long_is_asked_and_then_given_up(api, talk, monkeypatch):
    monkeypatch.setattr(execute, "_PING_SECONDS", 0.05)
    asked, gone = [], threading.Event()

    def silent(_words, channels):
        asked.extend(kind for kind, _ in channels.heard())
        gone.set()

    api.run = silent
    with Execution(talk, WHERE, ["sleep"]) as running, pytest.raises(UnavailableError, match="nothing was heard"):
        list(running.lines())
    assert gone.wait(30)
    assert PING in asked


def test_a_server_of_another_authority_is_not_talked_to(api, certificates):
    stranger = dataclasses.replace(api.credentials, ca_certificate=certificates["client"][0])
    with Client(stranger) as client, pytest.raises(UnavailableError, match="certificate"):
        run(client, "true")


def endless(ended):
    """A command that prints once and then waits for the end of its standard input."""

    def speak(_words, channels):
        channels.send(STDOUT, b"begun\n")
        for _ in channels.heard():
            pass
        ended.set()

    return speak


def test_stopping_ends_the_commands_input_and_the_lines(api, talk):
    ended = threading.Event()
    api.run = endless(ended)
    with Execution(talk, WHERE, ["tail"]) as running:
        seen = []
        for line in running.lines():
            seen.append(line)
            threading.Thread(target=running.stop).start()
    assert seen == ["begun"]
    assert running.exit_code is None
    assert ended.wait(30)


def test_streams_bring_the_lines_of_all_and_each_end_once(api, talk):
    def speak(words, channels):
        for number in range(3):
            channels.send(STDOUT, f"{words[0]} {number}\n".encode())
        channels.end(int(words[1]))

    api.run = speak
    openers = {name: lambda name=name, code=code: Execution(talk, WHERE, [name, code]) for name, code in (("a", "0"), ("b", "4"))}
    missing = Container("kube-system", "anetd-gone", "anetd")
    with Client(dataclasses.replace(api.credentials, server="https://127.0.0.1:1")) as away:
        openers["c"] = lambda: Execution(away, missing, ["true"])
        with Streams(openers) as streams:
            events = list(streams.events())
    assert [e for e in events if e == Line("a", e.text if isinstance(e, Line) else "")] == [Line("a", f"a {n}") for n in range(3)]
    ends = {e.source: e for e in events if isinstance(e, Ended)}
    assert (ends["a"].exit_code, ends["b"].exit_code, ends["c"].exit_code) == (0, 4, None)
    assert isinstance(ends["c"].failure, UnavailableError)
    assert len(events) == 9


def test_leaving_streams_ends_every_command(api, talk):
    ended = threading.Event()
    api.run = endless(ended)
    with Streams({"a": lambda: Execution(talk, WHERE, ["tail"])}) as streams:
        first = next(event for event in streams.events(idle=0.05) if event is not None)
        assert next(streams.events(idle=0.01)) is None
    assert first == Line("a", "begun")
    assert ended.wait(30)
    assert list(streams.events()) == []


def test_what_comes_late_but_within_the_wait_is_put_in_order():
    order = Reorder(1.0)
    order.add(30, "c", now=0.0)
    order.add(10, "a", now=0.4)
    assert list(order.due(now=0.9)) == []
    order.add(20, "b", now=1.0)
    assert list(order.due(now=1.4)) == ["a"]
    order.add(5, "too late", now=1.5)
    assert list(order.due(now=2.0)) == []
    assert list(order.due(now=2.5)) == ["too late", "b", "c"]
    order.add(2, "y", now=3.0)
    order.add(1, "x", now=3.0)
    assert list(order.rest()) == ["x", "y"]
