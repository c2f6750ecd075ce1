"""Archives are valid OCI layouts, the same for the same input, and containerd takes them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time

import pytest

from provisioner import cache, errors
from provisioner.binaries import Binaries
from provisioner.images import build, oci, rootfs

CONFIG = oci.Config(entrypoint=("/hello",), env=("PATH=/",), user="65532")


def make(tmp_path, name="x.test/hello:1", content=b"hello"):
    tmp_path.mkdir(exist_ok=True)
    layer = oci.write_layer([oci.Entry("hello", 0o755, content=content), oci.Entry("etc/link", link="/hello")], tmp_path / "layer.tar")
    target = tmp_path / "archive.tar"
    oci.write_archive(target, name, [layer], CONFIG, "amd64")
    return target


def read(archive):
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_every_blob_is_named_by_its_digest_and_every_reference_resolves(tmp_path):
    files = read(make(tmp_path))
    assert json.loads(files.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files.pop("index.json"))
    for name, content in files.items():
        assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
    (entry,) = index["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "x.test/hello:1"
    blob = lambda descriptor: files[f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"]  # noqa: E731
    manifest = json.loads(blob(entry))
    config = json.loads(blob(manifest["config"]))
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert config["config"]["Entrypoint"] == ["/hello"]
    assert config["config"]["User"] == "65532"
    for descriptor in (entry, manifest["config"], *manifest["layers"]):
        assert descriptor["size"] == len(blob(descriptor))


def test_an_image_with_several_names_is_there_once(tmp_path):
    layer = oci.write_layer([oci.Entry("hello", content=b"hello")], tmp_path / "layer.tar")
    oci.write_archive(tmp_path / "archive.tar", "x.test/a:1", [layer], CONFIG, "amd64", ["x.test/b:2"])
    entries = json.loads(read(tmp_path / "archive.tar")["index.json"])["manifests"]
    assert [entry["annotations"]["io.containerd.image.name"] for entry in entries] == ["x.test/a:1", "x.test/b:2"]
    assert len({entry["digest"] for entry in entries}) == 1


def test_the_same_input_gives_the_same_bytes_at_another_time_and_place(tmp_path):
    first = make(tmp_path / "a")
    time.sleep(0.01)
    second = make(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != make(tmp_path / "c", content=b"other").read_bytes()


def test_layers_have_directories_before_files_and_no_times_or_owners(tmp_path):
    layer = oci.write_layer([oci.Entry("a/b/c", content=b"x")], tmp_path / "layer.tar")
    with tarfile.open(layer.path) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["a", "a/b", "a/b/c"]
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}


def foreign_tar(path):
    def add(tar, name, kind=tarfile.REGTYPE, content=b"", link=""):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size, info.mtime, info.uid = kind, link, len(content), 12345, 7
        tar.addfile(info, io.BytesIO(content))

    with tarfile.open(path, "w") as tar:
        add(tar, "./", tarfile.DIRTYPE)
        add(tar, "./usr/", tarfile.DIRTYPE)
        add(tar, "./usr/bin/", tarfile.DIRTYPE)
        add(tar, "./usr/bin/z", content=b"z")
        add(tar, "./usr/bin/a", tarfile.LNKTYPE, link="./usr/bin/z")
        add(tar, "./usr/bin/gone", tarfile.LNKTYPE, link="./usr/share/doc/x")
        add(tar, "./usr/share/doc/x", content=b"doc")
        add(tar, "./dev/null", tarfile.CHRTYPE)
        add(tar, "./etc/passwd", content=b"theirs")


def test_a_foreign_tar_is_filtered_sorted_and_its_hard_links_follow_their_targets(tmp_path):
    foreign_tar(tmp_path / "in.tar")
    extra = [oci.Entry("etc/passwd", content=b"ours")]
    layer = oci.rewrite_layer(tmp_path / "in.tar", tmp_path / "out.tar", rootfs.is_wanted, extra)
    with tarfile.open(layer.path) as tar:
        assert tar.getnames() == ["usr", "usr/bin", "usr/bin/z", "usr/bin/a", "etc/passwd"]
        assert tar.extractfile("usr/bin/a").read() == b"z"
        assert tar.extractfile("etc/passwd").read() == b"ours"
        assert {member.mtime for member in tar} == {0}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("usr/bin/python3.11", True),
        ("usr/lib/python3.11/json/decoder.py", True),
        ("usr/lib/python3.11/__pycache__/abc.cpython-311.pyc", True),
        ("usr/lib/x86_64-linux-gnu/libbpf.so.1.1.2", True),
        ("usr/share/doc/libbpf1/copyright", False),
        ("usr/share/doc", False),
        ("usr/lib/python3.11/test/support/__init__.py", False),
        ("usr/lib/x86_64-linux-gnu/gconv/UTF-16.so", False),
        ("var/lib/dpkg/status", False),
        ("usr/bin/dpkg", False),
        ("dev/null", False),
    ],
)
def test_what_no_container_uses_is_left_out(name, wanted):
    assert rootfs.is_wanted(name) is wanted


def test_the_base_is_keyed_by_its_packages_in_any_order():
    one = rootfs.Rootfs("x", ("a", "b"))
    assert one.key == rootfs.Rootfs("x", ("b", "a")).key
    assert one.key != rootfs.Rootfs("x", ("a", "b", "c")).key
    assert one.key != rootfs.Rootfs("x", ("a", "b"), python=True).key


def test_a_missing_tool_names_its_package(monkeypatch, deadline, lines):
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(errors.MachineUnfit) as caught:
        rootfs.ensure(rootfs.Rootfs("x", ("hello",)), deadline, lines.append)
    assert caught.value.remedy == "Run: apt-get install mmdebstrap"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A distribution with a small agent, and a base layer in place of Debian's."""
    tree = tmp_path / "tree"
    for name, content in {
        "agent/__init__.py": "",
        "agent/main.py": "print('agent')\n",
        "agent/notes.txt": "not part of the image",
        "agent/__pycache__/main.cpython-311.pyc": "stale",
        "agent/objects/pod.bpf.o": "object",
        "agent/objects/anetd-cni": "plugin",
        "agent/objects/.compiling-x": "half",
        "provisioner/objects/pause": "pause",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    base = oci.write_layer([oci.Entry("usr/bin/python3", 0o755, content=b"python")], tmp_path / "base.tar")
    monkeypatch.setattr(build, "_SOURCE_TREE", tree)
    monkeypatch.setattr(rootfs, "ensure", lambda *args: base)
    return tree


@pytest.fixture
def programs(tmp_path):
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("coredns", "agnhost"):
        (directory / name).write_text(name)
    return Binaries(directory, "test", "v1.34.4")


def names_in(image):
    """Names in all layers of an image."""
    files = read(image.archive)
    index = json.loads(files["index.json"])
    manifest = json.loads(files[f"blobs/sha256/{index['manifests'][0]['digest'].removeprefix('sha256:')}"])
    found = {}
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(files[f"blobs/sha256/{layer['digest'].removeprefix('sha256:')}"])) as tar:
            found |= {member.name: member.mode for member in tar}
    return found


def test_the_agent_image_has_the_package_its_objects_and_nothing_half_made(checkout, programs, deadline, lines):
    images = build.ensure_images(programs, deadline, lines.append)
    found = names_in(images.anetd)
    assert found["opt/anetd/agent/objects/anetd-cni"] == 0o755
    assert found["opt/anetd/agent/objects/pod.bpf.o"] == 0o644
    assert {"usr/bin/python3", "usr/bin/anetd", "opt/anetd/agent/main.py"} <= set(found)
    assert not [name for name in found if "notes" in name or "compiling" in name]
    assert names_in(images.pause)["pause"] == 0o755
    assert names_in(images.coredns)["coredns"] == 0o755


def test_unchanged_inputs_are_recognised_and_a_changed_agent_gets_another_name(checkout, programs, deadline, lines):
    first = build.ensure_images(programs, deadline, lines.append)
    written = len(lines)
    assert build.ensure_images(programs, deadline, lines.append) == first
    assert lines[written:] == []
    (checkout / "agent/main.py").write_text("print('changed')\n")
    second = build.ensure_images(programs, deadline, lines.append)
    assert second.anetd.name != first.anetd.name
    assert (second.pause, second.coredns) == (first.pause, first.coredns)


def test_a_damaged_archive_is_written_again(checkout, programs, deadline, lines):
    first = build.ensure_images(programs, deadline, lines.append)
    good = first.pause.archive.read_bytes()
    first.pause.archive.write_bytes(good[:-1024])
    assert not cache.is_intact(first.pause.archive.parent)
    second = build.ensure_images(programs, deadline, lines.append)
    assert second.pause == first.pause
    assert second.pause.archive.read_bytes() == good


def test_old_archives_of_an_image_are_pruned(checkout, programs, deadline, lines):
    for number in range(7):
        (checkout / "agent/main.py").write_text(f"print({number})\n")
        images = build.ensure_images(programs, deadline, lines.append)
    archives = [path for path in images.anetd.archive.parents[1].iterdir() if path.name.startswith("anetd-")]
    assert len(archives) == 4
    assert images.anetd.archive.exists()


def test_without_agnhost_the_toolbox_still_has_its_tools(checkout, programs, deadline, lines):
    programs.path("agnhost").unlink()
    assert "agnhost" not in names_in(build.ensure_toolbox(programs, deadline, lines.append))


def test_a_cluster_does_not_wait_for_the_toolbox(checkout, programs, deadline, lines, monkeypatch):
    asked = []
    base = rootfs.ensure(build.ANETD_ROOTFS, deadline, lines.append)
    monkeypatch.setattr(rootfs, "ensure", lambda wanted, *_: asked.append(wanted.name) or base)
    build.ensure_images(programs, deadline, lines.append)
    assert asked == ["anetd"]
    build.ensure_toolbox(programs, deadline, lines.append)
    assert asked == ["anetd", "toolbox"]


def test_a_missing_object_says_how_to_make_it(checkout, programs, deadline, lines):
    (checkout / "provisioner/objects/pause").unlink()
    with pytest.raises(errors.MachineUnfit) as caught:
        build.ensure_images(programs, deadline, lines.append)
    assert caught.value.remedy == "Run: python bpf/build.py"


def test_containerd_imports_an_archive_under_its_name(tmp_path):
    assert os.geteuid() == 0, "importing unpacks layers, which takes root: run the tests as root"
    archive = make(tmp_path)
    settings = tmp_path / "config.toml"
    socket = tmp_path / "socket"
    settings.write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{tmp_path}/state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{socket}"\n'
    )
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(["containerd", "--config", str(settings)], stdout=log, stderr=log)
    ctr = ["ctr", "-a", str(socket), "-n", "k8s.io", "images"]
    try:
        for _ in range(100):
            if socket.exists() and subprocess.run([*ctr, "ls"], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        done = subprocess.run([*ctr, "import", "--snapshotter", "native", str(archive)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        listed = subprocess.run([*ctr, "ls", "-q"], capture_output=True, text=True, check=True).stdout.split()
        assert listed == ["x.test/hello:1"]
        checked = subprocess.run([*ctr, "check", "--snapshotter", "native"], capture_output=True, text=True, check=True).stdout
        assert "complete" in checked
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=10)
