"""The certificates: who is who, what is renewed, what nobody may read."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from provisioner.providers.local import pki

KUBELET, KUBELET_SERVER = pki.node_identities("demo-0", ["172.30.0.10"])


@pytest.fixture
def authorities(tmp_path: Path) -> pki.Authorities:
    return pki.Authorities(tmp_path / "pki")


def certificate(directory: Path, stem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / f"{stem}.crt").read_bytes())


def every_identity() -> list[pki.Identity]:
    control_plane = pki.control_plane_identities(["172.30.0.2"], ["10.96.0.1"], "control-plane")
    return [*control_plane, KUBELET, KUBELET_SERVER, pki.ADMIN]


def test_no_stored_identity_is_in_system_masters(authorities: pki.Authorities, tmp_path: Path) -> None:
    for identity in every_identity():
        authorities.ensure(identity, tmp_path)
    found = [certificate(path.parent, path.stem) for path in tmp_path.rglob("*.crt")]
    assert len(found) == len(every_identity()) + 3
    assert all("system:masters" not in item.subject.rfc4514_string() for item in found)


def test_the_bootstrap_identity_lives_for_minutes_and_is_not_written(authorities: pki.Authorities) -> None:
    before = {path: path.stat().st_mtime_ns for path in authorities.directory.iterdir()}
    pair = authorities.bootstrap_identity()
    found = x509.load_pem_x509_certificate(pair.certificate.encode())
    assert found.not_valid_after_utc - dt.datetime.now(dt.UTC) < dt.timedelta(minutes=20)
    assert before == {path: path.stat().st_mtime_ns for path in authorities.directory.iterdir()}
    assert "PRIVATE" not in repr(pair)


def test_keys_are_for_their_owner_alone(authorities: pki.Authorities, tmp_path: Path) -> None:
    authorities.ensure(KUBELET, tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.key")}
    assert set(modes.values()) == {0o600}
    assert authorities.directory.stat().st_mode & 0o777 == 0o700


def test_a_kubelets_identities_carry_its_name_group_and_addresses(authorities: pki.Authorities, tmp_path: Path) -> None:
    authorities.ensure(KUBELET, tmp_path)
    authorities.ensure(KUBELET_SERVER, tmp_path)
    assert certificate(tmp_path, "kubelet").subject.rfc4514_string() == "CN=system:node:demo-0,O=system:nodes"
    names = certificate(tmp_path, "kubelet-server").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["172.30.0.10"]


def test_a_current_certificate_is_left_alone(authorities: pki.Authorities, tmp_path: Path) -> None:
    assert authorities.ensure(KUBELET, tmp_path)
    assert not pki.Authorities(authorities.directory).ensure(KUBELET, tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "kubelet-server.key").unlink(),
        lambda d: (d / "kubelet-server.crt").write_text("-----BEGIN CERTIFICATE-----\nhalf"),
        lambda d: (d / "kubelet-server.key").write_text("half"),
        lambda d: (d / "kubelet-server.key").chmod(0o644),
        lambda d: (d / "kubelet-server.key").write_text((d / "other.key").read_text()),
    ],
    ids=["no-key", "half-a-certificate", "half-a-key", "readable-key", "anothers-key"],
)
def test_a_damaged_pair_is_issued_again(authorities: pki.Authorities, tmp_path: Path, damage: object) -> None:
    authorities.ensure(pki.Identity("other", "other"), tmp_path)
    authorities.ensure(KUBELET_SERVER, tmp_path)
    damage(tmp_path)  # type: ignore[operator]
    assert authorities.ensure(KUBELET_SERVER, tmp_path)
    ssl.create_default_context().load_cert_chain(tmp_path / "kubelet-server.crt", tmp_path / "kubelet-server.key")


def test_another_address_or_a_near_expiry_is_issued_again(authorities: pki.Authorities, tmp_path: Path) -> None:
    authorities.ensure(KUBELET_SERVER, tmp_path)
    moved = pki.node_identities("demo-0", ["172.30.9.10"])[1]
    assert authorities.ensure(moved, tmp_path)
    soon = authorities.issue(KUBELET_SERVER, dt.timedelta(days=30))
    assert not authorities.is_current(soon.certificate.encode(), KUBELET_SERVER)


def test_a_half_written_authority_is_made_again_and_its_certificates_with_it(authorities: pki.Authorities, tmp_path: Path) -> None:
    authorities.ensure(KUBELET, tmp_path)
    (authorities.directory / "ca.crt").unlink()
    again = pki.Authorities(authorities.directory)
    assert again.ensure(KUBELET, tmp_path)


def test_etcd_and_the_cluster_do_not_trust_each_other(authorities: pki.Authorities, tmp_path: Path) -> None:
    etcd_client = pki.Identity("apiserver-etcd-client", "kube-apiserver-etcd-client", authority=pki.ETCD_CA)
    authorities.ensure(etcd_client, tmp_path)
    in_cluster = pki.Identity("apiserver-etcd-client", "kube-apiserver-etcd-client")
    assert not authorities.is_current((tmp_path / "apiserver-etcd-client.crt").read_bytes(), in_cluster)
