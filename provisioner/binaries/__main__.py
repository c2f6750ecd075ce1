"""`python -m provisioner.binaries [--json] [--part NAME] [VERSION]`: ensure the programs and print their directory."""

from __future__ import annotations

import argparse
import json
import sys

from provisioner.binaries import DEFAULT_VERSION, ensure, ensure_part
from provisioner.binaries.pins import ON_DEMAND
from provisioner.process import Unlimited, run_command, say


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m provisioner.binaries", description="Have the Kubernetes programs ready.")
    parser.add_argument("--json", action="store_true", help="print an object: directory, source, version")
    parser.add_argument("--part", choices=ON_DEMAND, help="programs that no cluster needs, instead of those that it does")
    parser.add_argument("version", nargs="?", default=DEFAULT_VERSION)
    options = parser.parse_args()
    if options.part:
        found = ensure_part(options.part, options.version, Unlimited(), say)
        say(f"{options.part} of Kubernetes {found.version}: {found.source}")
    else:
        found = ensure(options.version, None, Unlimited(), say)
        if found.source == "cache":  # otherwise it was said when they came
            say(f"programs of Kubernetes {found.version}: cache")
    if options.json:
        sys.stdout.write(json.dumps({"directory": str(found.directory), "source": found.source, "version": found.version}) + "\n")
    else:
        sys.stdout.write(f"{found.directory}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
