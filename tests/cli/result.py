"""What a command line left behind, for tests that call `main` in their own process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error that --output json tells in the last line of stderr."""
        return json.loads(self.err.splitlines()[-1])["error"]


Run = Callable[..., Result]
