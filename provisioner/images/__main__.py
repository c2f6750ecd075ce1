"""`python -m provisioner.images [--json]`: build a cluster's images, the toolbox and the tracer, and print names, sizes and archives."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from provisioner.binaries import DEFAULT_VERSION, ensure
from provisioner.images import Image, ensure_images, ensure_toolbox, ensure_tracer
from provisioner.process import Unlimited, run_command, say


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m provisioner.images", description="Build the images of a cluster.")
    parser.add_argument("--json", action="store_true", help="print an object: image -> name, archive, unpacked_bytes")
    parser.add_argument("--kubernetes-version", default=DEFAULT_VERSION)
    options = parser.parse_args()
    programs = ensure(options.kubernetes_version, None, Unlimited(), say)
    images = ensure_images(programs, Unlimited(), say)
    toolbox = ensure_toolbox(programs, Unlimited(), say)
    rows = {field.name: describe(getattr(images, field.name)) for field in dataclasses.fields(images)}
    rows |= {"toolbox": describe(toolbox), "tracer": describe(ensure_tracer(Unlimited(), say))}
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    for row in rows.values():
        sys.stdout.write(f"{row['name']:48} {row['unpacked_bytes'] / 1e6:7.1f} MB  {row['archive']}\n")
    return 0


def describe(image: Image) -> dict[str, Any]:
    """Archives are not compressed, so their size is what the image takes unpacked, give or take the tar headers."""
    return {"name": image.name, "archive": str(image.archive), "unpacked_bytes": image.archive.stat().st_size}


if __name__ == "__main__":
    raise SystemExit(run_command(main))
