"""docs/compatibility.md, made from the matrix. Pure.

python -m provisioner.compatibility.page > docs/compatibility.md
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from provisioner.compatibility.matrix import Matrix, load
from provisioner.compatibility.model import Citation, Dataplane, Feature, Rule, Verdict

AREAS = {
    "policy": "Network policy",
    "observability": "Logging and observing",
    "services": "Services",
    "network": "The pods' network",
    "workloads": "What runs beside the dataplane",
    "cluster": "The cluster",
}
_SIGNS = {
    Verdict.SUPPORTED: "**yes**",
    Verdict.OPT_IN: "opt-in",
    Verdict.UNVETTED: "unvetted",
    Verdict.UNSUPPORTED: "no",
    Verdict.UNKNOWN: "?",
}
_TITLES = {Dataplane.GKE: "GKE Dataplane V2", Dataplane.ANETD: "anetd (this project)", Dataplane.CILIUM: "vanilla Cilium"}
_INTRODUCTION = """\
# May I use X?

<!-- Made from provisioner/compatibility/data by `make docs`; a test holds the two equal. Do not edit. -->

Find the feature in the table, follow its name for the reason, the source and the way out. The same at the command line:

```console
$ provisioner features                               # the table
$ provisioner features l7-http                       # one feature in full
$ provisioner recommend --need hubble,l7-http        # which dataplane has all of it
$ helm template CHART | provisioner check -          # what of it would be ignored or refused here
```

| word | what it means |
|---|---|
| **yes** | supported |
| opt-in | works once it is asked for, or within the limits that the reason names |
| unvetted | accepted today; nobody promises that it works tomorrow |
| no | unsupported: the gates refuse it (exit code 4 of create-cluster and deploy, 2 of check), and the API server does as well |
| ? | no source was found that says so or otherwise: ask the vendor, or try it |

The usual advice holds: stay within what is supported. If you need Hubble, L7 policies or Cluster Mesh, take vanilla Cilium.
Verdicts on GKE and Cilium come from the sources named and were not tried; those on anetd are this version's.
"""
_GATES = """\
## The gates

| gate | what it looks at | what an error does |
|---|---|---|
| `create-cluster`, `deploy` | the spec; `deploy` also the cluster's objects, nodes and network | refuses first, exit code 4 |
| `check TARGET...` | specs, manifests (files, directories, stdin), Terraform plans as JSON | exit code 2 |
| `check --context NAME` | a running cluster; the kinds that may not be read are named | exit code 2 |
| admission | every object that the API server takes | `spec.dataplane.admission`: deny, warn, off |

`--allow RULE=REASON` (or `spec.allow`) lets a rule pass in all of them. A reason is required; it is kept with the cluster, and in its
ConfigMap `kube-system/provisioner-gates`.

`provisioner features --output json` prints the whole matrix for other tools: `exportVersion`; `features` (`id`, `title`, `area`,
`verdicts` by dataplane with `verdict`, `reason`, `since` and `sources`; `wayOut`, `needs`); `rules` (`id`, `feature`, `kinds`, `each`,
`when` with `path`, `op` and `value`; `severity`, `admission`, `reason` and `sources` by dataplane; `remedy`).
"""


def render(matrix: Matrix) -> str:
    """The whole page."""
    return "\n".join(_lines(matrix)) + "\n"


def _lines(matrix: Matrix) -> Iterator[str]:
    yield _INTRODUCTION
    for area, title in AREAS.items():
        yield f"## {title}"
        yield ""
        yield "| feature | " + " | ".join(_TITLES[dataplane] for dataplane in Dataplane) + " |"
        yield "|---|---|---|---|"
        for feature in _of(matrix, area):
            signs = " | ".join(_SIGNS[feature.cell(dataplane).verdict] for dataplane in Dataplane)
            yield f"| [{feature.title}](#{feature.id}) | {signs} |"
        yield ""
    yield _GATES
    yield "## The features one by one"
    yield ""
    for area in AREAS:
        for feature in _of(matrix, area):
            rules = [rule for rule in matrix.rules.values() if rule.feature is feature]
            yield from _feature(feature, rules)


def _of(matrix: Matrix, area: str) -> Sequence[Feature]:
    return [feature for feature in matrix.features.values() if feature.area == area]


def _feature(feature: Feature, rules: Sequence[Rule]) -> Iterator[str]:
    yield f'### <a id="{feature.id}"></a>{feature.title}'
    yield ""
    yield f"`{feature.id}`" + (f", also `{'`, `'.join(feature.needs)}`" if feature.needs else "")
    yield ""
    for dataplane, cell in feature.cells.items():
        since = f" from {' or '.join(cell.since)} on" if cell.since else ""
        reason = f" {cell.reason}" if cell.reason else ""
        sources = f" ({', '.join(_link(source) for source in cell.sources)})" if cell.sources else ""
        yield f"- {_TITLES[dataplane]}: {_SIGNS[cell.verdict]}{since}.{reason}{sources}"
    yield f"- Instead: {feature.way_out}"
    if rules:
        yield f"- Rules: {', '.join(f'`{rule.id}`' for rule in rules)}"
    yield ""


def _link(source: Citation) -> str:
    """Files of this project are named from the root of the repository, and linked from the page."""
    url = source.url if "://" in source.url else os.path.relpath(source.url, "docs")
    return f"[{source.title}{', ' + source.place if source.place else ''}]({url})"


if __name__ == "__main__":
    sys.stdout.write(render(load()))
