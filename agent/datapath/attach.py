"""Programs onto devices: pinned tcx links, or clsact filters where the kernel has no tcx.

A *slot* is a place that the agent serves ("device", "overlay", "pod-IFNAME"): one device, a program at its ingress, one at its egress.
Attaching is idempotent and swaps the program atomically, so a packet meets the old one or the new one, never none. A tcx link ends
with its device and leaves its pin, which `slots` clears away; a filter is gone with its device.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.datapath import netlink, syscalls
from agent.datapath.errors import DatapathError
from agent.datapath.syscalls import Attach

POD_PREFIX = "pod-"


@dataclass(frozen=True, slots=True)
class Pair:
    """File descriptors of the programs of one slot."""

    ingress: int
    egress: int


class Attacher(Protocol):
    """One way to attach. Errors are `DatapathError` and name the slot."""

    def attach(self, slot: str, ifname: str, ifindex: int, programs: Pair) -> None: ...

    def detach(self, slot: str, ifname: str) -> None:
        """No error if nothing is attached, or the device is gone."""

    def slots(self) -> frozenset[str]:
        """Slots with both programs on a device that exists."""

    def update(self, programs_of: Mapping[str, Pair]) -> None:
        """Swap what is attached: to `programs_of[slot]`, or `programs_of["pod-"]` for every pod."""


def _programs_for(slot: str, programs_of: Mapping[str, Pair]) -> Pair | None:
    return programs_of.get(POD_PREFIX if slot.startswith(POD_PREFIX) else slot)


class TcxAttacher:
    """Links pinned in one directory as SLOT-ingress and SLOT-egress."""

    _directions = (("egress", Attach.TCX_EGRESS), ("ingress", Attach.TCX_INGRESS))

    def __init__(self, pins: Path) -> None:
        self._pins = pins

    def attach(self, slot: str, ifname: str, ifindex: int, programs: Pair) -> None:
        for direction, attach in self._directions:
            try:
                self._ensure(self._pins / f"{slot}-{direction}", ifindex, attach, getattr(programs, direction))
            except OSError as error:
                raise DatapathError(f"{slot}: attaching to the {direction} of {ifname} (index {ifindex}) failed: {error}") from error

    def detach(self, slot: str, ifname: str) -> None:  # noqa: ARG002 - the pin is named after the slot
        # The pin holds the last reference: the kernel ends the link a little later, and nobody waits for that.
        for direction, _ in self._directions:
            (self._pins / f"{slot}-{direction}").unlink(missing_ok=True)

    def holds(self, slot: str, ifindex: int) -> bool:
        """Whether both links of the slot are on that device."""
        return all(self._ifindex_of(self._pins / f"{slot}-{direction}") == ifindex for direction, _ in self._directions)

    def slots(self) -> frozenset[str]:
        alive: dict[str, int] = {}
        for slot, pin, fd in self._links():
            if syscalls.tcx_link_info(fd).ifindex:
                alive[slot] = alive.get(slot, 0) + 1
            else:
                pin.unlink(missing_ok=True)
        return frozenset(slot for slot, links in alive.items() if links == len(self._directions))

    def update(self, programs_of: Mapping[str, Pair]) -> None:
        for slot, pin, fd in self._links():
            programs = _programs_for(slot, programs_of)
            if not syscalls.tcx_link_info(fd).ifindex or programs is None:
                pin.unlink(missing_ok=True)
                continue
            syscalls.link_update(fd, getattr(programs, pin.name.rpartition("-")[2]))

    def _links(self) -> Iterator[tuple[str, Path, int]]:
        for pin in sorted(self._pins.iterdir()):
            slot, _, direction = pin.name.rpartition("-")
            fd = syscalls.obj_get(pin) if direction in ("ingress", "egress") else None
            if fd is None:
                continue
            try:
                yield slot, pin, fd
            finally:
                os.close(fd)

    def _ensure(self, pin: Path, ifindex: int, attach: Attach, program: int) -> None:
        fd = syscalls.obj_get(pin)
        if fd is not None:
            try:
                if syscalls.tcx_link_info(fd).ifindex == ifindex:
                    syscalls.link_update(fd, program)
                    return
            finally:
                os.close(fd)
            pin.unlink(missing_ok=True)
        fd = _create_link(program, ifindex, attach)
        try:
            syscalls.obj_pin(fd, pin)
        finally:
            os.close(fd)

    @staticmethod
    def _ifindex_of(pin: Path) -> int:
        fd = syscalls.obj_get(pin)
        if fd is None:
            return 0
        try:
            return syscalls.tcx_link_info(fd).ifindex
        finally:
            os.close(fd)


def _create_link(program: int, ifindex: int, attach: Attach) -> int:
    for pause in _LINGERING:
        try:
            return syscalls.tcx_link_create(program, ifindex, attach)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            time.sleep(pause)  # a link of this program that was detached a moment ago has not ended yet
    return syscalls.tcx_link_create(program, ifindex, attach)


_LINGERING = (0.02, 0.04, 0.08, 0.16, 0.32)
_RTM_NEWQDISC = 36
_RTM_NEWTFILTER, _RTM_DELTFILTER, _RTM_GETTFILTER = 44, 45, 46
_CLSACT_HANDLE, _CLSACT_PARENT = 0xFFFF0000, 0xFFFFFFF1
_FILTER_PARENT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS = 6, 7, 8
_DIRECT_ACTION = 1
_PRIORITY, _HANDLE = 0xA7E, 1
_ETH_P_ALL = 3
_NAME_PREFIX = "anetd:"


def _tcmsg(ifindex: int, handle: int, parent: int, info: int) -> bytes:
    return struct.pack("=BxHiIII", socket.AF_UNSPEC, 0, ifindex, handle, parent, info)


_FILTER_INFO = _PRIORITY << 16 | socket.htons(_ETH_P_ALL)


class ClsactAttacher:
    """One filter a direction, found again by its name "anetd:SLOT"."""

    def __init__(self) -> None:
        self._netlink = netlink.Netlink()

    def attach(self, slot: str, ifname: str, ifindex: int, programs: Pair) -> None:
        try:
            self._ensure_qdisc(ifindex)
            for direction in ("egress", "ingress"):
                self._set_filter(slot, ifindex, direction, getattr(programs, direction))
        except OSError as error:
            raise DatapathError(f"{slot}: attaching to {ifname} (index {ifindex}) failed: {error}") from error

    def detach(self, slot: str, ifname: str) -> None:
        try:
            ifindex = socket.if_nametoindex(ifname)
        except OSError:
            return
        for direction, parent in _FILTER_PARENT.items():
            if self._slot_at(ifindex, direction) == slot:
                body = _tcmsg(ifindex, _HANDLE, parent, _FILTER_INFO) + netlink.text(_TCA_KIND, "bpf")
                self._netlink.request(_RTM_DELTFILTER, 0, body, f"removing the {direction} filter of {ifname}")

    def slots(self) -> frozenset[str]:
        return frozenset(slot for slot, _ in self._found())

    def update(self, programs_of: Mapping[str, Pair]) -> None:
        for slot, ifindex in self._found():
            programs = _programs_for(slot, programs_of)
            if programs is not None:
                for direction in ("egress", "ingress"):
                    self._set_filter(slot, ifindex, direction, getattr(programs, direction))

    def _found(self) -> Iterator[tuple[str, int]]:
        for ifindex, _ in socket.if_nameindex():
            slot = self._slot_at(ifindex, "ingress")
            if slot and slot == self._slot_at(ifindex, "egress"):
                yield slot, ifindex

    def _ensure_qdisc(self, ifindex: int) -> None:
        body = _tcmsg(ifindex, _CLSACT_HANDLE, _CLSACT_PARENT, 0) + netlink.text(_TCA_KIND, "clsact")
        try:
            self._netlink.request(_RTM_NEWQDISC, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body, "adding the clsact qdisc")
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise

    def _set_filter(self, slot: str, ifindex: int, direction: str, program: int) -> None:
        options = netlink.nested(
            _TCA_OPTIONS,
            netlink.u32(_TCA_BPF_FD, program),
            netlink.text(_TCA_BPF_NAME, _NAME_PREFIX + slot),
            netlink.u32(_TCA_BPF_FLAGS, _DIRECT_ACTION),
        )
        body = _tcmsg(ifindex, _HANDLE, _FILTER_PARENT[direction], _FILTER_INFO) + netlink.text(_TCA_KIND, "bpf") + options
        # Replacing an existing handle swaps the program under the running traffic.
        self._netlink.request(_RTM_NEWTFILTER, netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE, body, f"setting the {direction} filter")

    def _slot_at(self, ifindex: int, direction: str) -> str:
        body = _tcmsg(ifindex, 0, _FILTER_PARENT[direction], _FILTER_INFO)
        try:
            answers = self._netlink.dump(_RTM_GETTFILTER, body, "listing filters")
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EINVAL, errno.ENOENT):  # gone, or without a clsact qdisc
                return ""
            raise
        for answer in answers:
            options = netlink.attributes(netlink.attributes(answer[20:]).get(_TCA_OPTIONS, b""))
            name = options.get(_TCA_BPF_NAME, b"").rstrip(b"\0").decode()
            if name.startswith(_NAME_PREFIX):
                return name.removeprefix(_NAME_PREFIX)
        return ""


class SettlingAttacher:
    """Filters at first, links later.

    Attaching a link waits for an RCU grace period, some ten milliseconds under the kernel's routing lock, and a pod has two: while a
    kubelet waits for its CNI ADD, a filter of a tenth of a millisecond is better. Packets pass a link a little faster: `settle` moves
    programs there when nobody waits. For a moment both are attached; the link's program decides, and the filter's is not asked.
    """

    def __init__(self, links: TcxAttacher, filters: ClsactAttacher) -> None:
        self._links = links
        self._filters = filters

    def attach(self, slot: str, ifname: str, ifindex: int, programs: Pair) -> None:
        settled = self._links.holds(slot, ifindex)
        (self._links if settled else self._filters).attach(slot, ifname, ifindex, programs)

    def detach(self, slot: str, ifname: str) -> None:
        self._filters.detach(slot, ifname)
        self._links.detach(slot, ifname)

    def slots(self) -> frozenset[str]:
        return self._links.slots() | self._filters.slots()

    def update(self, programs_of: Mapping[str, Pair]) -> None:
        self._links.update(programs_of)
        self._filters.update(programs_of)

    def settle(self, programs_of: Mapping[str, Pair], at_most: int) -> int:
        """Move some slots from filters to links; how many."""
        moved = 0
        for slot in sorted(self._filters.slots())[:at_most]:
            ifname = slot.removeprefix(POD_PREFIX)
            programs = _programs_for(slot, programs_of)
            try:
                ifindex = socket.if_nametoindex(ifname)
            except OSError:
                continue  # the pod is gone
            if programs is not None:
                self._links.attach(slot, ifname, ifindex, programs)
                self._filters.detach(slot, ifname)
                moved += 1
        return moved
