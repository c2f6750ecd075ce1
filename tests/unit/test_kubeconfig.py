"""Merging into a kubeconfig and taking out again: what others wrote stays, the lock is client-go's, the key is private."""

from __future__ import annotations

import base64
import threading
import time
from pathlib import Path

import pytest
import yaml

from provisioner import errors, kubeconfig
from provisioner.providers.base import Credentials

FOUND = Credentials("https://172.30.0.2:6443", "CA PEM", "CERT PEM", "KEY PEM")

OTHERS = """\
apiVersion: v1
kind: Config
preferences: {colors: true}
clusters:
- name: work
  cluster: {server: https://work}
  extensions: [{name: x}]
users:
- name: me
  user: {exec: {command: login}}
contexts:
- name: work
  context: {cluster: work, user: me}
current-context: work
"""


def read(path: Path) -> dict[str, object]:
    return yaml.safe_load(path.read_text())


def test_a_new_kubeconfig_holds_the_cluster_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "config"
    kubeconfig.merge(path, "provisioner-demo", FOUND)
    config = read(path)
    assert config["current-context"] == "provisioner-demo"
    assert config["contexts"] == [{"name": "provisioner-demo", "context": {"cluster": "provisioner-demo", "user": "provisioner-demo"}}]
    assert config["clusters"][0]["cluster"]["server"] == FOUND.server
    assert base64.b64decode(config["users"][0]["user"]["client-key-data"]) == b"KEY PEM"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["config"]


def test_what_others_wrote_stays_through_merge_and_remove(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(OTHERS)
    kubeconfig.merge(path, "provisioner-demo", FOUND)
    merged = read(path)
    assert [c["name"] for c in merged["clusters"]] == ["work", "provisioner-demo"]
    assert merged["preferences"] == {"colors": True}
    assert kubeconfig.remove(path, "provisioner-demo")
    assert read(path) == {**yaml.safe_load(OTHERS), "current-context": ""}


def test_merging_twice_is_merging_once(tmp_path: Path) -> None:
    path = tmp_path / "config"
    kubeconfig.merge(path, "provisioner-demo", FOUND)
    once = path.read_text()
    kubeconfig.merge(path, "provisioner-demo", FOUND)
    assert path.read_text() == once


def test_removing_keeps_another_s_current_context(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(OTHERS)
    before = path.read_text()
    assert not kubeconfig.remove(path, "provisioner-demo")
    assert path.read_text() == before


def test_a_file_that_holds_nothing_any_more_is_removed_and_a_missing_one_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "config"
    kubeconfig.merge(path, "provisioner-demo", FOUND)
    assert kubeconfig.remove(path, "provisioner-demo")
    assert not path.exists()
    assert not kubeconfig.remove(path, "provisioner-demo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["[1, 2]", "clusters: 3\n", "clusters: [a]\n", "{", "\udcff"])
def test_what_is_no_kubeconfig_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_bytes(text.encode(errors="surrogateescape"))
    before = path.read_bytes()
    with pytest.raises(errors.Conflict, match="not a kubeconfig"):
        kubeconfig.merge(path, "provisioner-demo", FOUND)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["config"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "config"
    real.parent.mkdir()
    real.write_text(OTHERS)
    link = tmp_path / "config"
    link.symlink_to(real)
    kubeconfig.merge(link, "provisioner-demo", FOUND)
    assert link.is_symlink()
    assert "provisioner-demo" in real.read_text()


def test_a_lock_of_another_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "config"
    lock = tmp_path / "config.lock"
    lock.touch()
    merging = threading.Thread(target=kubeconfig.merge, args=(path, "provisioner-demo", FOUND))
    merging.start()
    time.sleep(0.1)
    assert not path.exists()
    lock.unlink()
    merging.join(5)
    assert path.exists()
    assert not lock.exists()


def test_a_lock_that_stays_is_named_and_not_removed(tmp_path: Path) -> None:
    lock = tmp_path / "config.lock"
    lock.touch()
    with pytest.raises(errors.Conflict, match=r"config\.lock exists") as caught:
        kubeconfig.merge(tmp_path / "config", "provisioner-demo", FOUND, lock_seconds=0.05)
    assert str(lock) in caught.value.remedy
    assert lock.exists()


def test_many_that_merge_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config"
    threads = [threading.Thread(target=kubeconfig.merge, args=(path, f"provisioner-c{n}", FOUND)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(c["name"] for c in read(path)["clusters"]) == [f"provisioner-c{n}" for n in range(8)]


def test_the_key_is_in_no_representation() -> None:
    assert "KEY" not in repr(FOUND)
