"""`python -m provisioner.binaries [VERSION]`: ensure the programs and print their directory."""

from __future__ import annotations

import sys

from provisioner import errors
from provisioner.binaries import DEFAULT_VERSION, ensure
from provisioner.process import Unlimited, say


def main() -> int:
    try:
        found = ensure(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_VERSION, None, Unlimited(), say)
    except errors.ProvisionerError as error:
        say(f"error: {error.message}\n{error.remedy}")
        return error.exit_code
    say(f"source: {found.source}")
    sys.stdout.write(f"{found.directory}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
