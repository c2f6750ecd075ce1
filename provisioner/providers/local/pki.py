"""The certificates of a cluster: three authorities, one identity for each component, and the kubeconfigs made of them.

No component and nothing on disk is in `system:masters`: the administrator is in a group of our own, which a
ClusterRoleBinding ties to cluster-admin. That binding is made once by `bootstrap_identity`, which lives in memory for
minutes. Keys are ECDSA P-256. Whatever is near its expiry, or no longer says what it should, is issued again.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.providers.local.files import PUBLIC, SECRET, private_directory, write_atomically

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

ADMIN_GROUP = "provisioner:cluster-admins"
ADMIN_USER = "provisioner-admin"
KUBELET_CLIENT_USER = "kube-apiserver-kubelet-client"

CLUSTER_CA = "ca"
ETCD_CA = "etcd-ca"
FRONT_PROXY_CA = "front-proxy-ca"
_AUTHORITIES = {CLUSTER_CA: "kubernetes", ETCD_CA: "etcd", FRONT_PROXY_CA: "kubernetes-front-proxy"}

_CA_LIFE = dt.timedelta(days=3650)
_LEAF_LIFE = dt.timedelta(days=365)
_RENEW_BEFORE = dt.timedelta(days=60)
_BOOTSTRAP_LIFE = dt.timedelta(minutes=15)
_CLOCK_SKEW = dt.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a certificate says.

    stem   its file name without .crt and .key.
    names  DNS names and addresses for a server certificate; without them it is a client's alone.
    """

    stem: str
    common_name: str
    groups: Sequence[str] = ()
    authority: str = CLUSTER_CA
    names: Sequence[str] = ()
    client: bool = True


def control_plane_identities(addresses: Sequence[str], service_address: Sequence[str], hostname: str) -> tuple[Identity, ...]:
    """addresses: of the control plane; service_address: of the `kubernetes` Service, one a family."""
    local = ("localhost", "127.0.0.1", "::1")
    api_names = (
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        hostname,
        *local,
        *addresses,
        *service_address,
    )
    return (
        Identity("apiserver", "kube-apiserver", names=api_names, client=False),
        Identity("apiserver-kubelet-client", KUBELET_CLIENT_USER),
        Identity("apiserver-etcd-client", "kube-apiserver-etcd-client", authority=ETCD_CA),
        Identity("front-proxy-client", "front-proxy-client", authority=FRONT_PROXY_CA),
        Identity("etcd-server", "etcd-server", authority=ETCD_CA, names=local),
        Identity("etcd-peer", "etcd-peer", authority=ETCD_CA, names=local),
        Identity("kube-controller-manager", "system:kube-controller-manager", names=local),
        Identity("kube-scheduler", "system:kube-scheduler", names=local),
    )


def node_identities(node: str, addresses: Sequence[str]) -> tuple[Identity, ...]:
    return (
        Identity("kubelet", f"system:node:{node}", groups=("system:nodes",)),
        Identity("kubelet-server", f"system:node:{node}", groups=("system:nodes",), names=(node, *addresses), client=False),
    )


ADMIN = Identity("admin", ADMIN_USER, groups=(ADMIN_GROUP,))


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    """PEM texts. Has no repr: the key must not reach a log."""

    certificate: str
    key: str


class Authorities:
    """The authorities below `directory`; made when they are not there yet, half-written ones made again."""

    def __init__(self, directory: Path) -> None:
        self.directory = private_directory(directory)
        self._loaded: dict[str, tuple[x509.Certificate, ec.EllipticCurvePrivateKey]] = {}
        for stem, common_name in _AUTHORITIES.items():
            self._loaded[stem] = self._load(stem) or self._make(stem, common_name)
        _ensure_service_account_key(directory)

    def certificate(self, authority: str = CLUSTER_CA) -> str:
        return (self.directory / f"{authority}.crt").read_text()

    def _load(self, stem: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            certificate = x509.load_pem_x509_certificate((self.directory / f"{stem}.crt").read_bytes())
            key = load_pem_private_key((self.directory / f"{stem}.key").read_bytes(), None)
        except (OSError, ValueError):
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            return None
        return certificate, key

    def _make(self, stem: str, common_name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        key = _new_key()
        subject = _subject(common_name, ())
        certificate = (
            _builder(subject, subject, key, _CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # The certificate last: without it the pair does not count, so a crash between the two makes it again.
        write_atomically(self.directory / f"{stem}.key", _key_pem(key), SECRET)
        write_atomically(self.directory / f"{stem}.crt", _certificate_pem(certificate), PUBLIC)
        return certificate, key

    def issue(self, identity: Identity, life: dt.timedelta = _LEAF_LIFE) -> Pair:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.x509.oid import ExtendedKeyUsageOID

        authority, authority_key = self._loaded[identity.authority]
        key = _new_key()
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] * bool(identity.names) + [ExtendedKeyUsageOID.CLIENT_AUTH] * identity.client
        builder = (
            _builder(_subject(identity.common_name, identity.groups), authority.subject, key, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        )
        if identity.names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in identity.names]), critical=False)
        return Pair(_certificate_pem(builder.sign(authority_key, hashes.SHA256())), _key_pem(key))

    def is_current(self, certificate_pem: bytes, identity: Identity) -> bool:
        """Whether a certificate says what `identity` says, comes from the authority we have, and is not near its expiry."""
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            authority_key = self._loaded[identity.authority][1].public_key()
            authority_key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
        except (ValueError, InvalidSignature):
            return False
        if certificate.not_valid_after_utc - _now() < _RENEW_BEFORE or certificate.subject != _subject(
            identity.common_name, identity.groups
        ):
            return False
        try:
            names = set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except x509.ExtensionNotFound:
            names = set()
        return names == {_general_name(name) for name in identity.names}

    def ensure(self, identity: Identity, directory: Path) -> bool:
        """Have `identity`'s pair in `directory`; True when it was issued now."""
        certificate_file, key_file = directory / f"{identity.stem}.crt", directory / f"{identity.stem}.key"
        try:
            certificate = certificate_file.read_bytes()
            private = key_file.stat().st_mode & 0o077 == 0
            if private and self.is_current(certificate, identity) and _belong_together(certificate, key_file.read_bytes()):
                return False
        except OSError:
            pass  # not there yet
        pair = self.issue(identity)
        write_atomically(key_file, pair.key, SECRET, durable=False)
        write_atomically(certificate_file, pair.certificate, SECRET, durable=False)
        return True

    def bootstrap_identity(self) -> Pair:
        """The one member of system:masters: for minutes, in memory, to make the bindings that everybody else needs."""
        return self.issue(Identity("bootstrap", "provisioner-bootstrap", groups=("system:masters",)), _BOOTSTRAP_LIFE)


def kubeconfig(server: str, authority: str, pair: Pair, user: str) -> str:
    """A kubeconfig with everything embedded, for a component."""
    import base64

    import yaml

    def encode(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": server, "certificate-authority-data": encode(authority)}}],
        "users": [{"name": user, "user": {"client-certificate-data": encode(pair.certificate), "client-key-data": encode(pair.key)}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": user}}],
        "current-context": "local",
    }
    return str(yaml.safe_dump(document, sort_keys=False))


def is_near_expiry(certificate_pem: bytes) -> bool:
    """Whether the next create would issue it again; so would it what is no certificate."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc - _now() < _RENEW_BEFORE
    except ValueError:
        return True


def read_pair(directory: Path, stem: str) -> Pair:
    return Pair((directory / f"{stem}.crt").read_text(), (directory / f"{stem}.key").read_text())


def _ensure_service_account_key(directory: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    key_file, public_file = directory / "sa.key", directory / "sa.pub"
    try:
        load_pem_private_key(key_file.read_bytes(), None)
        public_file.read_bytes()
        return
    except (OSError, ValueError):
        key = _new_key()
    write_atomically(key_file, _key_pem(key), SECRET)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_atomically(public_file, public, PUBLIC)


def _belong_together(certificate_pem: bytes, key_pem: bytes) -> bool:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        public = load_pem_private_key(key_pem, None).public_key()
        return public == x509.load_pem_x509_certificate(certificate_pem).public_key()
    except ValueError:
        return False


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _new_key() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _subject(common_name: str, groups: Sequence[str]) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, life: dt.timedelta) -> x509.CertificateBuilder:
    from cryptography import x509

    now = _now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _certificate_pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
