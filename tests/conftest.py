"""For every suite. Hypothesis measures no time here: a busy machine is not a fault of the code under test.

Whoever runs the suite in the background may ignore signals (a shell's `&`, nohup), and what is ignored stays so in every program that is
started; what is handled does not. The programs under test are to hear what tests send them.
"""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)
