"""`load-image`: bring images into a cluster's nodes without a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from provisioner import errors
from provisioner.cli import backend, options
from provisioner.cli.output import Format, emit, note


def load_image(
    name: options.NameArgument,
    archives: Annotated[list[Path], typer.Argument(metavar="ARCHIVE...", help="Docker or OCI archives (tar).", show_default=False)],
    timeout: options.TimeoutOption = "10m",
    output: options.Output = Format.TABLE,
) -> None:
    """Load docker or OCI archives into every node, as `docker save` and `buildah push` make them."""
    seconds = options.duration(timeout)
    for archive in archives:
        if not archive.is_file():
            raise errors.NotFound(f"{archive} is not a file", remedy="Give the path of a docker or OCI archive.", field="ARCHIVE")
    from provisioner.plan.deadline import TimeLimit

    images = backend.open_provider().load_image(name, [archive.absolute() for archive in archives], TimeLimit.after(seconds), note)
    emit({"name": name, "images": list(images)}, output, "\n".join(images))
