"""`python -m provisioner.images`: build all images and print their names, sizes and archives."""

from __future__ import annotations

import sys

from provisioner import errors
from provisioner.binaries import DEFAULT_VERSION, ensure
from provisioner.images import ensure_images
from provisioner.process import Unlimited, say


def main() -> int:
    try:
        images = ensure_images(ensure(DEFAULT_VERSION, None, Unlimited(), say), Unlimited(), say)
    except errors.ProvisionerError as error:
        say(f"error: {error.message}\n{error.remedy}")
        return error.exit_code
    for image in images.all():
        sys.stdout.write(f"{image.name:48} {image.archive.stat().st_size / 1e6:7.1f} MB  {image.archive}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
