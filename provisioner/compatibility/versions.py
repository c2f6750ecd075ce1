"""Versions as vendors write them: 1.26.4-gke.500, 6.1.0-56-cloud-amd64, v1.34.4. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PARTS = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-gke\.(\d+))?")


def parse(text: str) -> tuple[int, int, int, int] | None:
    """Major, minor, patch and GKE's own number, 0 for what is not said. None for what is no version ("latest", "-")."""
    match = _PARTS.match(text)
    if match is None:
        return None
    major, minor, patch, build = (int(part or 0) for part in match.groups())
    return major, minor, patch, build


def is_older(version: str, floors: Sequence[str]) -> bool | None:
    """Whether `version` is below every floor that counts for it; None when it cannot be told.

    Each floor is the first version of its minor line that will do, so 1.26.4 and 1.27.1 together leave 1.27.0 out. A version that
    names less than the floor (1.26 against 1.26.4) may be either.
    """
    found = parse(version)
    if found is None or not floors:
        return None
    known = sorted(floor for text in floors if (floor := parse(text)) is not None)
    in_line = [floor for floor in known if floor[:2] == found[:2]]
    if not in_line:
        return found < known[-1] if found[:2] < known[-1][:2] else False
    if version.count(".") < 2 and "-" not in version and found < in_line[0]:
        return None
    return found < in_line[0]
