"""What `policy explain` and `policy matrix` share: the objects from a cluster and from files, and the compiler in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provisioner import errors
from provisioner.cli import backend, live
from provisioner.cli.check import manifest_files
from provisioner.cli.output import note

if TYPE_CHECKING:
    from provisioner.deploy.client import Client
    from provisioner.plan.deadline import TimeLimit
    from provisioner.policies.objects import Objects

ClusterName = Annotated[str, typer.Argument(metavar="[NAME]", help="A cluster of this machine.", show_default=False)]
Context = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="Or the cluster of this kubeconfig context.", show_default=False)
]
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="Manifests (a file, a directory, - for stdin) whose objects stand for the cluster's of the same name; may be repeated.",
        show_default=False,
    ),
]
_SHOWN_PROBLEMS = 20


def client_of(name: str, context: str | None, kubeconfig: Path | None, limit: TimeLimit) -> Client | None:
    """Of the cluster that is named; None where none is."""
    from provisioner.deploy.client import Client

    if name and context is not None:
        raise errors.Usage(f"{name} and --context both name a cluster", remedy="Leave one of them out.", field="--context")
    if name:
        return Client(backend.open_provider().credentials(name), limit)
    if context is not None or kubeconfig is not None:
        return Client(live.access(context or "", kubeconfig), limit)
    return None


def gathered(client: Client | None, files: Sequence[str], where: str) -> Objects:
    """The cluster's objects with the files' in their place, complete, and every policy of a file as an API server would take it.

    Files are read first: what is wrong with them is said before the cluster is asked.
    """
    from provisioner.deploy.client import ApiError, UnavailableError
    from provisioner.deploy.collect import collect
    from provisioner.policies.objects import Objects, overlay

    if client is None and not files:
        raise errors.Usage("there is nothing to ask about", remedy="Name a cluster, --context, or --file.", field="NAME")
    given = _from_files(files)
    try:
        found = collect(client) if client is not None else Objects()
    except (ApiError, UnavailableError) as error:
        raise live.require_reachable(error, where) from error
    overlay(found, given)
    for text in found.notes:
        note(text)
    return found


def _from_files(files: Sequence[str]) -> Objects:
    from provisioner.compatibility.check import kind_of, subject
    from provisioner.compatibility.documents import line_of
    from provisioner.policies.objects import KINDS, Objects
    from provisioner.policies.validate import problems

    found, wrong, others = Objects(), [], 0
    for target in files:
        for file in _paths(target):
            for item in _items(file):
                kind = KINDS.get(kind_of(item) or "")
                if kind is None:
                    others += 1
                    continue
                if kind == "networkpolicies":
                    where = f"{'stdin' if file == '-' else file}"
                    for problem in problems(item):
                        entry = {"file": where, "line": line_of(item, problem.path), "object": subject(item), "field": problem.field}
                        wrong.append(entry | {"reason": problem.reason, "remedy": problem.remedy})
                if isinstance(item.get("metadata"), dict):
                    found.add(kind, item)
    if others:
        note(f"{others} object{' is' if others == 1 else 's are'} of a kind that decides nothing here, and left out")
    if wrong:
        _refuse(wrong)
    return found


def _refuse(wrong: Sequence[dict[str, Any]]) -> None:
    lines = [f"{entry['file']}:{entry['line']}: {entry['object']}: {entry['field']} {entry['reason']}" for entry in wrong[:_SHOWN_PROBLEMS]]
    more = f"\n  and {len(wrong) - _SHOWN_PROBLEMS} more" if len(wrong) > _SHOWN_PROBLEMS else ""
    raise errors.SpecInvalid(
        "the API server would not take this:\n  " + "\n  ".join(lines) + more,
        remedy=wrong[0]["remedy"],
        field=wrong[0]["field"],
        details=wrong,
    )


def _paths(target: str) -> Iterator[str]:
    if target == "-":
        yield "-"
        return
    if not Path(target).exists():
        raise errors.NotFound(
            f"there is no file or directory {target}", remedy="Give a path that is there, or - for stdin.", field="--file"
        )
    yield from (str(file) for file in manifest_files(Path(target)))


def _items(file: str) -> Iterator[dict[str, Any]]:
    """The objects of a file, those of Lists one by one."""
    from provisioner.compatibility import documents

    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise errors.NotFound(f"{file} cannot be read: {error.strerror}", remedy="Give a file that can be read.", field="--file") from None
    try:
        for _, value in documents.read(content):
            if isinstance(value, dict) and isinstance(value.get("items"), list):
                yield from (_of_list(value, item) for item in value["items"] if isinstance(item, dict))
            elif isinstance(value, dict):
                yield value
            elif value is not None:
                raise documents.Unreadable("is no object of Kubernetes", getattr(value, "line", 0))
    except documents.Unreadable as problem:
        raise errors.Usage(f"{file}:{problem.line}: this {problem.reason}", remedy="Correct the YAML there.", field="--file") from None


def _of_list(container: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """A PodList's items may leave their kind to the list."""
    kind = str(container.get("kind", ""))
    if "kind" not in item and kind.endswith("List") and kind != "List":
        item["apiVersion"], item["kind"] = container.get("apiVersion"), kind.removesuffix("List")
    return item


def ask_compiler(words: Sequence[str], objects: Objects, limit: TimeLimit) -> dict[str, Any]:
    """The answer of the agent's own compiler, which this process never imports: `agent.main policy WORDS`."""
    # -P: a directory called agent where the user happens to be is not the agent.
    argv = [sys.executable, "-P", "-m", "agent.main", "policy", *words, "--objects", "-", "--output", "json"]
    document = json.dumps(objects.document())
    try:
        done = subprocess.run(argv, input=document, capture_output=True, text=True, check=False, timeout=max(limit.remaining(), 0.1))
    except subprocess.TimeoutExpired:
        limit.check("asking the compiler")
        raise
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise errors.ProvisionerError(
            f"the compiler of policies failed: {said[-1] if said else f'it ended with {done.returncode}'}",
            remedy="This is a fault of provisioner: please report it with the objects that it was asked about.",
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
