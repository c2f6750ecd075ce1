"""What is written down of a cluster, locks, files, DNS packets, and what the host's rules say."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import struct
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from provisioner import errors
from provisioner.providers.base import ClusterState
from provisioner.providers.local import dns, files, locks, networks, preflight, records
from provisioner.providers.local.layout import Addresses, Layout
from provisioner.spec import ClusterSpec

SPEC = ClusterSpec.make("demo", num_nodes=2)
RECORD = records.Record(SPEC, IPv4Network("172.30.3.0/24"), "2026-01-01T00:00:00Z", complete=True)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout("demo", tmp_path / "state", tmp_path / "run")


def test_a_record_comes_back_as_it_was_written(layout: Layout) -> None:
    records.write(layout, RECORD)
    assert records.read(layout) == RECORD
    assert layout.state_file.stat().st_mode & 0o777 == 0o600
    assert layout.state_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"spec": 1, "subnet": 2}'])
def test_a_record_that_cannot_be_understood_is_none(layout: Layout, text: str) -> None:
    files.private_directory(layout.state_dir)
    layout.state_file.write_text(text)
    assert records.read(layout) is None


def observed(members: int, record: records.Record | None = RECORD) -> records.Observed:
    return records.Observed(record, {str(number): 1 for number in range(members)}, (), (), ())


def test_the_state_is_what_is_found() -> None:
    assert observed(3).state is ClusterState.RUNNING
    assert observed(2).state is ClusterState.DEGRADED
    assert observed(0).state is ClusterState.STOPPED
    assert dataclasses.replace(observed(3), broken=("demo-0/kubelet",)).state is ClusterState.DEGRADED
    assert observed(3, None).state is ClusterState.INCOMPLETE


def test_stopped_clusters_keep_their_subnets(layout: Layout) -> None:
    records.write(layout, RECORD)
    other = Layout("other", layout.state_root, layout.run_root)
    assert records.reserved_networks(other) == [IPv4Network("172.30.3.0/24")]
    assert records.reserved_networks(layout) == []


def test_a_second_command_on_a_cluster_is_told_who_holds_it(layout: Layout) -> None:
    first, second = locks.FileLock(layout.lock_file), locks.FileLock(layout.lock_file)
    locks.acquire_cluster(first, "demo")
    with pytest.raises(errors.Conflict, match=str(os.getpid())):
        locks.acquire_cluster(second, "demo")
    first.release(remove=True)
    locks.acquire_cluster(second, "demo")
    assert layout.lock_file.exists()
    second.release(remove=True)
    assert not layout.lock_file.exists()


def test_what_the_holder_removed_is_no_lock(layout: Layout) -> None:
    first, second = locks.FileLock(layout.lock_file), locks.FileLock(layout.lock_file)
    assert first.try_acquire()
    layout.lock_file.unlink()
    assert second.try_acquire()  # a new file: the old one is nobody's path any more
    first.release()
    second.release(remove=True)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cluster.json"
    files.write_atomically(path, "old")

    def interrupted(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    files.write_atomically(path, "new")
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["cluster.json"]


def test_a_full_file_system_is_said_to_be_one() -> None:
    with pytest.raises(errors.MachineUnfit, match="no space is left at /run/x"), files.explained("Start the nodes"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/x")


def test_last_lines_of_a_long_log_are_its_last(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert files.last_lines(log, 2) == ["line 99998", "line 99999"]
    assert files.last_lines(tmp_path / "none") == []


def test_masquerading_leaves_the_nodes_own_network_alone() -> None:
    rules = networks.masquerade_rules(Layout("demo"), Addresses.of(IPv4Network("172.30.3.0/24"), dual_stack=False))
    assert f"table inet {Layout('demo').nft_table}" in rules
    assert 'ip saddr 172.30.3.0/24 ip daddr != 172.30.3.0/24 oifname != "pv-' in rules


def test_a_question_is_a_well_formed_packet() -> None:
    packet = dns.question("kubernetes.default", 7)
    assert packet[:12] == struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0)
    assert packet[12:] == b"\x0akubernetes\x07default\0" + struct.pack("!2H", 1, 1)


@pytest.mark.parametrize(
    ("identifier", "flags", "answers", "expected"),
    [(7, 0x8180, 1, True), (8, 0x8180, 1, False), (7, 0x8183, 0, False), (7, 0x0100, 1, False), (7, 0x8180, 0, False)],
    ids=["answer", "anothers", "no-such-name", "a-question", "empty"],
)
def test_only_an_answer_to_the_question_counts(identifier: int, flags: int, answers: int, expected: bool) -> None:
    assert dns.is_answer(struct.pack("!6H", identifier, flags, 1, answers, 0, 0), 7) is expected


def test_a_cut_off_packet_is_no_answer() -> None:
    assert not dns.is_answer(b"\0\7\x81", 7)


def test_a_missing_feature_is_named_with_the_version_that_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = preflight.Feature("tcx or clsact attach points", "6.6 (tcx) or 4.5 (clsact)", "CONFIG_NET_XGRESS", lambda: False)
    monkeypatch.setattr(preflight, "features", lambda *, vxlan: [missing])
    monkeypatch.setattr(preflight, "check_root", lambda: None)
    monkeypatch.setattr(preflight, "_check_tools", lambda: None)
    with pytest.raises(errors.MachineUnfit, match=r"clsact.*since 6\.6") as failure:
        preflight.check(2, vxlan=False, state_root=tmp_path, run_root=tmp_path)
    assert "CONFIG_NET_XGRESS" in failure.value.remedy


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_tool", lambda name: None if name == "runc" else f"/usr/bin/{name}")
    monkeypatch.setattr(preflight, "check_root", lambda: None)
    with pytest.raises(errors.MachineUnfit) as failure:
        preflight.check(2, vxlan=False, state_root=Path("/"), run_root=Path("/"))
    assert failure.value.remedy == "Run: apt-get install runc"


def test_too_little_space_says_where_and_how_much(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = type("Usage", (), {"free": 5 << 20})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(preflight, "check_root", lambda: None)
    monkeypatch.setattr(preflight, "_check_tools", lambda: None)
    monkeypatch.setattr(preflight, "features", lambda *, vxlan: [])
    with pytest.raises(errors.MachineUnfit, match=rf"{tmp_path} has 5 MiB free"):
        preflight.check(2, vxlan=False, state_root=tmp_path, run_root=tmp_path)


def test_too_few_inotify_instances_are_told_with_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "limit").write_text("128\n")
    monkeypatch.setattr(preflight, "_INOTIFY_LIMIT", tmp_path / "limit")
    monkeypatch.setattr(preflight, "_inotify_instances", lambda: 100)
    monkeypatch.setattr(preflight, "check_root", lambda: None)
    monkeypatch.setattr(preflight, "_check_tools", lambda: None)
    monkeypatch.setattr(preflight, "features", lambda *, vxlan: [])
    with pytest.raises(errors.MachineUnfit, match="100 of 128 inotify") as failure:
        preflight.check(2, vxlan=False, state_root=Path("/"), run_root=Path("/"))
    assert "fs.inotify.max_user_instances=" in failure.value.remedy


def test_a_running_cluster_asks_for_no_space_or_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("check_root", "_check_tools"):
        monkeypatch.setattr(preflight, name, lambda: None)
    for name in ("_check_space", "_check_memory", "_check_inotify"):
        monkeypatch.setattr(preflight, name, lambda *_: pytest.fail("a running cluster was asked for more"))
    monkeypatch.setattr(preflight, "features", lambda *, vxlan: [])
    preflight.check(0, vxlan=False, state_root=Path("/"), run_root=Path("/"))


def test_someone_who_is_not_root_is_told_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(errors.PermissionMissing) as failure:
        preflight.check(2, vxlan=False, state_root=Path("/"), run_root=Path("/"))
    assert "sudo" in failure.value.remedy


def test_a_listing_that_changes_underneath_is_asked_for_again() -> None:
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

    answers = iter([NetlinkDumpInterrupted(), NetlinkDumpInterrupted(), ["eth0"]])

    def dump() -> list[str]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert networks._whole(dump) == ["eth0"]
