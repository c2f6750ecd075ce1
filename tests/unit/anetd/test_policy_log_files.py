"""The log's files: whole lines, rotation, what a reader sees of it, and which records a reader wants."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.policylog import tail as tails
from agent.policylog.tail import Filter, Tail, follow
from agent.policylog.writer import ACTIVE, OLD_FILES, Writer, old_files


def numbered(first: int, count: int, size: int = 100) -> list[bytes]:
    return [f"{number:0{size - 1}d}\n".encode() for number in range(first, first + count)]


class Clock:
    """Local time that moves by a millisecond a look, and a monotonic one that a test moves."""

    def __init__(self, moment: datetime = datetime(2026, 1, 2, 3, 4, 5)) -> None:  # noqa: DTZ001 -- local time
        self.moment, self.seconds = moment, 0.0

    def local(self) -> datetime:
        self.moment += timedelta(milliseconds=1)
        return self.moment

    def monotonic(self) -> float:
        return self.seconds


def writer(directory: Path, max_bytes: int = 1000, clock: Clock | None = None) -> Writer:
    clock = clock or Clock()
    return Writer(directory, max_bytes=max_bytes, local=clock.local, monotonic=clock.monotonic)


def content(directory: Path) -> list[bytes]:
    return b"".join(path.read_bytes() for path in [*old_files(directory), directory / ACTIVE]).splitlines(keepends=True)


def test_lines_are_appended_to_what_is_there_and_only_root_may_read_them(tmp_path: Path) -> None:
    directory = tmp_path / "network"
    for first in (0, 3):
        one = writer(directory)
        assert one.write(numbered(first, 3)) == (3, "")
        one.close()
    assert content(directory) == numbered(0, 6)
    assert stat.S_IMODE((directory / ACTIVE).stat().st_mode) == 0o600


def test_a_file_that_is_full_is_put_away_under_its_time_and_five_are_kept(tmp_path: Path) -> None:
    one = writer(tmp_path)
    for first in range(0, 95, 5):
        assert one.write(numbered(first, 5)) == (5, "")
    old = old_files(tmp_path)
    assert len(old) == OLD_FILES
    assert [path.stat().st_size for path in old] == [1000] * 5
    assert [path.name for path in old] == [f"policy_action-2026-01-02T03-04-05.{number:03d}.log" for number in range(5, 10)]
    assert content(tmp_path) == numbered(40, 55)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ACTIVE, *(path.name for path in old)])


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(1, 400), max_size=8), max_size=25))
def test_no_file_is_larger_than_it_may_be_and_no_line_is_cut_or_lost(batches: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.policylog.writer.OLD_FILES", 1000)
        directory = Path(os.path.realpath(os.environ.get("TMPDIR", "/tmp"))) / f"log-{os.getpid()}-{threading.get_ident()}"
        try:
            one, wanted = writer(directory, 500), []
            for batch in batches:
                lines = [b"x" * (size - 1) + b"\n" for size in batch]
                assert one.write(lines) == (len(lines), "")
                wanted += lines
            one.close()
            if wanted:
                assert content(directory) == wanted
                assert all(path.stat().st_size <= 500 for path in directory.iterdir())
                reader = Tail(directory)
                assert [line + b"\n" for line in reader.read()] == wanted
                reader.close()
        finally:
            for path in directory.iterdir() if directory.exists() else ():
                path.unlink()
            if directory.exists():
                directory.rmdir()


def test_a_line_larger_than_a_file_has_a_file_for_itself(tmp_path: Path) -> None:
    one = writer(tmp_path, 50)
    assert one.write([b"a\n", b"b" * 80 + b"\n", b"c\n"]) == (3, "")
    assert content(tmp_path) == [b"a\n", b"b" * 80 + b"\n", b"c\n"]
    assert len(old_files(tmp_path)) == 2


def test_names_that_are_taken_and_files_of_others_are_left_alone(tmp_path: Path) -> None:
    strangers = [tmp_path / name for name in ("policy_action-2026-01-02T03-04-05.001.log", "policy_action-old.log", "other.log")]
    for path in strangers:
        path.write_text("theirs\n")
    os.utime(strangers[0], ns=(1, 1))
    one = writer(tmp_path)
    one.write(numbered(0, 15))
    assert strangers[0].read_text() == "theirs\n"
    assert [path.name for path in old_files(tmp_path)][-1] == "policy_action-2026-01-02T03-04-05.002.log"
    one.write(numbered(15, 100))
    assert not strangers[0].exists()  # it has one of the log's names, and is the oldest
    assert all(path.exists() for path in strangers[1:])


def test_the_order_of_old_files_is_that_of_time_also_where_the_hour_comes_twice(tmp_path: Path) -> None:
    clock = Clock(datetime(2026, 10, 25, 2, 59, 59))  # noqa: DTZ001
    one = writer(tmp_path, 200, clock)
    one.write(numbered(0, 4))
    clock.moment -= timedelta(hours=1)
    for first in (4, 8):
        os.utime(tmp_path / ACTIVE)
        one.write(numbered(first, 4))
    assert content(tmp_path) == numbered(0, 12)


def test_a_file_that_somebody_moves_or_removes_is_begun_anew(tmp_path: Path) -> None:
    one = writer(tmp_path, 10_000)
    one.write(numbered(0, 1))
    (tmp_path / ACTIVE).rename(tmp_path / "taken.log")
    one.write(numbered(1, 1))
    (tmp_path / ACTIVE).unlink()
    one.write(numbered(2, 1))
    assert content(tmp_path) == numbered(2, 1)
    assert (tmp_path / "taken.log").read_bytes() == numbered(0, 1)[0]


def test_half_a_line_that_a_crash_left_is_ended_before_the_next(tmp_path: Path) -> None:
    (tmp_path / ACTIVE).write_bytes(b"whole\nhal")
    one = writer(tmp_path)
    one.write([b"next\n"])
    assert (tmp_path / ACTIVE).read_bytes() == b"whole\nhal\nnext\n"


def test_what_cannot_be_written_is_given_back_with_the_reason_and_tried_again(tmp_path: Path) -> None:
    blocked, clock = tmp_path / "network", Clock()
    blocked.write_text("no directory")
    one = writer(blocked, clock=clock)
    assert one.write(numbered(0, 3)) == (0, "write_error")
    assert str(blocked) in one.trouble
    blocked.unlink()
    assert one.write(numbered(0, 3)) == (0, "write_error")  # not a try for every batch
    clock.seconds = 1.5
    assert one.write(numbered(3, 3)) == (3, "")
    assert one.trouble == ""
    assert content(blocked) == numbered(3, 3)


def test_a_link_that_somebody_laid_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / ACTIVE).symlink_to(target)
    assert writer(tmp_path).write(numbered(0, 1)) == (0, "write_error")
    assert target.read_text() == ""


# ---- readers ----
def test_a_reader_goes_from_the_oldest_file_to_the_last_line_and_then_on(tmp_path: Path) -> None:
    one, reader = writer(tmp_path), Tail(tmp_path)
    assert list(reader.read()) == []
    one.write(numbered(0, 25))
    assert [line + b"\n" for line in reader.read()] == numbered(0, 25)
    assert list(reader.read()) == []
    one.write(numbered(25, 1))
    assert [line + b"\n" for line in reader.read()] == numbered(25, 1)
    one.write(numbered(26, 30))  # three files go by
    assert [line + b"\n" for line in reader.read()] == numbered(26, 30)


def test_half_a_line_is_not_read_and_one_that_is_taken_back_was_never_there(tmp_path: Path) -> None:
    path, reader = tmp_path / ACTIVE, Tail(tmp_path)
    path.write_bytes(b"one\ntw")
    assert list(reader.read()) == [b"one"]
    path.write_bytes(b"one\n")
    assert list(reader.read()) == []
    path.write_bytes(b"one\nthree\n")
    assert list(reader.read()) == [b"three"]


def test_lines_longer_than_a_piece_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "_PIECE", 16)
    (tmp_path / ACTIVE).write_bytes(b"short\nalso short\nsecond one\n")
    assert list(Tail(tmp_path).read()) == [b"short", b"also short", b"second one"]


def test_a_reader_under_whom_files_are_put_away_misses_no_line(tmp_path: Path) -> None:
    total, seen, done = 20_000, [0], threading.Event()

    def write() -> None:
        one = Writer(tmp_path, max_bytes=40_000)
        for first in range(0, total, 20):
            while first - seen[0] > 1200:  # one that is five files behind would have lost some
                time.sleep(0.001)
            one.write(numbered(first, 20))
        done.set()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    found: list[int] = []
    reader = Tail(tmp_path)
    end = time.monotonic() + 60
    while len(found) < total and time.monotonic() < end:
        last = done.is_set()
        for line in reader.read():
            found.append(int(line))
            seen[0] = found[-1]
        if last:
            break
    assert found == list(range(total))
    assert len(old_files(tmp_path)) == OLD_FILES


def record(**fields: object) -> bytes:
    document = {
        "disposition": "allow",
        "src": {"pod_name": "client", "pod_namespace": "shop"},
        "dest": {"pod_name": "server", "pod_namespace": "store"},
        "timestamp": "2026-01-02T03:04:05.5Z",
    }
    return json.dumps(document | fields).encode()


@pytest.mark.parametrize(
    ("wanted", "is_wanted"),
    [
        (Filter(), True),
        (Filter(namespace="shop"), True),
        (Filter(namespace="store"), True),
        (Filter(namespace="other"), False),
        (Filter(pod="server"), True),
        (Filter(pod="serve"), False),
        (Filter(namespace="shop", pod="client"), True),
        (Filter(namespace="shop", pod="server"), False),
        (Filter(disposition="deny"), False),
        (Filter(disposition="allow", namespace="store"), True),
        (Filter(since="2026-01-02T03:04:05Z"), True),
        (Filter(since="2026-01-02T03:04:05.5Z"), True),
        (Filter(since="2026-01-02T03:04:05.50000001Z"), False),
        (Filter(since="2026-01-02T03:04:06Z"), False),
    ],
)
def test_a_filter_is_about_either_end_and_all_of_its_parts(wanted: Filter, is_wanted: bool) -> None:
    assert wanted.wants(record()) is is_wanted


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"3", b"{}", b'{"src": 1, "dest": 2}'])
def test_what_is_no_record_is_not_wanted(line: bytes) -> None:
    assert not Filter(pod="x").wants(line)


def test_following_ends_after_the_last_line_when_told(tmp_path: Path) -> None:
    one = writer(tmp_path)
    one.write([record() + b"\n", record(disposition="deny") + b"\n"])
    waits: list[float] = []

    def ended(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 1:
            one.write([record(disposition="deny", count=7) + b"\n"])
        return len(waits) == 2

    found = [json.loads(line) for line in follow(Tail(tmp_path), Filter(disposition="deny").wants, ended)]
    assert [each.get("count") for each in found] == [None, 7]


# ---- the command ----
def policy_log(directory: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "agent.main", "policy-log", "--directory", str(directory), *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_command_prints_what_is_wanted_and_ends(tmp_path: Path) -> None:
    lines = [record(), record(disposition="deny"), b"no record"]
    (tmp_path / ACTIVE).write_bytes(b"".join(line + b"\n" for line in lines))
    out, errors = policy_log(tmp_path, "--disposition", "deny", "--since", "2026-01-02T03:04:05Z").communicate(timeout=60)
    assert (out, errors) == (lines[1] + b"\n", b"")
    out, errors = policy_log(tmp_path / "missing").communicate(timeout=60)
    assert (out, errors) == (b"", b"")


def test_the_command_follows_until_its_input_ends(tmp_path: Path) -> None:
    process = policy_log(tmp_path, "--follow", "--until-stdin-ends")
    assert process.stdin is not None
    assert process.stdout is not None
    one = writer(tmp_path, 400)
    for number in range(5):  # files are put away meanwhile
        one.write([record(count=number) + b"\n"])
        assert json.loads(process.stdout.readline())["count"] == number
    process.stdin.close()
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_the_command_ends_quietly_when_nobody_reads(tmp_path: Path) -> None:
    one = writer(tmp_path, 10_000)
    one.write([record() + b"\n"])
    process = policy_log(tmp_path, "--follow")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        one.write([record() + b"\n"])
        time.sleep(0.05)
    assert process.returncode == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
