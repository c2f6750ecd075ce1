"""What the executable `terraform-provider-provisioner` runs."""

from __future__ import annotations

import sys


def main() -> int:
    """Serve until Terraform is done; the exit code."""
    from terraform_provider_provisioner.provider import Provisioner
    from terraform_provider_provisioner.serve import serve
    from terraform_provider_provisioner.servicer import Servicer

    provider = Provisioner()
    return serve(Servicer(provider), provider.stop)


if __name__ == "__main__":
    sys.exit(main())
