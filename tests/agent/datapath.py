"""A stand-in for the kernel's tables and programs that outlives the process, as pins do: a pickle beside the test's other files."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.datapath.programs import DatapathConfig

TABLES = ("endpoints", "routes", "frontends", "backend_slots", "backends", "drops")


class Table:
    def __init__(self, rows: dict[Any, Any], save: Any) -> None:
        self._rows = rows
        self._save = save

    def get(self, key: Any) -> Any:
        return self._rows.get(key)

    def put(self, key: Any, value: Any) -> None:
        self._rows[key] = value
        self._save()

    def delete(self, key: Any) -> bool:
        found = self._rows.pop(key, None) is not None
        self._save()
        return found

    def items(self) -> Iterator[tuple[Any, Any]]:
        return iter(list(self._rows.items()))

    def put_many(self, rows: Mapping[Any, Any]) -> None:
        self._rows.update(rows)
        self._save()

    def delete_many(self, keys: Iterable[Any]) -> int:
        count = sum(self._rows.pop(key, None) is not None for key in keys)
        self._save()
        return count


class FakeDatapath:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.state: dict[str, Any] = pickle.loads(path.read_bytes()) if path.exists() else {"attached": {}} | {t: {} for t in TABLES}
        for name in TABLES:
            setattr(self, name, Table(self.state[name], self.save))

    @classmethod
    def open(cls, config: DatapathConfig, bpffs: Path, objects: Path) -> Any:
        found = cls(bpffs / "fake.pickle")
        found.state["config"] = config
        found.save()
        return found

    def save(self) -> None:
        with self._lock:
            new = self._path.with_suffix(".new")
            new.write_bytes(pickle.dumps(self.state))
            new.replace(self._path)

    def attach_device(self) -> None:
        self.state["device"] = True
        self.save()

    def attach_overlay(self) -> None:
        self.state["overlay"] = True
        self.save()

    def attach_pod(self, ifname: str, ifindex: int) -> None:
        self.state["attached"][ifname] = ifindex
        self.save()

    def detach_pod(self, ifname: str) -> None:
        self.state["attached"].pop(ifname, None)
        self.save()

    def attached(self) -> frozenset[str]:
        return frozenset(self.state["attached"])

    def remove_endpoint_state(self, address: Any) -> None:
        self.endpoints.delete(address)  # type: ignore[attr-defined]

    def collect_garbage(self) -> int:
        return 0

    def close(self) -> None:
        pass
