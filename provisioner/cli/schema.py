"""`schema`: the JSON Schema of a cluster's document."""

from __future__ import annotations

from provisioner.cli import options
from provisioner.cli.output import Format, emit


def schema(output: options.Output = Format.JSON) -> None:
    """Print the JSON Schema of the documents that --config takes."""
    from provisioner.spec import json_schema

    document = json_schema()
    emit(document, Format.JSON if output is Format.TABLE else output, "")
