"""What a person sees of long work that another tool does."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provisioner import process
from provisioner.binaries import build


def test_a_line_that_counts_on_is_repeated_every_ten_seconds_at_most() -> None:
    stream, now = io.StringIO(), 0.0
    say = process.Speaker(stream, lambda: now)
    for second in range(25):
        now = float(second)
        say(f"downloading x: {second} of 24 MiB")
    say("building x")
    assert stream.getvalue().splitlines() == [
        "downloading x: 0 of 24 MiB",
        "downloading x: 10 of 24 MiB",
        "downloading x: 20 of 24 MiB",
        "building x",
    ]


def test_a_long_tool_is_heard_of_and_a_short_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(process, "_BEAT_SECONDS", 0.1)
    beats: list[float] = []
    process.run_logged(["true"], log=tmp_path / "log", doing="nothing", deadline=process.Unlimited(), beat=beats.append)
    assert beats == []
    process.run_logged(["sleep", "0.5"], log=tmp_path / "log", doing="sleeping", deadline=process.Unlimited(), beat=beats.append)
    assert len(beats) >= 2
    assert beats == sorted(beats)
    assert 0.1 <= beats[0] < 0.5


@pytest.mark.parametrize(("seconds", "text"), [(9.6, "10 s"), (60, "1 min 0 s"), (200.2, "3 min 20 s")])
def test_how_long_something_takes_is_said_in_minutes_and_seconds(seconds: float, text: str) -> None:
    assert process.duration(seconds) == text


def test_a_build_says_what_it_has_done_since_it_began(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"$ go build earlier\nruntime\n")
    before = log.stat().st_size
    assert build._done_so_far(log, before) == ""
    with log.open("ab") as stream:
        stream.write(b"$ go build\ngo: downloading a v1\ngo: downloading b v1\n")
        stream.flush()
        assert build._done_so_far(log, before) == ", 2 modules fetched"
        stream.write(b"internal/abi\nk8s.io/api\nk8s.io/half")
    assert build._done_so_far(log, before) == ", 3 packages compiled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_terminated_command_takes_its_tool_with_it(tmp_path: Path, number: signal.Signals) -> None:
    script = """
import signal, sys
from pathlib import Path
from provisioner import process
signal.signal(signal.SIGINT, signal.default_int_handler)
def work():
    process.run_logged(["sh", "-c", "echo $$; exec sleep 60"], log=Path(sys.argv[1]), doing="x", deadline=process.Unlimited())
    return 0
sys.exit(process.run_command(work))
"""
    log = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", script, str(log)], stderr=subprocess.PIPE, text=True) as command:
        until = time.monotonic() + 20
        while (not log.exists() or len(log.read_text().splitlines()) < 2) and time.monotonic() < until:
            time.sleep(0.02)
        tool = Path("/proc", log.read_text().splitlines()[1])
        assert tool.exists()
        command.send_signal(number)
        _, said = command.communicate(timeout=20)
    assert command.returncode == 130
    assert said == "interrupted; run again, it continues\n"
    assert not tool.exists()
