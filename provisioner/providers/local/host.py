"""The host's own settings that clusters need, and their return to what they were.

IPv4 forwarding is switched on by the first cluster and put back by the last. What it was is kept in `host.json` of the run
directory, with the boot that it is about: a reboot resets the setting itself.
"""

from __future__ import annotations

import contextlib
import json

from provisioner.providers.local import locks, networks
from provisioner.providers.local.files import private_directory, write_atomically
from provisioner.providers.local.layout import Layout
from provisioner.providers.local.member import boot_id

_FILE = "host.json"


def enable_forwarding(layout: Layout) -> None:
    """To be called with the cluster's bridge in place: it marks the need."""
    with locks.shared(layout.run_root):
        if networks.IP_FORWARD.read_text().strip() == "1":
            return
        # Written before the change: a crash in between must not make the change look like the machine's own setting.
        private_directory(layout.run_root)
        write_atomically(layout.run_root / _FILE, json.dumps({"bootId": boot_id(), "ipForward": "0"}), durable=False)
        networks.set_forwarding("1")


def restore_forwarding(layout: Layout) -> None:
    """Put it back unless another cluster's bridge is there."""
    path = layout.run_root / _FILE
    with locks.shared(layout.run_root):
        if networks.other_bridges(layout):
            return
        with contextlib.suppress(OSError, ValueError, KeyError):
            remembered = json.loads(path.read_text())
            if remembered["bootId"] == boot_id():
                networks.set_forwarding(str(remembered["ipForward"]))
        path.unlink(missing_ok=True)
