"""The text that member-init works off, and the file systems, programs and files that go into it."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from provisioner.providers.local import controlplane, node, rootfs
from provisioner.providers.local.cgroups import Hierarchy
from provisioner.providers.local.layout import Addresses
from provisioner.providers.local.programs import Bind, Description, Directory, Mount, Program, Symlink

ADDRESSES = Addresses.of(IPv4Network("172.30.0.0/24"), dual_stack=False)
MACHINE = node.Machine(snapshotter="overlayfs", may_lower_oom_score=False, containerd="/usr/bin/containerd")


def describe(*programs: Program) -> str:
    items = (Directory("/tmp", 0o1777), Bind("/usr", "/usr"), Symlink("usr/bin", "/bin"), Mount("proc", "/proc"))
    return Description("n", Path("/r"), (Path("/cg/a"),), items, programs).render()


def test_every_line_has_the_fields_that_member_init_expects() -> None:
    program = Program("etcd", ("/bin/etcd", "--a=b c"), {"HOME": "/root"}, ("10.0.0.1", 2379))
    assert describe(program).splitlines() == [
        "hostname\tn",
        "cgroup\t/cg/a",
        "leaf\t/cg/a/init",
        "root\t/r",
        "dir\t/tmp\t1777",
        "bind\t/usr\t/usr\tro",
        "symlink\tusr/bin\t/bin",
        "mount\tproc\t/proc\tnosuid,nodev,noexec",
        "program\tetcd",
        "log\t/var/log/etcd.log",
        "env\tPATH=/opt/provisioner/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "env\tHOME=/root",
        "arg\t/bin/etcd",
        "arg\t--a=b c",
        "await\t10.0.0.1\t2379",
    ]


@pytest.mark.parametrize("bad", ["a\tb", "a\nprogram\tevil"])
def test_a_value_cannot_become_another_field_or_line(bad: str) -> None:
    with pytest.raises(ValueError, match="tab or newline"):
        describe(Program("etcd", (bad,)))


def flags(name: str, service_cidrs: tuple[str, ...] = ("10.96.0.0/16",)) -> list[str]:
    found = controlplane.programs(ADDRESSES, ("10.244.0.0/16",), service_cidrs)
    return list(next(program.argv for program in found if program.name == name))


def test_etcd_listens_on_the_loopback_alone_and_asks_for_certificates() -> None:
    argv = flags("etcd")
    assert all("127.0.0.1" in word for word in argv if "-urls=" in word)
    assert "--client-cert-auth=true" in argv
    assert "--peer-client-cert-auth=true" in argv


def test_the_api_server_authorizes_nodes_and_verifies_kubelets() -> None:
    argv = flags("kube-apiserver")
    assert "--authorization-mode=Node,RBAC" in argv
    assert "--enable-admission-plugins=NodeRestriction" in argv
    assert any(word.startswith("--kubelet-certificate-authority=") for word in argv)
    assert "--kubelet-preferred-address-types=InternalIP" in argv


@pytest.mark.parametrize("name", ["kube-controller-manager", "kube-scheduler"])
def test_one_of_a_kind_needs_no_election(name: str) -> None:
    assert "--leader-elect=false" in flags(name)
    assert "--bind-address=127.0.0.1" in flags(name)


def test_dual_stack_gives_each_family_its_mask() -> None:
    argv = controlplane.controller_manager_flags(("10.244.0.0/16", "fd00:10:244::/56"), ("10.96.0.0/16", "fd00:10:96::/112"))
    assert argv["cluster-cidr"] == "10.244.0.0/16,fd00:10:244::/56"
    assert argv["node-cidr-mask-size-ipv4"] == "24"
    assert argv["node-cidr-mask-size-ipv6"] == "64"
    assert "node-cidr-mask-size" not in argv


def test_kubelet_takes_no_anonymous_request_and_keeps_its_images() -> None:
    config = node.kubelet_config(["10.96.0.10"], may_lower_oom_score=False)
    assert config["authentication"]["anonymous"] == {"enabled": False}
    assert config["authorization"] == {"mode": "Webhook"}
    assert config["readOnlyPort"] == 0
    assert config["imageGCHighThresholdPercent"] == 100
    assert config["cgroupDriver"] == "cgroupfs"
    assert yaml.safe_load(yaml.safe_dump(dict(config))) == config


def test_kubelet_announces_its_addresses_and_labels() -> None:
    kubelet = node.programs("demo-0", ["172.30.0.10", "fd30::a"], ADDRESSES, MACHINE, {"team": "a"})[1]
    assert "--node-ip=172.30.0.10,fd30::a" in kubelet.argv
    assert "--node-labels=team=a" in kubelet.argv
    assert kubelet.await_tcp == ("172.30.0.2", 6443)


@pytest.mark.parametrize(("may_lower", "restrict"), [(True, "false"), (False, "true")])
def test_runc_may_not_lower_the_oom_score_where_the_capability_is_missing(may_lower: bool, restrict: str) -> None:
    machine = node.Machine("native", may_lower, "/usr/bin/containerd")
    text = node.containerd_config(machine, "provisioner.local/pause:1")
    assert f"restrict_oom_score_adj = {restrict}" in text
    assert 'snapshotter = "native"' in text
    assert 'sandbox_image = "provisioner.local/pause:1"' in text


@pytest.mark.parametrize(("mask", "expected"), [("000001ffffffffff", True), ("000001fffeffffff", False)])
def test_the_capability_is_read_from_the_processs_status(mask: str, expected: bool) -> None:
    assert node.has_sys_resource(f"Name:\tx\nCapEff:\t{mask}\n") is expected


HYBRID = (Hierarchy(Path("/sys/fs/cgroup/cpu"), 1, ("cpu",)), Hierarchy(Path("/sys/fs/cgroup/systemd"), 1, ("name=systemd",)),
          Hierarchy(Path("/sys/fs/cgroup/unified"), 2))  # fmt: skip


def cgroup_mounts(hierarchies: tuple[Hierarchy, ...]) -> dict[str, Mount]:
    items = rootfs.file_systems(Path("/r"), Path("/b"), hierarchies, {}, node=True)
    return {item.path: item for item in items if isinstance(item, Mount) and item.path.startswith("/sys/fs/cgroup")}


def test_a_member_sees_the_hosts_layout_of_control_groups() -> None:
    mounts = cgroup_mounts(HYBRID)
    assert mounts["/sys/fs/cgroup"].kind == "tmpfs"
    assert mounts["/sys/fs/cgroup/cpu"].options.endswith(",cpu")
    assert mounts["/sys/fs/cgroup/systemd"].options.endswith(",none,name=systemd")
    assert mounts["/sys/fs/cgroup/unified"].kind == "cgroup2"


def test_with_v2_alone_there_is_one_mount_and_no_tmpfs() -> None:
    mounts = cgroup_mounts((Hierarchy(Path("/sys/fs/cgroup"), 2),))
    assert [(mount.path, mount.kind) for mount in mounts.values()] == [("/sys/fs/cgroup", "cgroup2")]


def test_the_hosts_programs_are_read_only_and_nothing_of_var_or_run_is_the_hosts() -> None:
    binds = [item for item in rootfs.file_systems(Path("/r"), Path("/b"), HYBRID, {}, node=True) if isinstance(item, Bind)]
    sources = {item.source for item in binds}
    assert all(item.read_only for item in binds if not item.path.startswith("/dev/"))
    assert not any(source.startswith(("/var", "/run", "/etc/kubernetes", "/root", "/home")) for source in sources)


def test_kubelet_is_shown_the_settings_that_it_wants(tmp_path: Path) -> None:
    rootfs.write_files(tmp_path, "demo-0", {"172.30.0.10": "demo-0"}, "nameserver 192.0.2.1\n")
    items = rootfs.file_systems(tmp_path, Path("/b"), HYBRID, {}, node=True)
    shown = {item.path: Path(item.source).read_text() for item in items if isinstance(item, Bind) and item.path.startswith("/proc/sys/")}
    assert shown["/proc/sys/vm/overcommit_memory"] == "1\n"
    assert shown["/proc/sys/kernel/panic"] == "10\n"


def test_hosts_and_resolvers_are_written_for_the_member(tmp_path: Path) -> None:
    rootfs.write_files(tmp_path, "demo-0", {"172.30.0.2": "control-plane"}, "nameserver 192.0.2.1\n")
    assert "172.30.0.2\tcontrol-plane" in (tmp_path / "etc/hosts").read_text()
    assert (tmp_path / "etc/resolv.conf").read_text() == "nameserver 192.0.2.1\n"
    assert (tmp_path / "etc/hostname").read_text() == "demo-0\n"
