"""What the agent remembers of its own node, so that a start does not need the API server."""

from __future__ import annotations

import json
import logging
from ipaddress import ip_address, ip_network
from pathlib import Path

from agent.cni.store import write_atomically
from agent.watch.records import Node

log = logging.getLogger(__name__)


def remember(path: Path, node: Node) -> None:
    """Write the node down; a failure costs no more than a slower start."""
    document = {"name": node.name, "podCIDRs": list(map(str, node.pod_cidrs)), "addresses": list(map(str, node.addresses))}
    content = json.dumps(document).encode()
    try:
        if path.exists() and path.read_bytes() == content:
            return
        write_atomically(path, content, mode=0o600)
    except OSError as error:
        log.warning("the node's facts cannot be remembered", extra={"path": str(path), "error": str(error)})


def recall(path: Path, name: str) -> Node | None:
    """The node as it was, None when nothing (or another node) was remembered."""
    try:
        document = json.loads(path.read_bytes())
        node = Node(document["name"], tuple(map(ip_network, document["podCIDRs"])), tuple(map(ip_address, document["addresses"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("what was remembered of the node cannot be read", extra={"path": str(path), "error": str(error)})
        return None
    return node if node.name == name and is_complete(node) else None


def is_complete(node: Node) -> bool:
    """Whether the node has all that pods need: the controller manager gives pod CIDRs, kubelet reports addresses."""
    return bool(node.pod_cidrs and node.addresses)
