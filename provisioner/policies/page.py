"""The matrix as one HTML page that needs nothing else: no network, no server, no library. Pure but for reading its own template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

_PLACE = "/*DATA*/"


def render(answer: Mapping[str, Any], title: str) -> str:
    """`answer` is what `policy matrix --output json` prints. Names come from clusters and files, and are data in the page, never markup."""
    data = json.dumps({"title": title, "matrix": answer}, separators=(",", ":"))
    # A script element ends at the first "</script", wherever it stands.
    safe = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    template = (resources.files("provisioner.policies") / "matrix.html").read_text()
    return template.replace(_PLACE, safe)
