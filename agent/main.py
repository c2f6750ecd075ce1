"""The `anetd` command: the agent itself, and questions to the one that runs on this node.

    anetd agent      run the agent (what the DaemonSet does)
    anetd status     is it ready, what is it waiting for, what did it drop
    anetd endpoints  the pods of this node
    anetd services   frontends and their backends
    anetd policy     the NetworkPolicies that select pods of this node
                     explain: whether a packet passes, by the agent's knowledge and the kernel's rows; with --objects, by a file
                     matrix: who may reach whom, by a file (see agent/policy_cli.py)
    anetd conntrack  the flows that it knows
    anetd policy-log the records of the network policy log

Exit status: 0, 1 when something failed, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.observe.metrics import CniMetrics
    from agent.ports import OpenDatapath
    from agent.runtime import Agent, Paths

CONFIG = Path("/etc/anetd/config.json")
_POLICY_QUESTIONS = {"show", "explain", "matrix", "-h", "--help"}
log = logging.getLogger("agent")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    options = _parser().parse_args(_completed(sys.argv[1:] if argv is None else argv))
    if options.command == "agent":
        return run_agent(options.config)
    if options.command == "policy-log":
        from agent.policylog import command

        return command.run(options)
    if options.command == "policy" and options.question != "show":
        from agent import policy_cli

        return policy_cli.run(options)
    return _ask(options.command, _question(options), options.output)


def _parser() -> argparse.ArgumentParser:
    from agent import policy_cli
    from agent.policylog import command as policy_log

    parser = argparse.ArgumentParser(prog="anetd", description="The node agent of the pod network.")
    commands = parser.add_subparsers(dest="command", required=True)
    agent = commands.add_parser("agent", help="run the agent")
    agent.add_argument("--config", type=Path, default=CONFIG, help=f"the configuration (default {CONFIG})")
    policy_log.add_parser(commands)
    policy_cli.add_commands(commands.add_parser("policy", help="questions about NetworkPolicies"))
    for name, text in (
        ("status", "the agent's state"),
        ("endpoints", "the pods of this node, and the policies that judge them"),
        ("services", "frontends and backends"),
        ("conntrack", "the flows that the node knows"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--output", "-o", choices=("table", "json"), default="table")
        if name == "services":
            command.add_argument("name", nargs="?", default="", metavar="NAMESPACE/NAME", help="of one Service (default: of all)")
        if name == "conntrack":
            command.add_argument("--pod", action="append", default=[], metavar="NAMESPACE/NAME", help="flows of this pod; may be repeated")
            command.add_argument("--address", action="append", default=[], type=ip_address, help="flows of this address; may be repeated")
            command.add_argument("--limit", type=_count, default=100, help="show so many at most (default %(default)s)")
    return parser


def _completed(argv: Sequence[str]) -> Sequence[str]:
    """`anetd policy [NAMESPACE/NAME]` is short for `anetd policy show`."""
    if argv[:1] == ["policy"] and not _POLICY_QUESTIONS.intersection(argv[1:2]):
        return ["policy", "show", *argv[1:]]
    return argv


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _question(options: argparse.Namespace) -> str:
    """What stands behind the word."""
    if options.command != "conntrack":
        return str(getattr(options, "name", ""))
    return json.dumps({"pod": options.pod, "address": [str(each) for each in options.address], "limit": options.limit})


def run_agent(config_path: Path, paths: Paths | None = None, open_datapath: OpenDatapath | None = None) -> int:
    """Run the agent until SIGTERM or SIGINT; its exit status. Tests pass paths and a datapath of their own."""
    from agent import config, runtime
    from agent import log as logs
    from agent.datapath.errors import DatapathError
    from agent.datapath.programs import Datapath
    from agent.observe.metrics import CniMetrics

    logs.configure(os.environ.get("ANETD_LOG_LEVEL", "INFO"))
    try:
        settings = config.load(config_path)
        node_name = _node_name()
        paths = paths or runtime.Paths()
        metrics = CniMetrics()
        opener: OpenDatapath = open_datapath or Datapath.open
        agent = runtime.Agent(settings, node_name, paths, opener, metrics.observe)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        _observe(agent, paths, metrics)
        agent.run()
    except (config.ConfigError, DatapathError, runtime.NodeChangedError, OSError) as error:
        log.error(str(error) or repr(error))
        return 1
    return 0


def _observe(agent: Agent, paths: Paths, cni: CniMetrics) -> None:
    from agent.observe import documents, policy_question
    from agent.observe.control import ControlServer

    agent.edges.start({"/healthz": documents.healthz(agent), "/readyz": documents.readyz(agent), "/metrics": documents.metrics(agent, cni)})
    ControlServer(
        paths.run / "anetd.sock",
        {
            "status": lambda _: documents.status(agent, cni),
            "endpoints": lambda _: documents.endpoints(agent),
            "services": lambda name: documents.services(agent, name),
            "policy": lambda name: documents.policy(agent, name),
            "policy-explain": lambda about: policy_question.explain(agent, about),
            "conntrack": lambda about: documents.conntrack(agent, about),
        },
    ).start()


def _node_name() -> str:
    from agent.config import ConfigError

    name = os.environ.get("NODE_NAME", "")
    if not name:
        raise ConfigError("NODE_NAME", "it is not in the environment", "set it from spec.nodeName in the DaemonSet")
    return name


def _ask(word: str, about: str, output: str) -> int:
    from agent.observe import tables
    from agent.observe.control import AgentAwayError, ask

    try:
        document = ask(f"{word} {about}".strip())
    except AgentAwayError as error:
        print(f"anetd: {error}", file=sys.stderr)  # noqa: T201 (this is a command)
        return 1
    trouble = document.get("error", "") if isinstance(document, dict) else ""
    if about and not document:
        trouble = f"this node knows of no Service {about} with a cluster address; the name is NAMESPACE/NAME"
    if trouble:
        print(f"anetd: {trouble}", file=sys.stderr)  # noqa: T201
        return 1
    text = json.dumps(document, indent=2) + "\n" if output == "json" else getattr(tables, word)(document)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    status = main()
    # Daemon threads may be in the middle of a read: nothing that they hold needs to be put in order.
    sys.stdout.flush()
    logging.shutdown()
    if threading.active_count() > 1:
        os._exit(status)
    sys.exit(status)
