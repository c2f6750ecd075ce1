"""Which dataplane has what is needed, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from provisioner.compatibility.model import Dataplane, Feature, Verdict

# Of two that have all that is needed, the one that is less to run.
_PREFERENCE = (Dataplane.GKE, Dataplane.ANETD, Dataplane.CILIUM)


@dataclass(frozen=True, slots=True)
class Advice:
    """fits  whether every need is met, if on demand; `open_questions` are needs of which it is not known, or not promised."""

    dataplane: Dataplane
    fits: bool
    verdicts: Mapping[str, Verdict]
    open_questions: Sequence[str]
    lacks: Sequence[str]


def advise(features: Sequence[Feature]) -> Sequence[Advice]:
    """Every dataplane, the best first."""
    found = [_of(dataplane, features) for dataplane in _PREFERENCE]
    return sorted(found, key=lambda advice: (len(advice.lacks), len(advice.open_questions), _PREFERENCE.index(advice.dataplane)))


def _of(dataplane: Dataplane, features: Sequence[Feature]) -> Advice:
    verdicts = {feature.id: feature.cell(dataplane).verdict for feature in features}
    lacks = [name for name, verdict in verdicts.items() if verdict is Verdict.UNSUPPORTED]
    unclear = [name for name, verdict in verdicts.items() if verdict in {Verdict.UNKNOWN, Verdict.UNVETTED}]
    return Advice(dataplane, not lacks and not unclear, verdicts, unclear, lacks)
