"""What can go wrong between the agent and the kernel, in words for the one who reads the agent's log."""

from __future__ import annotations


class DatapathError(Exception):
    """The kernel or an object file said no; the message names the thing and the way out."""


class IncompatiblePin(DatapathError):
    """A pinned table has another layout than the programs: the layout version was not raised with it."""


class VerifierError(DatapathError):
    """The kernel refused a program. `log` is what its verifier wrote, in full."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(f"{message}\n{_tail(log)}")
        self.log = log


def _tail(log: str, lines: int = 40) -> str:
    return "\n".join(log.rstrip().splitlines()[-lines:])
