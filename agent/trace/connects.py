"""Connections as processes ask for them: how long they took, why they failed, and whom they reached. Pure.

What was asked for is what connect(2) was given; whom it leads to stands in the socket afterwards, for the programs on the cgroup put a
Service's backend there before the kernel looks. A TCP connection is over its beginning when the socket leaves SYN_SENT, which for a socket
that does not block is long after the system call. One that is not asked for by connect(2) (io_uring, the kernel itself) is seen by
its socket's states alone.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from string import Template

from agent.datapath.abi import IPAddress, unpack_address
from agent.trace import namespaces
from agent.trace.filters import Filter, Scope, conditions
from agent.trace.formats import Format

ENTER, EXIT, STATE = "syscalls:sys_enter_connect", "syscalls:sys_exit_connect", "sock:inet_sock_set_state"
FUNCTIONS = {ENTER: "on_enter", EXIT: "on_exit", STATE: "on_state"}

_EVENT = struct.Struct("=QQIIiHHBB2x16s16s16s2s2s2s2x16s")

MEMBERS = (
    *namespaces.MEMBERS,
    "task_struct.files",
    "files_struct.fdt",
    "fdtable.fd",
    "file.private_data",
    "socket.state",
    "socket.sk",
    "sock.sk_protocol",
    "sock.sk_err",
    "sock.__sk_common.skc_family",
    "sock.__sk_common.skc_daddr",
    "sock.__sk_common.skc_rcv_saddr",
    "sock.__sk_common.skc_dport",
    "sock.__sk_common.skc_v6_daddr",
    "sock.__sk_common.skc_v6_rcv_saddr",
    "inet_sock.inet_sport",
)
"""What of the kernel's structures the probes read."""

# States of sockets: <net/tcp_states.h>; of struct socket: <linux/net.h>.
_TEXT = Template(
    namespaces.TEXT
    + """
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_CLOSE 7
#define SS_UNCONNECTED 1

enum outcome { SUCCEEDED, FAILED, ABANDONED };

struct event {
	u64 time, latency;
	u32 netns, process;
	s32 error;
	u16 family, protocol;
	u8 outcome, is_asked, padding[2];
	u32 asked[4], destination[4], source[4];
	u16 asked_port, destination_port, source_port, padding2;
	char command[16];
};

struct attempt {
	u64 time, sk;
	u32 netns, process;
	u32 asked[4];
	u16 asked_port;
	u16 protocol;
	u8 is_asked, began, closed, padding;
	char command[16];
};

BPF_HASH(lost, u64, u64, 1);
BPF_TABLE("lru_hash", u64, struct attempt, calls, 16384);
BPF_TABLE("lru_hash", u64, struct attempt, attempts, 16384);

static inline void map_address(u32 *to, u32 ipv4)
{
	to[0] = to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = ipv4;
}

static inline void tell(struct attempt *attempt, u64 sk, s32 error, u8 outcome)
{
	u32 source[4] = {}, destination[4] = {}, asked[4];
	u16 ports[3] = {}, family = 0;

	READ(family, sk, $sock___sk_common_skc_family);
	READ(ports[1], sk, $sock___sk_common_skc_dport);
	READ(ports[2], sk, $inet_sock_inet_sport);
	if (family == 2) {
		u32 ipv4 = 0;

		READ(ipv4, sk, $sock___sk_common_skc_rcv_saddr);
		map_address(source, ipv4);
		READ(ipv4, sk, $sock___sk_common_skc_daddr);
		map_address(destination, ipv4);
	} else {
		READ(source, sk, $sock___sk_common_skc_v6_rcv_saddr);
		READ(destination, sk, $sock___sk_common_skc_v6_daddr);
	}
	ports[0] = attempt->asked_port;
	__builtin_memcpy(asked, attempt->asked, sizeof(asked));

	u32 netns = attempt->netns;
	u16 protocol = attempt->protocol;
	$filter
	struct event *event = events.ringbuf_reserve(sizeof(*event));

	if (!event) {
		u64 zero = 0;

		lost.increment(zero);
		return;
	}
	event->time = bpf_ktime_get_ns();
	event->latency = event->time - attempt->time;
	event->netns = netns;
	event->process = attempt->process;
	event->error = error;
	event->family = family;
	event->protocol = protocol;
	event->outcome = outcome;
	event->is_asked = attempt->is_asked;
	event->padding[0] = event->padding[1] = 0;
	__builtin_memcpy(event->asked, asked, sizeof(asked));
	__builtin_memcpy(event->destination, destination, sizeof(destination));
	__builtin_memcpy(event->source, source, sizeof(source));
	event->asked_port = ports[0];
	event->destination_port = ports[1];
	event->source_port = ports[2];
	event->padding2 = 0;
	__builtin_memcpy(event->command, attempt->command, sizeof(attempt->command));
	events.ringbuf_submit(event, 0);
}

int on_state(void *ctx)
{
	u64 sk = FIELD(u64, $f_skaddr), id = bpf_get_current_pid_tgid();
	u32 before = FIELD(u32, $f_oldstate), after = FIELD(u32, $f_newstate);

	if (FIELD(u16, $f_protocol) != 6)
		return 0;
	if (after == TCP_SYN_SENT) {
		struct attempt attempt = {}, *call = calls.lookup(&id);

		if (call) {
			__builtin_memcpy(&attempt, call, sizeof(attempt));
			call->began = 1;
			call->sk = sk;
		} else {
			attempt.time = bpf_ktime_get_ns();
			attempt.netns = of_socket(sk);
			if (is_foreign(attempt.netns))
				return 0;
			attempt.process = id >> 32;
			bpf_get_current_comm(attempt.command, sizeof(attempt.command));
		}
		attempt.protocol = 6;
		attempts.update(&sk, &attempt);
		return 0;
	}
	if (before != TCP_SYN_SENT)
		return 0;

	struct attempt *found = attempts.lookup(&sk);

	if (!found)
		return 0;

	struct attempt attempt = {};

	__builtin_memcpy(&attempt, found, sizeof(attempt));
	if (after == TCP_ESTABLISHED) {
		tell(&attempt, sk, 0, SUCCEEDED);
	} else {
		s32 error = 0;

		READ(error, sk, $sock_sk_err);
		if (!error) {
			struct attempt *call = calls.lookup(&id);

			if (call && call->sk == sk) {
				/* The system call fails with a reason that only its return tells. */
				call->closed = 1;
				return 0;
			}
		}
		tell(&attempt, sk, error, error ? FAILED : ABANDONED);
	}
	attempts.delete(&sk);
	return 0;
}
$calls
"""
)

_CALLS = Template(
    """
int on_enter(void *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), task = bpf_get_current_task(), to = FIELD(u64, $f_uservaddr), fd = FIELD(u64, $f_fd);
	u64 files = 0, table = 0, file = 0, socket = 0;
	u32 state = 0;
	struct attempt call = {};
	u16 family = 0;

	bpf_probe_read_user(&family, sizeof(family), (void *)to);
	if (family != 2 && family != 10)
		return 0;
	call.netns = of_process();
	if (is_foreign(call.netns))
		return 0;
	READ(files, task, $task_struct_files);
	READ(table, files, $files_struct_fdt);
	READ(table, table, $fdtable_fd);
	READ(file, table, (fd & 0xffffffff) * 8);
	READ(socket, file, $file_private_data);
	READ(state, socket, $socket_state);
	if (state != SS_UNCONNECTED)
		return 0; /* asks again how a connection is getting on */
	READ(call.sk, socket, $socket_sk);
	READ(call.protocol, call.sk, $sock_sk_protocol);
	bpf_probe_read_user(&call.asked_port, 2, (void *)(to + 2));
	if (family == 2) {
		u32 ipv4 = 0;

		bpf_probe_read_user(&ipv4, 4, (void *)(to + 4));
		map_address(call.asked, ipv4);
	} else {
		bpf_probe_read_user(call.asked, 16, (void *)(to + 8));
	}
	call.time = bpf_ktime_get_ns();
	call.process = id >> 32;
	call.is_asked = 1;
	bpf_get_current_comm(call.command, sizeof(call.command));
	calls.update(&id, &call);
	return 0;
}

int on_exit(void *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	s64 result = FIELD(s64, $f_ret);
	struct attempt *found = calls.lookup(&id), call = {};

	if (!found)
		return 0;
	__builtin_memcpy(&call, found, sizeof(call));
	calls.delete(&id);
	if (call.began) {
		if (call.closed) {
			attempts.delete(&call.sk);
			tell(&call, call.sk, -result, FAILED);
		}
		return 0;
	}
	if (result == 0 && call.protocol != 6)
		tell(&call, call.sk, 0, SUCCEEDED);
	else if (result < 0 && !($later))
		tell(&call, call.sk, -result, FAILED);
	return 0;
}
"""
)
# What connect(2) answers where nothing was decided, or no socket was named. 512 and above are the kernel's own: it will try again.
_UNDECIDED = (errno.EINPROGRESS, errno.EALREADY, errno.EISCONN, errno.EINTR, errno.ENOTSOCK, errno.EBADF, errno.EFAULT)


def text(wanted: Filter, scope: Scope, formats: Mapping[str, Format], offsets: Mapping[str, int]) -> str:
    """The probes in C. `formats`: those of the tracepoints that there are; without those of system calls only sockets' states are seen.

    Raises `ValueError` where a tracepoint lacks what the probes cannot do without.
    """
    names = {path.replace(".", "_"): offsets[path] for path in MEMBERS}
    state = _offsets(formats[STATE], ("skaddr", "oldstate", "newstate", "protocol"))
    calls = ""
    if ENTER in formats and EXIT in formats:
        fields = _offsets(formats[ENTER], ("fd", "uservaddr")) | _offsets(formats[EXIT], ("ret",))
        later = " || ".join(["result <= -512", *(f"result == -{number}" for number in _UNDECIDED)])
        calls = _CALLS.substitute(names, **fields, later=later)
    wanted_ = conditions(
        wanted,
        scope,
        addresses=("source", "destination", "asked"),
        ports=("ports[0]", "ports[1]", "ports[2]"),
        protocol="protocol",
        place=f"netns == {scope.netns}U" if scope.netns else "0",
    )
    condition = " && ".join(f"({each})" for each in wanted_)
    return _TEXT.substitute(
        names,
        **state,
        calls=calls,
        filter=f"if (!({condition}))\n\t\treturn;" if condition else "",
    )


def _offsets(format_: Format, fields: tuple[str, ...]) -> dict[str, int]:
    if missing := set(fields) - set(format_.fields):
        raise ValueError(f"this kernel's {format_.name} does not tell {', '.join(sorted(missing))}")
    return {f"f_{name}": format_.fields[name].offset for name in fields}


class Outcome(IntEnum):
    """`ABANDONED`: the socket was closed, or its process ended, before there was an answer."""

    SUCCEEDED = 0
    FAILED = 1
    ABANDONED = 2


@dataclass(frozen=True, slots=True)
class Connect:
    """One connection. `time` is CLOCK_MONOTONIC in ns, `latency` in ns; `process` and `command` are of who asked, the process's number as
    the machine counts, not its container.

    asked        address and port that connect(2) was given; None where it was not asked.
    destination  those that the socket has; None where it got none.
    error        an errno, 0 for none.
    """

    time: int
    latency: int
    netns: int
    process: int
    command: str
    protocol: int
    outcome: Outcome
    error: int
    asked: tuple[IPAddress, int] | None
    destination: tuple[IPAddress, int] | None
    source: tuple[IPAddress, int]

    @property
    def error_name(self) -> str:
        """Like ECONNREFUSED; "" for none."""
        return errno.errorcode.get(self.error, str(self.error)) if self.error else ""

    @property
    def error_text(self) -> str:
        return os.strerror(self.error) if self.error else ""


def decode(data: bytes) -> Connect:
    """Of what the probes sent."""
    (
        time, latency, netns, process, error, _, protocol, outcome, is_asked,
        asked, destination, source, asked_port, destination_port, source_port, command,
    ) = _EVENT.unpack_from(data)  # fmt: skip
    to = (unpack_address(destination), int.from_bytes(destination_port, "big"))
    return Connect(
        time,
        latency,
        netns,
        process,
        command.partition(b"\0")[0].decode("utf-8", "replace"),
        protocol,
        Outcome(outcome),
        error,
        (unpack_address(asked), int.from_bytes(asked_port, "big")) if is_asked else None,
        to if to[1] and not to[0].is_unspecified else None,
        (unpack_address(source), int.from_bytes(source_port, "big")),
    )
