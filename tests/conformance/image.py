"""The images that upstream's specs run in pods: agnhost on Debian, with the programs that specs call in it, under the names they ask for."""

from __future__ import annotations

import dataclasses
import datetime as dt
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from provisioner import cache
from provisioner.binaries import Binaries
from provisioner.binaries.pins import architecture
from provisioner.images import oci, rootfs
from provisioner.images.build import REGISTRY, TOOLBOX_ROOTFS
from provisioner.process import Unlimited, say

# getent, which the DNS specs call, is in libc-bin; which, in debianutils.
ROOTFS = dataclasses.replace(
    TOOLBOX_ROOTFS, name="e2e", packages=(*TOOLBOX_ROOTFS.packages, "debianutils", "hostname", "iperf", "libc-bin")
)
# A spec repeats its requests itself, and counts each answer.
WGETRC = b"tries = 1\n"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The repositories of images that the sig-network specs use; agnhost stands for each of them.
REPOSITORIES = ("agnhost", "busybox", "jessie-dnsutils", "pause")
# The server of one spec, which sends packets out of the window of its connections.
INJECTOR = "regression-issue-74839"


def registries() -> str:
    """What the test program reads from KUBE_TEST_REPO_LIST, so that it asks for our images and not for somebody's registry."""
    return f"promoterE2eRegistry: {REGISTRY}\ngcRegistry: {REGISTRY}\n"


def wanted_names(program: Path, registry_list: Path) -> list[str]:
    """The names, with the tags of its version, under which the test program asks for images that we have."""
    listing = subprocess.run(
        [str(program), "--list-images", f"--kube-test-repo-list={registry_list}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"KUBE_TEST_REPO_LIST": str(registry_list)},
    ).stdout
    prefixes = tuple(f"{REGISTRY}/{repository}:" for repository in (*REPOSITORIES, INJECTOR))
    return sorted({line.strip() for line in listing.splitlines() if line.strip().startswith(prefixes)})


def certificate() -> tuple[bytes, bytes]:
    """Certificate and key in PEM, for agnhost's own TLS server. The API server's proxy asks pods for nobody's signature."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return signed.public_bytes(pem), secret


def write_images(directory: Path, names: Sequence[str], programs: Binaries, tests: Binaries) -> list[Path]:
    """Write the archives. The Debian layer comes from the cache; the rest takes a second."""
    servers = [name for name in names if name.startswith(f"{REGISTRY}/{INJECTOR}:") and tests.has(INJECTOR)]
    archives = [_write(directory / f"{INJECTOR}.tar", servers, [], [_program(tests, INJECTOR)], (f"/{INJECTOR}",))] if servers else []
    with cache.lock("images", Unlimited(), say):
        base = rootfs.ensure(ROOTFS, Unlimited(), say)
        public, secret = certificate()
        entries = [
            _program(programs, "agnhost"),
            _program(programs, "coredns"),  # DNS specs run a server of their own
            oci.Entry("agnhost-2", link="agnhost"),
            oci.Entry("etc/wgetrc", content=WGETRC),
            oci.Entry("localhost.crt", content=public),
            oci.Entry("localhost.key", content=secret),
            oci.Entry("uploads", 0o777),
        ]
        ours = [name for name in names if name not in servers]
        return [*archives, _write(directory / "agnhost.tar", ours, [base], entries, ("/agnhost",), ("pause",))]


def _program(found: Binaries, name: str) -> oci.Entry:
    return oci.Entry(name, 0o755, source=found.path(name))


def _write(
    target: Path,
    names: Sequence[str],
    base: Sequence[oci.Layer],
    entries: Iterable[oci.Entry],
    entrypoint: Sequence[str],
    command: Sequence[str] = (),
) -> Path:
    config = oci.Config(entrypoint=entrypoint, command=command, env=(PATH,))
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        own = oci.write_layer(entries, Path(scratch) / "layer.tar")
        oci.write_archive(target, names[0], [*base, own], config, architecture(), names[1:])
    return target
