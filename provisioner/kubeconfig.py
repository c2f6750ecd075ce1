"""Merge a cluster into a kubeconfig file and take it out again, beside kubectl and others that do the same.

The lock is client-go's: `PATH.lock`, created exclusively and removed at the end. The file appears by rename with mode 0600; what
it holds of others is kept. An unreadable file is refused, never replaced.
"""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner import errors

if TYPE_CHECKING:
    from provisioner.providers.base import Credentials

LOCK_SECONDS = 5.0
_LOCK_POLL_SECONDS = 0.02
_LISTS = ("clusters", "users", "contexts")


def merge(path: Path, name: str, credentials: Credentials, *, lock_seconds: float = LOCK_SECONDS) -> None:
    """Put the cluster, user and context `name` in, and make it the current context."""
    entries = entry(name, credentials)
    with _locked(path, lock_seconds, make_directory=True):
        config = _read(path)
        for kind in _LISTS:
            config[kind] = [item for item in config.get(kind) or [] if item.get("name") != name] + entries[kind]
        config["current-context"] = name
        _write(path, config)


def remove(path: Path, name: str, *, lock_seconds: float = LOCK_SECONDS) -> bool:
    """Take the cluster, user and context `name` out; whether there was anything. A file that then holds nothing is removed."""
    if not path.exists():
        return False
    with _locked(path, lock_seconds, make_directory=False):
        config = _read(path)
        found = config.get("current-context") == name
        for kind in _LISTS:
            kept = [item for item in config.get(kind) or [] if item.get("name") != name]
            found = found or len(kept) != len(config.get(kind) or [])
            config[kind] = kept
        if not found:
            return False
        if config.get("current-context") == name:
            config["current-context"] = ""
        meaningful = {key: value for key, value in config.items() if value and key not in {"apiVersion", "kind"}}
        if meaningful:
            _write(path, config)
        else:
            Path(os.path.realpath(path)).unlink()
        return True


def entry(name: str, credentials: Credentials) -> dict[str, Any]:
    """A whole kubeconfig with this one cluster."""
    authority = {"certificate-authority-data": _encoded(credentials.ca_certificate)} if credentials.ca_certificate else {}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": credentials.server, **authority}}],
        "users": [{"name": name, "user": _user(credentials)}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }


def _user(credentials: Credentials) -> dict[str, Any]:
    if credentials.exec_plugin:
        return {
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1beta1",
                "command": credentials.exec_plugin,
                "installHint": f"Install {credentials.exec_plugin}: gcloud components install {credentials.exec_plugin}",
                "interactiveMode": "IfAvailable",
                "provideClusterInfo": True,
            }
        }
    return {"client-certificate-data": _encoded(credentials.client_certificate), "client-key-data": _encoded(credentials.client_key)}


def write_private(path: Path, text: str) -> None:
    """Replace a file as a whole, mode 0600; on disk when this returns."""
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _encoded(pem: str) -> str:
    return base64.b64encode(pem.encode()).decode()


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        config = None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise _not_a_kubeconfig(path) from None
    except OSError as error:
        raise _inaccessible(path, error) from None
    if config is None:
        return {"apiVersion": "v1", "kind": "Config", **{kind: [] for kind in _LISTS}, "current-context": ""}
    if not isinstance(config, dict) or not all(_is_list_of_entries(config.get(kind)) for kind in _LISTS):
        raise _not_a_kubeconfig(path)
    return config


def _is_list_of_entries(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, dict) for item in value))


def _write(path: Path, config: dict[str, Any]) -> None:
    import yaml

    try:
        # Through a link, so that a kubeconfig kept elsewhere stays there.
        write_private(Path(os.path.realpath(path)), yaml.safe_dump(config, sort_keys=False))
    except OSError as error:
        raise _inaccessible(path, error) from None


@contextlib.contextmanager
def _locked(path: Path, seconds: float, *, make_directory: bool) -> Iterator[None]:
    lock = path.with_name(f"{path.name}.lock")
    end = time.monotonic() + seconds
    try:
        if make_directory:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            try:
                os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
                break
            except FileExistsError:
                if time.monotonic() > end:
                    raise errors.Conflict(
                        f"{lock} exists: another program is writing that kubeconfig, or died while it did",
                        remedy=f"Wait for it; if there is none, remove {lock} and run the command again.",
                        field="--kubeconfig",
                    ) from None
                time.sleep(_LOCK_POLL_SECONDS)
    except OSError as error:
        raise _inaccessible(path, error) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()


def _not_a_kubeconfig(path: Path) -> errors.ProvisionerError:
    return errors.Conflict(
        f"{path} is not a kubeconfig", remedy="Give another file with --kubeconfig, or repair this one.", field="--kubeconfig"
    )


def _inaccessible(path: Path, error: OSError) -> errors.ProvisionerError:
    return errors.PermissionMissing(
        f"{path} cannot be written: {error.strerror}", remedy="Give a file that can be written with --kubeconfig.", field="--kubeconfig"
    )
