"""The objects of a running cluster that decide which packet passes, read page by page. Only reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from provisioner.deploy.client import Client
from provisioner.policies.objects import PATHS, Objects

_PAGE = "500"


def collect(client: Client) -> Objects:
    """Raises `ApiError` for a kind that may not be listed, `UnavailableError` where nobody answers."""
    found = Objects()
    for kind, path in PATHS.items():
        for item in _listed(client, path):
            found.add(kind, item)
    return found


def _listed(client: Client, path: str) -> Iterator[dict[str, Any]]:
    query = {"limit": _PAGE}
    while True:
        page = client.get(path, **query)
        for item in page.get("items") or ():
            item.get("metadata", {}).pop("managedFields", None)  # half of an object, and of no meaning here
            yield item
        token = page.get("metadata", {}).get("continue")
        if not token:
            return
        query["continue"] = token
