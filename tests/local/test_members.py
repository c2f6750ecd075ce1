"""Members on the running kernel: what they see, how they live, and that nothing of them stays."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from provisioner import errors
from provisioner.process import Unlimited
from provisioner.providers.local import cgroups, init, member, networks
from provisioner.providers.local.locks import FileLock
from provisioner.providers.local.remove import plan_delete, plan_stop

from .conftest import Rig, eventually, mounts, shell

FOREVER = "exec sleep 1000"


def test_a_member_has_namespaces_of_its_own_and_is_found_again(rig: Rig) -> None:
    pid = rig.start(0, shell("idle", FOREVER))
    own = {name: (Path(f"/proc/{pid}/ns") / name).readlink() for name in ("net", "mnt", "pid", "uts", "ipc", "cgroup")}
    hosts = {name: (Path("/proc/self/ns") / name).readlink() for name in own}
    assert not set(own.values()) & set(hosts.values())
    assert member.find(rig.layout, rig.layout.node(0)) == pid
    assert rig.inside(pid, "hostname").strip() == rig.layout.node(0)
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir()) == ["0", "1", "2"]


def test_a_member_sees_the_hosts_programs_and_nothing_else_of_it(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the host's")
    pid = rig.start(0, shell("idle", FOREVER))
    assert "absent" in rig.inside(pid, "sh", "-c", f"test -e {tmp_path}/secret || echo absent")
    assert "Read-only" in rig.inside(pid, "sh", "-c", "touch /usr/x 2>&1 || true")
    assert rig.inside(pid, "sh", "-c", "touch /etc/cni-config /var/lib/state /opt/tool && echo written") == "written\n"
    assert not Path("/etc/cni-config").exists()
    types = {line.split()[1]: line.split()[2] for line in rig.inside(pid, "cat", "/proc/mounts").splitlines()}
    assert types["/sys/fs/bpf"] == "bpf"
    assert types["/run"] == "tmpfs"
    assert types["/proc"] == "proc"
    assert rig.inside(pid, "cat", "/proc/sys/vm/overcommit_memory") == "1\n"


def test_its_cgroups_are_the_roots_that_it_sees(rig: Rig) -> None:
    pid = rig.start(0, shell("idle", FOREVER))
    for line in rig.inside(pid, "cat", "/proc/1/cgroup").splitlines():
        assert line.rpartition(":")[2] in ("/init", "/"), line
    rig.inside(pid, "sh", "-c", "for h in $(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs); do mkdir $(dirname $h)/pods; done")
    for hierarchy in rig.hierarchies:
        assert (hierarchy.mount / rig.layout.member_cgroup(rig.layout.node(0)) / "pods").is_dir()


def test_its_mounts_are_shared_inside_and_never_reach_the_host(rig: Rig) -> None:
    pid = rig.start(0, shell("idle", FOREVER))
    script = "mkdir -p /mnt/pvl-v && unshare -m --propagation unchanged mount -t tmpfs pvl-v /mnt/pvl-v && grep -c ' /mnt/pvl-v ' /proc/self/mountinfo"
    assert rig.inside(pid, "sh", "-c", script) == "1\n"
    assert mounts("pvl-", str(rig.layout.state_root)) == []


def test_members_reach_each_other_and_the_host_by_both_families(rig: Rig) -> None:
    first, _ = rig.start(0, shell("idle", FOREVER)), rig.start(1, shell("idle", FOREVER))
    targets = [*rig.addresses.bridge, *rig.addresses.node(1)]
    for target in targets:
        rig.inside(first, "ping", "-c", "1", "-W", "2", str(target))
    assert rig.inside(first, "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"


def test_a_program_that_ends_is_started_again_and_its_orphans_are_reaped(rig: Rig) -> None:
    pid = rig.start(0, shell("short", "sh -c 'sleep 0.05 & exit 0'; echo once; exit 3"))
    eventually(lambda: rig.log(0, "short").count("once") >= 3, "three starts")
    assert member.statuses(pid)["short"].restarts >= 2
    assert os.waitstatus_to_exitcode(member.statuses(pid)["short"].last_status) == 3
    assert "short ended with status 3" in rig.log(0, "member-init")
    eventually(lambda: " Z" not in rig.inside(pid, "ps", "-e", "-o", "pid=,stat="), "no zombie")


def test_a_program_that_keeps_dying_is_told_with_its_last_words(rig: Rig) -> None:
    pid = rig.start(0, shell("broken", "echo the port is taken; exit 1"))
    eventually(lambda: member.statuses(pid).get("broken", member.ProgramStatus("", 0, 0, 0)).restarts > 1, "two ends")
    with pytest.raises(errors.UpstreamFailure, match="the port is taken"):
        member.check_programs(rig.layout, rig.layout.node(0), pid, most_restarts=1)


def test_a_program_waits_for_what_it_needs(rig: Rig) -> None:
    listener = shell("listener", "sleep 0.6; echo up; exec nc -lk 127.0.0.1 7000")
    if not Path("/usr/bin/nc").exists():
        code = "import socket,time;time.sleep(.6);s=socket.create_server(('127.0.0.1',7000));print('up',flush=True);time.sleep(1000)"
        listener = shell("listener", f'exec python3 -c "{code}"')
    rig.start(0, listener, shell("needy", f"date +%s.%N; {FOREVER}", await_tcp=("127.0.0.1", 7000)))
    time.sleep(0.3)
    assert rig.log(0, "needy") == ""
    eventually(lambda: rig.log(0, "needy") != "", "the second program's start")
    assert "up" in rig.log(0, "listener")


def test_sigterm_ends_programs_in_reverse_order_and_then_the_member(rig: Rig) -> None:
    script = "trap 'date +%s.%N; exit 0' TERM; echo ready; while :; do sleep 0.02; done"
    pid = rig.start(0, shell("first", script), shell("second", script))
    eventually(lambda: "ready" in rig.log(0, "first") and "ready" in rig.log(0, "second"), "both ready")
    member.stop(pid, grace=5)
    ended = {name: float(rig.log(0, name).split()[-1]) for name in ("first", "second")}
    assert ended["second"] < ended["first"]
    assert member.find(rig.layout, rig.layout.node(0)) is None


def test_a_program_that_ignores_sigterm_does_not_keep_the_member(rig: Rig) -> None:
    pid = rig.start(0, shell("deaf", "trap '' TERM; echo ready; while :; do sleep 0.1; done"))
    eventually(lambda: "ready" in rig.log(0, "deaf"), "ready")
    start = time.monotonic()
    member.stop(pid, grace=0.3)
    assert time.monotonic() - start < 30  # of a program that would never end
    assert member.start_time(pid) is None


def test_whatever_is_in_a_member_goes_with_its_pid_1(rig: Rig) -> None:
    pid = rig.start(0, shell("idle", f"setsid unshare -n sh -c 'setsid {FOREVER.removeprefix('exec ')}' & {FOREVER}"))
    eventually(lambda: len(rig.inside(pid, "sh", "-c", "pgrep -x sleep || true").split()) == 2, "a grandchild in a namespace of its own")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not cgroups.processes(rig.hierarchies, rig.layout.cgroup), "no process")
    # A namespace's number is used again at once, so its end shows in what it held: the veth goes with its last reference.
    eventually(lambda: networks.links_of(rig.layout) == [rig.layout.bridge], "only the bridge")


def test_a_caller_that_dies_before_the_start_leaves_nothing(rig: Rig) -> None:
    def die(_pid: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        rig.start(0, shell("idle", FOREVER), configure=die)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    eventually(lambda: not cgroups.processes(rig.hierarchies, rig.layout.cgroup), "no process")
    assert member.find(rig.layout, rig.layout.node(0)) is None
    pid = rig.start(0, shell("idle", FOREVER))  # and the next one continues
    assert member.find(rig.layout, rig.layout.node(0)) == pid


def test_a_member_outlives_the_command_that_made_it(rig: Rig) -> None:
    child = os.fork()
    if child == 0:
        os.setsid()
        rig.start(0, shell("idle", FOREVER))
        os._exit(0)
    os.waitpid(child, 0)
    pid = member.find(rig.layout, rig.layout.node(0))
    assert pid is not None
    assert member.start_time(pid) is not None


def test_a_pid_file_of_another_boot_or_of_a_reused_pid_does_not_count(rig: Rig) -> None:
    name = rig.layout.node(0)
    pid = rig.start(0, shell("idle", FOREVER))
    path = rig.layout.pid_file(name)
    recorded = path.read_text()
    path.write_text(recorded.replace(member.boot_id(), "11111111-2222-3333-4444-555555555555"))
    assert member.find(rig.layout, name) is None
    path.write_text(recorded.replace(str(member.start_time(pid)), "1"))
    assert member.find(rig.layout, name) is None
    path.write_text(recorded[:10])
    assert member.find(rig.layout, name) is None
    path.write_text(recorded)
    assert member.find(rig.layout, name) == pid


def test_a_description_that_makes_no_sense_is_refused_with_its_line(rig: Rig) -> None:
    rig.layout.run_dir.mkdir(parents=True)
    with pytest.raises(errors.UpstreamFailure, match="line beginning with 'fly'"):
        member.start(rig.layout, "x", init.ensure(Unlimited()), "fly\tme\n", lambda pid: None, Unlimited())


def test_a_mount_that_fails_is_named(rig: Rig) -> None:
    rig.layout.run_dir.mkdir(parents=True)
    text = f"root\t{rig.layout.run_dir}\nmount\tnosuchfs\t/x\tnosuid\n"
    with pytest.raises(errors.UpstreamFailure, match="mount nosuchfs on /x: No such device"):
        member.start(rig.layout, "x", init.ensure(Unlimited()), text, lambda pid: None, Unlimited())


def test_members_that_nobody_wrote_down_are_found_by_their_cgroup_and_removed(rig: Rig) -> None:
    from provisioner.providers.local import records

    rig.start(0, shell("idle", FOREVER))
    rig.layout.pid_file(rig.layout.node(0)).unlink()
    observed = records.observe(rig.layout)
    assert observed.exists
    assert not observed.members
    for step in plan_delete(rig.layout, FileLock(rig.layout.lock_file), observed).steps:
        step.apply(Unlimited(), lambda message: None)
    assert not records.observe(rig.layout).exists
    assert not rig.layout.state_root.exists()
    assert not rig.layout.run_root.exists()


def test_a_stop_keeps_the_state_and_removes_the_rest(rig: Rig) -> None:
    from provisioner.providers.local import records

    rig.start(0, shell("idle", f"echo kept > /var/lib/data; {FOREVER}"))
    data = rig.layout.member_root(rig.layout.node(0)) / "var/lib/data"
    eventually(data.exists, "the member's file")
    for step in plan_stop(rig.layout, FileLock(rig.layout.lock_file), records.observe(rig.layout)).steps:
        step.apply(Unlimited(), lambda message: None)
    found = records.observe(rig.layout)
    assert (found.members, found.links, found.cgroups) == ({}, (), ())
    assert data.read_text() == "kept\n"
    assert not rig.layout.run_root.exists()


def test_a_lost_bridge_is_made_again_and_takes_its_members_back(rig: Rig) -> None:
    first, _ = rig.start(0, shell("idle", FOREVER)), rig.start(1, shell("idle", FOREVER))
    import subprocess

    subprocess.run(["ip", "link", "del", rig.layout.bridge], check=True)
    networks.ensure_bridge(rig.layout, rig.addresses)
    rig.inside(first, "ping", "-c", "1", "-W", "2", str(rig.addresses.node(1)[0]))
    rig.inside(first, "ping", "-c", "1", "-W", "2", str(rig.addresses.bridge[0]))
