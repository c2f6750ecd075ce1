"""Names for clusters of CI runs: a prefix, and a suffix that is the same for one run and another for every other."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping

from provisioner import errors

MAX_LENGTH = 40
# GitHub Actions, GitLab CI, Cloud Build and Jenkins: what makes a run the one it is. Legs of a matrix share these.
_RUNS = (
    ("GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB"),
    ("CI_PIPELINE_ID", "CI_JOB_ID"),
    ("BUILD_ID",),
)


def unique_name(prefix: str, unique_from: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """`prefix` and a suffix from `unique_from`, the CI system's run, or chance; at most 40 characters of a DNS label."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,27})", prefix):
        raise errors.Usage(
            f"--name-prefix {prefix!r} cannot begin a name",
            remedy="Use lower-case letters, digits and '-', at most 28, beginning with a letter.",
            field="--name-prefix",
        )
    text = unique_from or _run(environment) or secrets.token_hex(4)
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    name = f"{prefix.rstrip('-')}-{slug}"
    if slug != text or len(name) > MAX_LENGTH:
        # What was cut or changed would no longer tell runs apart.
        name = f"{prefix.rstrip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    return name


def _run(environment: Mapping[str, str]) -> str:
    for names in _RUNS:
        if environment.get(names[0]):
            return "-".join(environment[name].lower() for name in names if environment.get(name))
    return ""
