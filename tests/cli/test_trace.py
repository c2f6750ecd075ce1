"""`trace`: what is said wrongly, and what is made of what the tracers say."""

from __future__ import annotations

import json
import threading

import pytest

from provisioner import errors
from provisioner.cli import trace
from provisioner.cli.output import Format
from provisioner.deploy.client import UnavailableError
from provisioner.deploy.stream import Ended, Line
from provisioner.trace import names


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((), "NAME"),
        (("demo", "--context", "other"), "NAME"),
        (("demo", "--duration", "soon"), "--duration"),
        (("demo", "--address", "10.0.0"), "--address"),
        (("demo", "--protocol", "smoke"), "--protocol"),
        (("demo", "--port", "70000"), "--port"),
    ],
)
@pytest.mark.parametrize("kind", ["drops", "connect"])
def test_what_is_said_wrongly_is_named(run, kind, arguments, field):
    result = run("trace", kind, *arguments, "--output", "json")
    assert (result.code, result.error["field"]) == (3, field)


def test_a_cluster_that_is_not_there_is_not_traced(run):
    assert run("trace", "drops", "nobody").code == 6


class Tracing:
    """What the tracers would say; `finish` adds the last words."""

    def __init__(self, *events, last=()):
        self._events, self._last = list(events), list(last)
        self.finished = 0

    def events(self, _idle):
        while self._events:
            yield self._events.pop(0)

    def finish(self):
        self.finished += 1
        self._events += self._last


class Lookup:
    def name_ends(self, document):
        return names.name_ends(document, names.Names(pods={"10.0.0.2": "default/b"}))


def says(node, **document):
    return Line(node, json.dumps(document))


def drop(node, reason="NO_SOCKET"):
    ends = {"source": {"address": "10.0.0.1", "port": 1, "pod": "default/a"}, "destination": {"address": "10.0.0.2", "port": 9, "pod": ""}}
    rest = {"ownReason": "", "program": "", "policySet": 0, "detail": "", "length": 29, "device": "eth0", "pod": "", "function": "f"}
    return says(node, type="drop", time="2030-01-02T03:04:05.678901234Z", reason=reason, protocol="UDP", **ends, **rest)


def follow(tracing, nodes=("n0", "n1"), seconds=0.0, output=Format.TABLE, interrupted=False):
    event = threading.Event()
    if interrupted:
        event.set()
    trace._follow(trace._Follower("drops", nodes, seconds, output, event), tracing, Lookup())


READY = [says("n0", type="ready", lacks=[]), says("n1", type="ready", lacks=["something is missing"])]


def test_lines_then_the_table(capsys):
    follow(Tracing(*READY, drop("n1"), Ended("n0", 0), Ended("n1", 0)))
    out, err = capsys.readouterr()
    header, line, empty, *table = out.splitlines()
    assert header.split()[:3] == ["TIME", "NODE", "PROTO"]
    assert "n1" in line
    assert "10.0.0.2:9 default/b" in line
    assert (empty, table[1].split()[:3]) == ("", ["NO_SOCKET", "kernel", "1"])
    assert "n1: something is missing" in err
    assert "Tracing on 2 nodes" in err


def test_json_is_an_object_a_line(capsys):
    follow(Tracing(*READY, drop("n1"), None, Ended("n0", 0), Ended("n1", 0)), output=Format.JSON)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [document["type"] for document in found] == ["drop", "summary"]
    assert (found[0]["node"], found[0]["destination"]["pod"]) == ("n1", "default/b")


def test_the_time_runs_from_when_all_trace_and_the_last_words_are_heard(capsys):
    tracing = Tracing(
        *READY, None, last=[says("n0", type="lost", reason="NO_SOCKET", ownReason="", count=5), Ended("n0", 0), Ended("n1", 0)]
    )
    follow(tracing, seconds=1e-9)
    assert tracing.finished == 1
    assert "NO_SOCKET  kernel  5" in capsys.readouterr().out


def test_an_interrupt_asks_for_the_last_words_once(capsys):
    tracing = Tracing(*READY, None, None, last=[drop("n0"), Ended("n0", 0), Ended("n1", 0)])
    follow(tracing, interrupted=True)
    assert tracing.finished == 1
    assert "NO_SOCKET  kernel  1" in capsys.readouterr().out


def test_a_node_that_cannot_be_traced_is_said_and_the_others_are_traced(capsys):
    refused = [says("n1", type="unsupported", message="no BTF"), Ended("n1", 1, "the compiler's words")]
    follow(Tracing(READY[0], *refused, drop("n0"), Ended("n0", 0)))
    out, err = capsys.readouterr()
    assert "n1 is not traced: no BTF\nthe compiler's words" in err
    assert "Tracing on 1 node;" in err
    assert "NO_SOCKET  kernel  1" in out


def test_where_no_node_can_be_traced_the_command_fails(capsys):
    failure = UnavailableError("ErrImagePull: no such image")
    with pytest.raises(errors.UpstreamFailure, match="no such image"):
        follow(Tracing(Ended("n0", None, failure=failure), Ended("n1", None, failure=failure)))


def test_a_connection_that_breaks_is_told(capsys):
    follow(Tracing(*READY, Ended("n1", None, failure=UnavailableError("reset")), Ended("n0", 0)))
    assert "n1 is not traced any more: reset" in capsys.readouterr().err


def test_what_is_no_line_of_a_tracer_is_passed_over(capsys):
    follow(Tracing(*READY, Line("n0", "not JSON"), Line("n0", '{"type": "drop"}'), Ended("n0", 0), Ended("n1", 0)))
    assert "no packet was dropped" in capsys.readouterr().out
