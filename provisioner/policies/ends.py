"""Who asks whom, at which port: from the words of the command line to what the agent's compiler is asked. Pure.

Every name is looked up first, so that a slip of the pen gets the nearest name instead of an answer about nothing.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from provisioner import errors
from provisioner.policies.objects import Name, Objects, addresses, container_ports, is_finished, named_port, slices_of, text_of

PORTLESS = ("ICMP", "ICMPV6")
PROTOCOLS = ("TCP", "UDP", "SCTP", *PORTLESS)
_MAX_PORT = 65535
_NEAREST = 3
_FORMS = {"pod": "pods", "service": "services", "svc": "services"}


@dataclass(frozen=True, slots=True)
class End:
    """`kind` is pods, services or address; `name` is ("", address) for the last."""

    kind: str
    name: Name

    def __str__(self) -> str:
        """As the agent's command takes it."""
        return self.name[1] if self.kind == "address" else f"{self.kind.removesuffix('s')}:{text_of(self.name)}"


@dataclass(frozen=True, slots=True)
class Question:
    """`port` is a number, the Service's own where `target` is a Service; of a headless one as it was asked, "" where there is none."""

    source: End
    target: End
    port: str
    protocol: str


def question(objects: Objects, source: str, target: str, port: str, protocol: str | None) -> Question:
    """Raises `errors.Usage` for what no cluster could mean, `errors.NotFound` for what this one does not have."""
    if protocol is not None and protocol.upper() not in PROTOCOLS:
        raise errors.Usage(
            f"--protocol {protocol!r} is none that can be asked about", remedy=f"Use {', '.join(PROTOCOLS)}.", field="--protocol"
        )
    wanted = protocol.upper() if protocol else None
    one, other = _end(objects, source, "--from"), _end(objects, target, "--to")
    if one.kind == "services":
        raise errors.Usage(
            f"--from {source} is a Service, and a Service sends nothing",
            remedy="Name a pod behind it, as in --from NAMESPACE/POD.",
            field="--from",
        )
    if wanted in PORTLESS:
        number, kind = _no_port(other, target, port), wanted
    elif other.kind == "services":
        number, kind = _service_port(objects, other.name, port, wanted)
    elif other.kind == "pods":
        number, kind = str(_pod_port(objects, other.name, port, wanted or "TCP")), wanted or "TCP"
    else:
        number, kind = str(_number(port, "a port's name means something only on a pod or Service")), wanted or "TCP"
    return Question(one, other, number, kind)


def _end(objects: Objects, text: str, flag: str) -> End:
    try:
        return End("address", ("", str(ipaddress.ip_address(text))))
    except ValueError:
        pass
    form, colon, rest = text.partition(":")
    namespace, slash, name = (rest if colon else text).partition("/")
    if (colon and form not in _FORMS) or not slash or not namespace or not name or "/" in name:
        ends = "NAMESPACE/POD or an address" if flag == "--from" else "NAMESPACE/POD, NAMESPACE/SERVICE or an address"
        raise errors.Usage(f"{flag} {text!r} names nothing", remedy=f"Write {ends}.", field=flag)
    key = (namespace, name)
    kinds = [_FORMS[form]] if colon else ["pods"] if flag == "--from" else ["pods", "services"]
    found = [kind for kind in kinds if key in objects.kinds[kind]]
    if len(found) > 1:
        raise errors.Usage(f"{flag} {text} is a pod and a Service", remedy=f"Say which: pod:{text} or service:{text}.", field=flag)
    if not found:
        if flag == "--from" and key in objects.kinds["services"]:
            return End("services", key)
        raise _unknown(objects, key, kinds, flag)
    if found == ["pods"]:
        _require_alive(objects, key, flag)
    return End(found[0], key)


def _require_alive(objects: Objects, key: Name, flag: str) -> None:
    pod = objects.kinds["pods"][key]
    if is_finished(pod):
        phase = pod["status"]["phase"]
        raise errors.NotFound(f"the pod {text_of(key)} has ended ({phase}): nothing runs in it", remedy="Name a pod that runs.", field=flag)
    if not addresses(pod):
        raise errors.NotFound(f"the pod {text_of(key)} has no address yet", remedy="Wait until it runs, and ask again.", field=flag)


def _unknown(objects: Objects, key: Name, kinds: Iterable[str], flag: str) -> errors.NotFound:
    words = {"pods": "pod", "services": "Service"}
    names = {text_of(name): words[kind] for kind in kinds for name in objects.kinds[kind]}
    near = nearest(text_of(key), names)
    what = " or ".join(words[kind] for kind in kinds)
    if near:
        remedy = f"Did you mean {' or '.join(near)}?"
    elif names:
        remedy = "Write NAMESPACE/NAME; `kubectl get pods -A` lists them."
    else:
        remedy = "There are none at all: name a cluster, or files that have some."
    return errors.NotFound(f"there is no {what} {text_of(key)}", remedy=remedy, field=flag)


def nearest(text: str, names: Iterable[str]) -> list[str]:
    """The names most like it, the best first. Of the same name in another namespace, and of the same beginning, one thinks first."""
    names = list(names)
    namespace, _, name = text.rpartition("/")
    elsewhere = [other for other in names if other.rpartition("/")[2] == name]
    begun = [other for other in names if other.startswith(f"{namespace}/{name}")]
    alike = difflib.get_close_matches(text, names, n=_NEAREST, cutoff=0.6)
    return list(dict.fromkeys([*begun[:_NEAREST], *elsewhere[:_NEAREST], *alike]))[:_NEAREST]


def _no_port(target: End, text: str, port: str) -> str:
    if target.kind == "services":
        raise errors.Usage(f"--to {text} is a Service, and Services have no ICMP", remedy="Name a pod behind it.", field="--to")
    if port:
        raise errors.Usage(f"--port {port}: ICMP has no ports", remedy="Leave it out.", field="--port")
    return ""


def _number(port: str, otherwise: str) -> int:
    if not port.isascii() or not port.isdigit():
        raise errors.Usage(f"--port {port!r} is no number, and {otherwise}", remedy="Write a number.", field="--port")
    number = int(port)
    if not 1 <= number <= _MAX_PORT:
        raise errors.Usage(f"--port {port} is no port", remedy=f"Use a number from 1 to {_MAX_PORT}.", field="--port")
    return number


def _pod_port(objects: Objects, key: Name, port: str, protocol: str) -> int:
    """Any number, or the name of a port that a container declares."""
    if port.isdigit():
        return _number(port, "")
    pod = objects.kinds["pods"][key]
    number = named_port(pod, port, protocol)
    if number is None:
        names = [f"{name} ({number}/{kind})" for name, kind, number in container_ports(pod) if name]
        remedy = f"It names {', '.join(names)}; a number goes as well." if names else "It names none; write a number."
        raise errors.NotFound(f"the pod {text_of(key)} has no {protocol} port named {port}", remedy=remedy, field="--port")
    return number


def _service_port(objects: Objects, key: Name, port: str, protocol: str | None) -> tuple[str, str]:
    """By its number or name, of the protocol asked for, or, if none is, of the first that fits, TCP before others.

    A headless Service is only a name for its pods: whoever has it sends to any port of theirs.
    """
    spec: dict[str, Any] = objects.kinds["services"][key].get("spec") or {}
    if spec.get("type") == "ExternalName":
        raise errors.Usage(
            f"the Service {text_of(key)} is another name for {spec.get('externalName', '')}, not for pods",
            remedy="Ask about an address that the name has.",
            field="--to",
        )
    ports = [(entry.get("name") or "", entry.get("protocol") or "TCP", entry.get("port")) for entry in spec.get("ports") or ()]
    fitting = [
        (number, kind)
        for name, kind, number in sorted(ports, key=lambda entry: entry[1] != "TCP")
        if isinstance(number, int) and port in (str(number), name) and protocol in (None, kind)
    ]
    is_headless = spec.get("clusterIP") == "None"
    if not fitting and not (is_headless and port.isdigit()):
        has = ", ".join(f"{number}/{kind}{f' ({name})' if name else ''}" for name, kind, number in ports) or "none"
        asked = f"{port}/{protocol}" if protocol else port
        raise errors.NotFound(f"the Service {text_of(key)} has no port {asked}", remedy=f"Its ports are: {has}.", field="--port")
    if not any(item.get("endpoints") for item in slices_of(objects, key)):
        raise errors.NotFound(
            f"the Service {text_of(key)} has no endpoints: a connection is refused whatever the policies say",
            remedy="See that its selector selects pods that run, or ask about a pod.",
            field="--to",
        )
    if is_headless:
        return port, fitting[0][1] if fitting else protocol or "TCP"
    return str(fitting[0][0]), fitting[0][1]
