"""Stop signals: a training finishes its step and exits with a code that says "resume me".

SIGTERM is what schedulers and `kill` send, SIGINT is Ctrl-C, and SIGUSR1 is SLURM's warning before a time limit
(`--signal=USR1@120`), which also reaches the augmentation workers, as Ctrl-C does. LSF sends SIGUSR2 at the time limit.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from types import FrameType, TracebackType
from typing import Any

RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h: a failure that goes away by trying again
SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
]  # Windows has no SIGUSR1 and SIGUSR2
ONE_REQUEST = 2.0  # seconds. One request may arrive several times: from the terminal, the scheduler, a dying parent
WORKERS_GRACE = 10.0  # seconds that augmentation workers outlive a SIGTERM, while the training finishes its step


class Stopped(SystemExit):
    """The training was asked to stop and can be resumed."""

    def __init__(self) -> None:
        super().__init__(RESUME_ME)


class StopSignals:
    """While it is entered, notes the first stop signal as `received`; a later one acts as if this were not here.

    Only the main thread can do that; in another one nothing is noted. Signals that are ignored stay ignored, as SIGINT
    is in a script's background jobs. On leaving, the handlers are those of before.
    """

    def __init__(self, at_once: Callable[[str], None] | None = None) -> None:
        """With `at_once`, call it with the signal's name when it arrives."""
        self.received: str | None = None
        self._at_once, self._since = at_once, 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        """Take over the signals."""
        self.received = None
        if threading.current_thread() is threading.main_thread():
            _Forks.watch()
            _Forks.guarded = True
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give them back."""
        _Forks.guarded = False
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = signal.Signals(number).name, time.monotonic()
            if self._at_once is not None:
                self._at_once(self.received)
        elif time.monotonic() - self._since > ONE_REQUEST:
            self._restore()
            signal.raise_signal(number)


class _Forks:
    """What becomes of processes that the training's main thread forks: the augmentation workers."""

    guarded = False
    by_main_thread = False
    is_worker = False

    @classmethod
    @cache
    def watch(cls) -> None:
        """Be called at every fork from now on."""
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=cls._before, after_in_child=cls._in_child)

    @classmethod
    def _before(cls) -> None:
        cls.by_main_thread = threading.current_thread() is threading.main_thread()

    @classmethod
    def _in_child(cls) -> None:
        """Signals for the whole group must not end a worker before the training has stopped; its death must."""
        if not (cls.guarded and cls.by_main_thread):
            return
        cls.guarded, cls.is_worker = False, True
        outlive_stop_signals()
        if _PRCTL is not None:
            _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL)


def outlive_stop_signals() -> None:
    """In an augmentation worker, let stop signals end it only some seconds after the training had time to stop.

    Called again by workers whose library has set handlers of its own. Does nothing in any other process.
    """
    if not _Forks.is_worker:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    # not ignored, because multiprocessing ends its processes with SIGTERM and then waits for them
    signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, WORKERS_GRACE))


_PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent dies
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
