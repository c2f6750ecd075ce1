"""Put the provider where Terraform finds it: a directory that is a filesystem mirror, and a CLI configuration that names it.

    .venv-terraform/bin/python terraform/provider/install.py build/terraform

Pure standard library, so that any Python runs it; the interpreter that does is the one that the provider will run with.
"""

from __future__ import annotations

import sys
from pathlib import Path

VERSION = "0.1.0"
ADDRESS = "provisioner.dev/provisioner/provisioner"
SOURCES = Path(__file__).resolve().parent

LAUNCHER = """\
#!{python} -I
import sys

sys.path.insert(0, {sources!r})
from {module} import main

sys.exit(main())
"""

CONFIGURATION = """\
# For TF_CLI_CONFIG_FILE: the providers that were installed here, and everything else from where it usually comes.
provider_installation {{
  filesystem_mirror {{
    path    = "{mirror}"
    include = [{addresses}]
  }}
  direct {{
    exclude = [{addresses}]
  }}
}}
"""


def install(mirror: Path, address: str, version: str, module: str, sources: Path, python: str) -> Path:
    """Write the launcher of a provider into a mirror; its path. `module` has a function `main`, and is found below `sources`."""
    directory = mirror / address / version / "linux_amd64"
    directory.mkdir(parents=True, exist_ok=True)
    launcher = directory / f"terraform-provider-{address.rsplit('/', 1)[1]}_v{version}"
    launcher.write_text(LAUNCHER.format(python=python, sources=str(sources), module=module), encoding="utf-8")
    launcher.chmod(0o755)
    return launcher


def configure(path: Path, mirror: Path, *addresses: str) -> None:
    """Write the CLI configuration that makes Terraform take `addresses` from the mirror alone."""
    path.write_text(CONFIGURATION.format(mirror=mirror, addresses=", ".join(f'"{address}"' for address in addresses)), encoding="utf-8")


def main(arguments: list[str]) -> None:
    target = Path(arguments[0]).resolve()
    mirror = target / "mirror"
    # sys.executable as it was called: resolved, it would be the interpreter outside of the environment.
    install(mirror, ADDRESS, VERSION, "terraform_provider_provisioner.main", SOURCES, sys.executable)
    configure(target / "terraform.rc", mirror, ADDRESS)


if __name__ == "__main__":
    main(sys.argv[1:])
