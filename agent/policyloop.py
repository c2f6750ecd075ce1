"""Keeps NetworkPolicy in force: a thread of its own, so that no policy waits for a round of Services.

It hears of Pods, Namespaces and NetworkPolicies from their watches and of this node's pods from CNI. A first change is taken up at once,
those that come while a round runs, or within a few milliseconds after it, together. Invariants: nothing is written before all three are
listed, so a restart leaves in force what was; a Pod that is deleted while its sandbox runs here keeps its policy until the sandbox is gone;
after whatever failure everything is compiled anew and compared with the kernel, until that succeeds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from agent.cni.policygate import PolicyGate, Taken
from agent.policy.inputs import Changes
from agent.policysync import PolicySynchronizer
from agent.reconcile.applier import ApplyError
from agent.watch import network_policies, policy_records
from agent.watch.policy_records import Logging, Namespace, NetworkPolicy, Pod
from agent.watch.records import Key
from agent.watch.reflector import Resource
from agent.watch.transport import Access
from agent.watch.watcher import Watcher

log = logging.getLogger(__name__)

PODS: Resource[Pod] = Resource("/api/v1/pods", policy_records.pod)
NAMESPACES: Resource[Namespace] = Resource("/api/v1/namespaces", policy_records.namespace)
POLICIES: Resource[NetworkPolicy] = Resource("/apis/networking.k8s.io/v1/networkpolicies", network_policies.network_policy)

_SETTLE_SECONDS = 0.003
_QUIET_SECONDS = 2.0
"""So long without a change, the compiler may put things away."""
_HOUSEKEEPING_SECONDS = 60.0
_RETRY_SECONDS = (0.5, 30.0)
"""Between attempts after a failure: the first wait, doubled up to the last."""


class PolicyLoop:
    """One node's NetworkPolicy. `on_first` is called once, when what the API says is in force for the first time."""

    def __init__(self, access: Access, on_first: Callable[[], None]) -> None:
        self.in_force = False
        """Whether all three were listed and what follows was written, at some time since the start."""
        self.beat = time.monotonic()
        """When the thread last came round; it does at least once a minute."""
        self._on_first = on_first
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._heard_lock = threading.Lock()
        self._heard: float | None = None
        self.pods: Watcher[Pod] = Watcher("pods", PODS, access, self._hear)
        self.namespaces: Watcher[Namespace] = Watcher("namespaces", NAMESPACES, access, self._hear)
        self.policies: Watcher[NetworkPolicy] = Watcher("networkpolicies", POLICIES, access, self._hear)
        self.gate = PolicyGate(self._hear, self._why)
        self._logging: Logging | None = Logging()
        self._logging_changed = False
        self._mine: dict[Key, Pod] = {}
        """Pods of this node's endpoints, as they were last known."""
        self._left_over: dict[Key, Pod | None] = {}
        """Those of them that the API has no more and that the compiler was shown all the same."""
        self._anew = True
        self.trouble = ""
        """Why the tables are not as they should be; "" while they are."""
        self._thread: threading.Thread | None = None

    @property
    def watchers(self) -> tuple[Watcher[Any], ...]:
        """Every watch."""
        return (self.pods, self.namespaces, self.policies)

    def start(self, tables: PolicySynchronizer) -> None:
        """Begin to keep `tables`."""
        self._thread = threading.Thread(target=self._run, args=(tables,), name="policy", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the round that runs."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def await_logging(self) -> None:
        """Begin with nothing before `set_logging` was called: the rows say what is logged, and would be written twice."""
        self._logging = None

    def set_logging(self, wanted: Logging) -> None:
        """What of verdicts is logged as of now. May be called from any thread."""
        self._logging = wanted
        self._logging_changed = True
        self._hear()

    def _hear(self) -> None:
        with self._heard_lock:
            if self._heard is None:
                self._heard = time.monotonic()
        self._wake.set()

    def _run(self, tables: PolicySynchronizer) -> None:
        retry, housekeeping, quiet = _RETRY_SECONDS[0], time.monotonic() + _HOUSEKEEPING_SECONDS, False
        while not self._stop.is_set():
            self.beat = time.monotonic()
            self._wake.clear()
            if self._logging is not None and all(watcher.synced for watcher in self.watchers):
                if self._round(tables, quiet):
                    retry = _RETRY_SECONDS[0]
                else:
                    self._stop.wait(_RETRY_SECONDS[0])
                    self._wake.wait(retry)  # what changes meanwhile may be what helps
                    retry = min(retry * 2, _RETRY_SECONDS[1])
                    continue
            if time.monotonic() >= housekeeping:
                housekeeping = time.monotonic() + _HOUSEKEEPING_SECONDS
                _keep_house(tables)
            self._stop.wait(_SETTLE_SECONDS)
            pause = max(0.0, housekeeping - time.monotonic())
            quiet = not self._wake.wait(min(pause, _QUIET_SECONDS) if tables.unsettled else pause)

    def _round(self, tables: PolicySynchronizer, quiet: bool) -> bool:
        with self._heard_lock:
            heard, self._heard = self._heard, None
        # Who is let through by this round must have been heard of before the Pods are taken.
        taken = self.gate.take(self.pods.get)
        try:
            if self._anew:
                tables.begin(self._everything())
                self._anew = False
                if self._left_over:
                    self._wake.set()
            elif changes := self._changes(taken):
                tables.apply(changes)
            elif quiet:
                tables.tidy()
        except (ApplyError, OSError) as error:
            self._failed(str(error))
            return False
        except Exception as error:
            log.exception("a round of policies failed for a reason that nobody foresaw")
            self._failed(repr(error))
            return False
        self.gate.applied(taken)
        tables.metrics.in_step(time.monotonic() - heard if heard is not None and self.in_force else None)
        if self.trouble:
            log.info("the policy tables are as they should be again")
            self.trouble = ""
        if not self.in_force:
            self.in_force = True
            self._on_first()
        return True

    def _failed(self, why: str) -> None:
        # The tables may hold half of a round: only a comparison with all that is wanted puts that right.
        self._anew = True
        if why != self.trouble:
            log.error("the policy tables cannot be brought up to date; trying again", extra={"error": why})
        self.trouble = why

    def _everything(self) -> Changes:
        """What there is, for a compiler that knows nothing."""
        for watcher in self.watchers:
            watcher.take()  # before the snapshots, so what changes in between is taken twice rather than never
        self._logging_changed = False
        pods = self.pods.snapshot()
        self.gate.identify(pods)
        here = self.gate.endpoints()
        self._remember(here)
        # The compiler lets a pod keep its policy whose object goes, but has to have seen it.
        gone = {key: pod for key, pod in self._mine.items() if key not in pods}
        self._left_over = dict.fromkeys(gone)
        namespaces = {key.name: each for key, each in self.namespaces.snapshot().items()}
        return Changes(pods | gone, namespaces, self.policies.snapshot(), here, self._logging)

    def _changes(self, taken: Taken) -> Changes | None:
        """What changed; None for nothing."""
        left_over, self._left_over = self._left_over, {}
        pods = left_over | self.pods.take()
        namespaces = {key.name: each for key, each in self.namespaces.take().items()}
        policies = self.policies.take()
        logged, self._logging_changed = self._logging_changed, False
        if not (pods or namespaces or policies or taken.endpoints or logged):
            return None
        self._remember(self.gate.endpoints())
        return Changes(pods, namespaces, policies, taken.endpoints, self._logging if logged else None)

    def _remember(self, here: Iterable[Key]) -> None:
        known = {key: self.pods.get(key) or self._mine.get(key) for key in here}
        self._mine = {key: pod for key, pod in known.items() if pod is not None}

    def _why(self, pod: Key, uid: str) -> str:
        """What a pod that waits for its network is waiting for, in words."""
        missing = [watcher.name for watcher in self.watchers if not watcher.synced]
        if missing:
            return f"anetd has not heard yet from the API server which {' and '.join(missing)} there are"
        found = self.pods.get(pod)
        if found is None or (uid and found.uid != uid):
            away = "" if self.pods.connected else ", and does not answer at the moment"
            return f"the API server has not told anetd of {'this pod' if found is None else 'this pod, only of an earlier one'} yet{away}"
        return self.trouble or "its rules are being written"


def _keep_house(tables: PolicySynchronizer) -> None:
    try:
        tables.keep_house()
    except OSError as error:
        log.warning("counters of rules that are gone could not be deleted; tried again in a minute", extra={"error": str(error)})
