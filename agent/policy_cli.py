"""`anetd policy explain` and `anetd policy matrix`: questions to API objects in a file, without an agent or a cluster; or, of `explain`
without a file, to the agent of this node, which answers from what it knows and beside it from its kernel's rows.
(`anetd policy show` asks the agent too: see agent/main.py.)

    anetd policy explain [--objects FILE|-] --from NS/POD|ADDRESS --to NS/POD|ADDRESS|NS/SERVICE [--port P] [--protocol TCP] [-o json]
    anetd policy matrix --objects FILE|- [--namespace NS ...] [--port P[/PROTOCOL] ...] [-o json]

FILE is a document of `agent.policy.objects`; `-o json` prints one of `agent.policy.explanation` or `agent.policy.matrix`. Exit status: 0
if the question could be answered, whatever the answer; 1 if there is no such pod, Service or port; 2 for wrong usage or a document that
is none.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.policy.protocols import PORTLESS, PROTOCOLS

if TYPE_CHECKING:
    from agent.policy.objects import Objects


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The commands below `anetd policy`."""
    commands = parser.add_subparsers(dest="question", required=True)
    show = commands.add_parser("show", help="those that select pods of this node; may be left out: anetd policy [NAMESPACE/NAME]")
    show.add_argument("name", nargs="?", default="", metavar="NAMESPACE/NAME", help="of one NetworkPolicy (default: of all)")
    show.add_argument("--output", "-o", choices=("table", "json"), default="table")
    explain = commands.add_parser("explain", help="whether a packet passes, and which rules say so")
    explain.add_argument("--from", dest="source", required=True, metavar="NS/POD|ADDRESS")
    explain.add_argument("--to", dest="destination", required=True, metavar="NS/POD|ADDRESS|NS/SERVICE")
    explain.add_argument("--port", default="", help="a number or a name; of a Service its own")
    explain.add_argument("--protocol", default="TCP", type=str.upper, choices=sorted(PROTOCOLS))
    matrix = commands.add_parser("matrix", help="which workloads reach which")
    matrix.add_argument("--namespace", action="append", default=[], help="of these only (default: all)")
    matrix.add_argument("--port", action="append", default=[], metavar="PORT[/PROTOCOL]", help="at these only (default: all)")
    for command in (explain, matrix):
        is_matrix = command is matrix
        command.add_argument("--objects", required=is_matrix, metavar="FILE|-", help="the API objects (default of explain: ask the agent)")
        command.add_argument("--output", "-o", choices=("table", "json"), default="table")


def run(options: argparse.Namespace) -> int:
    """Answer; the exit status."""
    from agent.observe.control import AgentAwayError
    from agent.policy.objects import DocumentError, read
    from agent.policy.parties import PartyError

    try:
        if options.objects is None:
            answer = _shown(_asked(options), options)
        else:
            objects = read(sys.stdin.read() if options.objects == "-" else Path(options.objects).read_text(encoding="utf-8"))
            answer = _explain(options, objects) if options.question == "explain" else _matrix(options, objects)
    except (DocumentError, OSError, UnicodeDecodeError) as error:
        return _fail(f"{options.objects}: {error}", 2)
    except (PartyError, AgentAwayError) as error:
        return _fail(str(error), 1)
    sys.stdout.write(answer)
    return 0


def _explain(options: argparse.Namespace, objects: Objects) -> str:
    from agent.policy.question import answer, question

    asked = question(options.source, options.destination, options.protocol, options.port)
    return _shown(answer(objects, asked).document, options)


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """The running agent's answer, with what its kernel's rows say."""
    from agent.observe.control import ask
    from agent.policy.parties import PartyError

    about = {"from": options.source, "to": options.destination, "protocol": options.protocol, "port": options.port}
    found: dict[str, Any] = ask(f"policy-explain {json.dumps(about)}")
    if "error" in found:
        raise PartyError(found["error"])
    return found


def _shown(document: dict[str, Any], options: argparse.Namespace) -> str:
    from agent.policy import explanation

    return json.dumps(document, indent=2) + "\n" if options.output == "json" else explanation.text(document)


def _matrix(options: argparse.Namespace, objects: Objects) -> str:
    from agent.policy.matrix import matrix, text

    found = matrix(objects, options.namespace, [_port(each) for each in options.port])
    return json.dumps(found) + "\n" if options.output == "json" else text(found)


def _port(given: str) -> tuple[int, int]:
    from agent.policy.parties import PartyError

    number, _, protocol = given.partition("/")
    protocol = protocol.upper() or "TCP"
    if not number.isdecimal() or not 0 < int(number) < 65536 or protocol not in PROTOCOLS or PROTOCOLS[protocol] in PORTLESS:
        raise PartyError(f"{given!r} is no port: write one like 80, 53/UDP or 5000/SCTP")
    return PROTOCOLS[protocol], int(number)


def _fail(message: str, status: int) -> int:
    print(f"anetd: {message}", file=sys.stderr)  # noqa: T201 (this is a command)
    return status
