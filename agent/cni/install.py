"""Puts the plugin and the network configuration where kubelet's runtime looks for them.

Invariants: each appears by rename, whole or not at all; the configuration comes last, for it is what makes the node take pods; neither is
taken away when the agent ends, so that a restart of the agent is no restart of the node's network.
"""

from __future__ import annotations

import json
from pathlib import Path

from agent.cni.store import write_atomically

CONFIG_NAME = "05-anetd.conflist"
NETWORK_NAME = "anetd"
CONFIG_VERSION = "1.0.0"
"""containerd before 1.7.26 knows no 1.1.0; nothing in it is needed to run pods."""


def network_config() -> bytes:
    """The network configuration list."""
    document = {
        "cniVersion": CONFIG_VERSION,
        "name": NETWORK_NAME,
        "plugins": [{"type": "anetd-cni", "capabilities": {"portMappings": True}}],
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def install_plugin(source: Path, target: Path) -> bool:
    """Whether it had to be written. A plugin that is being executed is replaced, not overwritten."""
    content = source.read_bytes()
    if target.exists() and target.read_bytes() == content:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content, mode=0o755)
    return True


def install_config(directory: Path) -> bool:
    """Whether it had to be written."""
    target = directory / CONFIG_NAME
    content = network_config()
    if target.exists() and target.read_bytes() == content:
        return False
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content, mode=0o644)
    return True
