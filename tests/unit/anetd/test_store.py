"""The store keeps what it was told over every kind of death."""

from __future__ import annotations

import errno
import json
import os
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cni import store as module
from agent.cni.protocol import Attachment
from agent.cni.store import Record, State, Store


def record(name: str, state: State = State.INTENT, number: int = 1) -> Record:
    return Record(
        Attachment(name, "eth0"), state, (ip_address(f"10.0.0.{number}"),), f"/run/netns/{name}", (4, 4026531840 + number), 1450, number
    )


def test_what_was_put_is_there_after_a_kill(tmp_path: Path) -> None:
    first = Store(tmp_path / "s")
    first.put(record("a"))
    first.put(record("a").ready())
    first.put(record("b", number=2))
    first.remove(Attachment("b", "eth0"))
    second = Store(tmp_path / "s")  # the first was never closed
    assert second.all() == [record("a").ready()]
    assert list(second.released()) == [ip_address("10.0.0.2")]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 2000))
def test_a_file_cut_short_anywhere_loses_the_last_words_alone(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    store = Store(path)
    for number in range(2, 7):
        store.put(record(f"c{number}", number=number))
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    whole = content.count(b"\n") + (1 if content and not content.endswith(b"\n") and _is_json(content.rsplit(b"\n", 1)[-1]) else 0)
    survivors = Store(path)
    assert [each.id for each in survivors.all()] == list(range(2, 2 + whole))
    survivors.put(record("after", number=9))
    assert [each.id for each in Store(path).all()] == [*range(2, 2 + whole), 9]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_a_full_disk_fails_the_intent_and_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "s")
    store.put(record("a"))
    real = os.write

    def full(fd: int, data: bytes) -> int:
        real(fd, bytes(data)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "write", full)
        with pytest.raises(OSError, match="No space"):
            store.put(record("b", number=2))
        assert store.get(Attachment("b", "eth0")) is None
        assert store.remove(Attachment("a", "eth0")) is not None  # pods can go all the same
    store.put(record("c", number=3))
    assert [each.id for each in Store(tmp_path / "s").all()] == [1, 3]  # `a` is found to be gone by its namespace


def test_a_removal_may_be_repeated(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    assert store.remove(Attachment("a", "eth0")) is None


def test_the_file_stays_small_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REWRITE_AFTER", 20)
    store = Store(tmp_path / "d" / "s")
    for number in range(200):
        store.put(record(f"c{number}", number=1))
        store.remove(Attachment(f"c{number}", "eth0"))
    assert len((tmp_path / "d" / "s").read_bytes().splitlines()) <= 22
    assert (tmp_path / "d" / "s").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["s"]


def test_lines_of_nonsense_are_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.put(record("a"))
    with (tmp_path / "s").open("ab") as file:
        file.write(b'{"container": 1}\n[]\n\xff\xfe\n"x"\nnull\n')
    store = Store(tmp_path / "s")
    assert store.all() == [record("a")]
