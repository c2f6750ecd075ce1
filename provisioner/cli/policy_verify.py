"""`policy explain --verify`: what the rows in the kernels of the nodes concerned say of the same packets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from provisioner import errors

if TYPE_CHECKING:
    from provisioner.deploy.client import Client

_SIDES = (("egress", "source"), ("ingress", "destination"))


def verify(client: Client, answer: dict[str, Any]) -> bool:
    """Give each judged side of the compiler's answer a `kernel`: `node`, `state` (agrees, differs, unknown), `words`, and the `row` found.

    Whether all of them agree.
    """
    agents = _agents(client)
    states = set()
    for path in answer["paths"]:
        rows: dict[str, dict[str, Any] | str] = {}
        for name, end in _SIDES:
            if path[name]["judged"]:
                node = path[end]["node"]
                if node not in rows:
                    rows[node] = _rows(client, agents.get(node), node, path, answer["protocol"])
                path[name]["kernel"] = {"node": node, **_compared(path[name], rows[node], name)}
                states.add(path[name]["kernel"]["state"])
    return states <= {"agrees"}


def _agents(client: Client) -> dict[str, str]:
    """Node -> name of the agent's pod there."""
    from provisioner.deploy.client import ApiError, UnavailableError
    from provisioner.deploy.render import AGENT, NAMESPACE

    try:
        items = client.get(f"/api/v1/namespaces/{NAMESPACE}/pods", labelSelector=f"app={AGENT}").get("items") or ()
    except (ApiError, UnavailableError) as error:
        raise errors.UpstreamFailure(f"the agents' pods cannot be listed: {error}", remedy="Leave --verify out.") from error
    return {item["spec"].get("nodeName", ""): item["metadata"]["name"] for item in items}


def _rows(client: Client, agent: str | None, node: str, path: Mapping[str, Any], protocol: str) -> dict[str, Any] | str:
    """What a node's agent says of the same path, or why it says nothing."""
    from provisioner.deploy.client import ApiError, UnavailableError
    from provisioner.deploy.execute import Container, Execution
    from provisioner.deploy.render import AGENT, NAMESPACE

    if agent is None:
        return f"no agent runs on {node or 'its node'}"
    words = ["anetd", "policy", "explain", "--from", path["source"]["address"], "--to", path["destination"]["address"]]
    words += ["--protocol", protocol, "--output", "json"]
    words += ["--port", str(path["destination"]["port"])] if path["destination"]["port"] else []
    try:
        with Execution(client, Container(NAMESPACE, agent, AGENT), words) as run:
            text = "\n".join(run.lines())
            if run.exit_code != 0:
                return run.errors.strip() or f"anetd ended with {run.exit_code}"
            found: dict[str, Any] = json.loads(text)["paths"][0]
    except (ApiError, UnavailableError, ValueError, KeyError, IndexError) as error:
        return str(error) or type(error).__name__
    return found


def _compared(side: Mapping[str, Any], found: dict[str, Any] | str, name: str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"state": "unknown", "words": f"was not asked: {found}", "row": None}
    row = found[name].get("kernel")
    if row is None:
        return {"state": "unknown", "words": f"has no say: {found[name]['why']}", "row": None}
    said = "allows it" if row["allowed"] else "denies it"
    if (row["allowed"], row["isolated"]) == (side["allowed"], side["isolated"]):
        return {"state": "agrees", "words": f"{said} too", "row": row}
    why = (
        ""
        if row["isolated"] == side["isolated"]
        else ", and the pod is isolated there"
        if row["isolated"]
        else ", and the pod is not isolated there"
    )
    return {"state": "differs", "words": f"{said}{why}", "row": row}
