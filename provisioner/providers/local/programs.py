"""The description of a member that member-init works off: mounts, cgroups, programs. Pure: records in, text out.

The format is in init/member-init.c. Fields are separated by tabs and lines by newlines, so neither may be in a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PATH = "/opt/provisioner/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Program:
    """A program that a member runs for as long as it lives.

    await_tcp  (address, port) that must accept connections before the program is started, so that it does not burn
               CPU in its own retries while what it needs is still starting.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    await_tcp: tuple[str, int] | None = None

    @property
    def log(self) -> str:
        return f"/var/log/{self.name}.log"


@dataclass(frozen=True, slots=True)
class Bind:
    """`source` on the host appears as `path`, with what is mounted below it."""

    source: str
    path: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class Mount:
    """A new file system of the type `kind`."""

    kind: str
    path: str
    options: str = "nosuid,nodev,noexec"


@dataclass(frozen=True, slots=True)
class Symlink:
    """Made unless something is there."""

    target: str
    path: str


@dataclass(frozen=True, slots=True)
class Directory:
    """Made, with its parents, unless it is there."""

    path: str
    mode: int = 0o755


FileSystem = Bind | Mount | Symlink | Directory


@dataclass(frozen=True, slots=True)
class Description:
    """cgroups  the member's directory in each hierarchy, as the host names them; `init` below each is the PID 1's own."""

    hostname: str
    root: Path
    cgroups: Sequence[Path]
    file_systems: Sequence[FileSystem]
    programs: Sequence[Program]

    def render(self) -> str:
        lines: list[tuple[str, ...]] = [("hostname", self.hostname)]
        lines += [("cgroup", str(directory)) for directory in self.cgroups]
        lines += [("leaf", str(directory / "init")) for directory in self.cgroups]
        lines.append(("root", str(self.root)))
        lines += [_file_system(item) for item in self.file_systems]
        for program in self.programs:
            lines += [("program", program.name), ("log", program.log)]
            lines += [("env", f"{name}={value}") for name, value in {"PATH": PATH, **program.env}.items()]
            lines += [("arg", word) for word in program.argv]
            if program.await_tcp:
                lines.append(("await", program.await_tcp[0], str(program.await_tcp[1])))
        return "".join(_line(fields) for fields in lines)


def _file_system(item: FileSystem) -> tuple[str, ...]:
    match item:
        case Bind(source, path, read_only):
            return ("bind", source, path, "ro" if read_only else "rw")
        case Mount(kind, path, options):
            return ("mount", kind, path, options)
        case Symlink(target, path):
            return ("symlink", target, path)
        case Directory(path, mode):
            return ("dir", path, f"{mode:o}")


def _line(fields: Sequence[str]) -> str:
    for text in fields:
        if "\t" in text or "\n" in text:
            raise ValueError(f"{fields[0]}: a tab or newline in {text!r}")
    return "\t".join(fields) + "\n"
