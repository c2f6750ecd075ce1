"""What a create leaves for a CI system: a JUnit file of its gates and steps, and a result file with everything that was created.

Both are written on every way out, the failures before the first step among them, so that a pipeline never looks for a file in vain.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from provisioner import errors
from provisioner.cli.output import error_data, note

if TYPE_CHECKING:
    from provisioner.plan.reporter import Outcome, Reporter
    from provisioner.plan.steps import Plan, Step

GATES, STEPS, COMMAND = "provisioner.gates", "provisioner.steps", "provisioner.command"


@dataclass(frozen=True, slots=True)
class Case:
    """One test case of the JUnit file. `failure` is empty for what went well, `skipped` for what did not have to be done."""

    suite: str
    name: str
    seconds: float = 0.0
    failure: str = ""
    skipped: str = ""


@dataclass
class Report:
    """Collects while the command runs."""

    name: str = ""
    provider: str = ""
    cases: list[Case] = field(default_factory=list)
    created: list[Mapping[str, Any]] = field(default_factory=list)
    cluster: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    outcome: str = "unknown"

    def add(self, suite: str, name: str, seconds: float = 0.0, *, failure: str = "", skipped: str = "") -> None:
        self.cases.append(Case(suite, name, seconds, failure, skipped))

    def failed(self, error: BaseException) -> None:
        """The command ends with this."""
        if isinstance(error, errors.ProvisionerError):
            self.error = error_data(error)
            self.outcome = "interrupted" if isinstance(error, errors.Interrupted) else "failed"
            text = f"{error.message}\n{error.remedy}".rstrip()
        else:
            text = f"{type(error).__name__}: {error}"
            self.error = {"id": "internal", "exitCode": 1, "message": text, "remedy": "", "field": ""}
            self.outcome = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        for index, case in enumerate(self.cases):
            if case.failure:  # the step says that it failed, the error why
                self.cases[index] = Case(case.suite, case.name, case.seconds, text, case.skipped)
                return
        if isinstance(error, errors.RefusedByGate):
            self.add(GATES, error.field or "gate", failure=text)
        else:
            self.add(COMMAND, "create-cluster", failure=text)

    def data(self) -> dict[str, Any]:
        """The result file."""
        return {
            "apiVersion": "provisioner.dev/v1alpha1",
            "kind": "CreateResult",
            "name": self.name,
            "provider": self.provider,
            "outcome": self.outcome,
            "cluster": self.cluster,
            "created": list(self.created),
            "steps": [
                {"name": case.name, "suite": case.suite, "seconds": round(case.seconds, 3), "failure": case.failure or None}
                for case in self.cases
            ],
            "error": self.error,
        }

    def junit(self) -> str:
        from xml.etree import ElementTree as ET

        root = ET.Element("testsuites", name="provisioner create-cluster")
        for suite in (GATES, STEPS, COMMAND):
            cases = [case for case in self.cases if case.suite == suite]
            if not cases:
                continue
            counts = {
                "tests": len(cases), "failures": sum(bool(case.failure) for case in cases), "errors": 0,
                "skipped": sum(bool(case.skipped) for case in cases),
            }  # fmt: skip
            seconds = f"{sum(case.seconds for case in cases):.3f}"
            node = ET.SubElement(root, "testsuite", {"name": suite, "time": seconds} | {key: str(value) for key, value in counts.items()})
            for case in cases:
                entry = ET.SubElement(node, "testcase", classname=f"{suite}.{self.name}", name=case.name, time=f"{case.seconds:.3f}")
                if case.failure:
                    ET.SubElement(entry, "failure", message=case.failure.splitlines()[0]).text = case.failure
                elif case.skipped:
                    ET.SubElement(entry, "skipped", message=case.skipped)
        ET.indent(root)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


@contextlib.contextmanager
def reported(junit: Path | None, result_file: Path | None) -> Iterator[Report]:
    """A report that is written when the block ends, however it ends."""
    import typer

    for path, flag in ((junit, "--junit"), (result_file, "--result-file")):
        if path is not None and not path.absolute().parent.is_dir():
            raise errors.NotFound(f"the directory of {path} does not exist", remedy="Make it, or give another path.", field=flag)
    report = Report()
    try:
        yield report
    except typer.Exit:
        report.outcome = "planned"
        _write(report, junit, result_file)
        raise
    except BaseException as error:
        report.failed(error)
        # Why the command failed matters more than what kept its files from being written.
        with contextlib.suppress(errors.ProvisionerError):
            _write(report, junit, result_file)
        raise
    _write(report, junit, result_file)


def _write(report: Report, junit: Path | None, result_file: Path | None) -> None:
    from provisioner.kubeconfig import write_private

    for path, text, flag in (
        (junit, report.junit, "--junit"),
        (result_file, lambda: json.dumps(report.data(), indent=2) + "\n", "--result-file"),
    ):
        if path is not None:
            try:
                write_private(path.absolute(), text())
            except OSError as error:
                message = f"{path} cannot be written: {error.strerror}"
                note(message)
                raise errors.PermissionMissing(message, remedy="Give a path that can be written.", field=flag) from None


class Recording:
    """A reporter that also keeps what ended in a report."""

    def __init__(self, inner: Reporter, report: Report) -> None:
        self._inner, self._report = inner, report

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._inner.__exit__(kind, error, trace)

    def plan(self, plan: Plan) -> None:
        self._inner.plan(plan)

    def began(self, step: Step) -> None:
        self._inner.began(step)

    def progress(self, step: Step, message: str) -> None:
        self._inner.progress(step, message)

    def ended(self, step: Step, outcome: Outcome, seconds: float) -> None:
        failed, present = outcome.value in {"failed", "interrupted"}, outcome.value == "present"
        self._report.add(
            STEPS, step.title, seconds, failure=outcome.value if failed else "", skipped="was there already" if present else ""
        )
        self._inner.ended(step, outcome, seconds)
