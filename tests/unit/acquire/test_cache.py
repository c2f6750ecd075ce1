"""Entries of the cache are complete or not there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from provisioner import cache, errors


def fill(entry, content=b"content"):
    with cache.filling(entry) as partial:
        (partial / "file").write_bytes(content)


def test_a_filled_entry_is_intact_and_leaves_nothing_beside_it(own_cache):
    entry = cache.root() / "things" / "one"
    fill(entry)
    assert cache.is_intact(entry)
    assert (entry / "file").read_bytes() == b"content"
    assert [path.name for path in entry.parent.iterdir()] == ["one"]


def test_an_interrupted_fill_leaves_no_entry(own_cache):
    entry = cache.root() / "things" / "one"
    with pytest.raises(KeyboardInterrupt), cache.filling(entry) as partial:
        (partial / "file").write_bytes(b"half")
        raise KeyboardInterrupt
    assert not cache.is_intact(entry)
    assert list(entry.parent.iterdir()) == []


def test_what_a_killed_command_left_is_removed_by_the_next(own_cache):
    entry = cache.root() / "things" / "one"
    leftover = entry.parent / ".partial-dead"
    leftover.mkdir(parents=True)
    (leftover / "file").write_bytes(b"half")
    fill(entry)
    assert not leftover.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "file").unlink(),
        lambda entry: (entry / "file").write_bytes(b"changed"),
        lambda entry: (entry / "file").write_bytes(b"much longer than before"),
        lambda entry: (entry / cache.SEAL).unlink(),
        lambda entry: (entry / cache.SEAL).write_text("{"),
        lambda entry: (entry / cache.SEAL).write_text('{"files": {"file": 3}}'),
    ],
    ids=["file gone", "same size", "other size", "no seal", "torn seal", "strange seal"],
)
def test_a_damaged_entry_is_not_intact_and_can_be_filled_again(own_cache, damage):
    entry = cache.root() / "things" / "one"
    fill(entry)
    os.utime(entry / "file", ns=(1, 1))  # so that even a quick change has another time
    assert cache.is_intact(entry)
    damage(entry)
    assert not cache.is_intact(entry)
    fill(entry, b"again")
    assert cache.is_intact(entry)
    assert (entry / "file").read_bytes() == b"again"


def test_a_copied_cache_stays_valid(own_cache, tmp_path):
    entry = cache.root() / "things" / "one"
    fill(entry)
    os.utime(entry / "file", ns=(5, 5))
    assert cache.is_intact(entry)


HOLDER = """
import sys
from provisioner import cache
from provisioner.process import Unlimited
with cache.lock("things", Unlimited(), print):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_is_waited_for_within_the_deadline_and_ends_with_its_holder(own_cache, deadline, lines):
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            deadline.over = True
            with pytest.raises(errors.Timeout), cache.lock("things", deadline, lines.append):
                pass
            assert lines == ["waiting for another command that prepares the things"]
        finally:
            holder.kill()
    deadline.over = False
    with cache.lock("things", deadline, lines.append):
        pass


def test_too_little_space_names_the_place_and_the_way_out(own_cache):
    with pytest.raises(errors.MachineUnfit) as caught:
        cache.require_space(cache.root(), 1 << 60, "building")
    assert str(cache.root()) in caught.value.message
    assert "XDG_CACHE_HOME" in caught.value.remedy


def test_pruning_keeps_the_newest(own_cache):
    for number in range(5):
        entry = cache.root() / "things" / f"a-{number}"
        fill(entry)
        os.utime(entry, (number, number))
    fill(cache.root() / "things" / "b-0")
    cache.prune(cache.root() / "things", "a-*", 2)
    assert sorted(path.name for path in (cache.root() / "things").iterdir()) == ["a-3", "a-4", "b-0"]


def test_a_relative_cache_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.root() == tmp_path / ".cache" / "provisioner"
