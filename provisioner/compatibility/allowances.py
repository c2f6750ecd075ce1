"""--allow RULE=reason: what may pass, and for which reason. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from provisioner import errors
from provisioner.compatibility.matrix import Matrix


def parse(texts: Iterable[str], matrix: Matrix) -> dict[str, str]:
    """Rule -> reason. Raises `errors.Usage` for a rule that does not exist, and for one without a reason."""
    allowed: dict[str, str] = {}
    for text in texts:
        name, _, reason = text.partition("=")
        matrix.rule(name)
        if not reason.strip():
            raise errors.Usage(
                f"--allow {name} has no reason",
                remedy=f"Write why it may pass, for whoever asks later: --allow {name}='...'.",
                field="--allow",
            )
        allowed[name] = reason.strip()
    return allowed
