"""--allow RULE=reason: what may pass, and for which reason. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from provisioner import errors
from provisioner.compatibility.matrix import Matrix


def split(texts: Iterable[str]) -> dict[str, str]:
    """Rule -> reason. Raises `errors.Usage` for one without a reason."""
    allowed: dict[str, str] = {}
    for text in texts:
        name, _, reason = text.partition("=")
        if not reason.strip():
            raise errors.Usage(
                f"--allow {name} has no reason",
                remedy=f"Write why it may pass, for whoever asks later: --allow {name or 'RULE'}='...'.",
                field="--allow",
            )
        allowed[name] = reason.strip()
    return allowed


def known(allowed: Mapping[str, str], matrix: Matrix) -> Mapping[str, str]:
    """The same, when every rule is one of the matrix. Raises `errors.Usage` with the nearest names."""
    for name in allowed:
        matrix.rule(name)
    return allowed
