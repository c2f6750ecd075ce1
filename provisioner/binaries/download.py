"""Downloads with a digest: what does not match what was published is an error, and what cannot be reached says so in seconds."""

from __future__ import annotations

import hashlib
import http.client
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from provisioner import errors
from provisioner.plan.steps import Deadline, Progress

CONNECT_SECONDS = 4.0
_READ_SECONDS = 30.0
_CHUNK = 1 << 20
_CHECKSUM_FILE_LIMIT = 1 << 20


class UnreachableError(Exception):
    """The network does not have it: another source may be tried."""


def _require_name(url: str) -> None:
    """Give up on a name that does not resolve soon: the resolver's own timeouts add up to half a minute."""
    if urllib.request.getproxies().get(urllib.parse.urlsplit(url).scheme):
        return
    host = urllib.parse.urlsplit(url).hostname or ""
    outcome: list[bool] = []

    def resolve() -> None:
        try:
            socket.getaddrinfo(host, 443)
            outcome.append(True)
        except OSError:
            outcome.append(False)

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if outcome != [True]:
        raise UnreachableError(f"{host} cannot be resolved")


def _open(url: str, timeout: float) -> http.client.HTTPResponse:
    _require_name(url)
    request = urllib.request.Request(url, headers={"User-Agent": "provisioner"})  # noqa: S310 - every caller's URL is http(s)
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout)  # noqa: S310
    except urllib.error.HTTPError as error:
        raise UnreachableError(f"{url} answered {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"{url} cannot be reached: {getattr(error, 'reason', error)}") from error
    return response


def fetch_text(url: str) -> str:
    """A small text such as a checksum file."""
    with _open(url, CONNECT_SECONDS) as response:
        try:
            return response.read(_CHECKSUM_FILE_LIMIT).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{url} broke off: {error}") from error


def fetch_file(url: str, target: Path, label: str, deadline: Deadline, progress: Progress, *, sha256: str = "") -> None:
    """Write `url` to `target`; with `sha256`, raise `errors.UpstreamFailure` when the content differs, leaving nothing."""
    digest = hashlib.sha256()
    with _open(url, _READ_SECONDS) as response, target.open("wb") as output:
        expected = int(response.headers.get("Content-Length") or 0)
        received = 0
        try:
            while chunk := response.read(_CHUNK):
                output.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                progress(f"downloading {label}: {received >> 20}{f' of {expected >> 20}' if expected else ''} MiB")
                deadline.check(f"downloading {label}")
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{url} broke off: {error}") from error
    if expected and received != expected:
        raise UnreachableError(f"{url} broke off after {received} of {expected} bytes")
    if sha256 and digest.hexdigest() != sha256:
        target.unlink()
        raise errors.UpstreamFailure(
            f"{url} does not have the published checksum: SHA-256 {digest.hexdigest()} instead of {sha256}",
            remedy="Something between this machine and the release changes downloads; give the programs with --kubernetes-bin-dir.",
        )


def find_checksum(text: str, file_name: str) -> str:
    """The SHA-256 of `file_name` in a checksum file: a bare digest, or `sha256sum` lines. Empty when it is not there."""
    for line in text.splitlines():
        fields = line.split()
        if fields and _is_sha256(fields[0]) and (len(fields) == 1 or fields[-1].lstrip("*").rsplit("/", 1)[-1] == file_name):
            return fields[0].lower()
    return ""


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and all(digit in "0123456789abcdefABCDEF" for digit in text)
