"""The processes that nnU-Net's commands start: ended with us, and none left behind."""

import ctypes
import os
import signal
import sys
import time

PATIENCE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def stop_group(group: int) -> None:
    """Stop every process of a process group: ask, then insist."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + PATIENCE_SECONDS
        try:
            os.killpg(group, how)
            while time.monotonic() < until:
                time.sleep(0.05)
                os.killpg(group, 0)
        except ProcessLookupError:
            return


def stop_with_parent() -> None:
    """Called in a new process, ask Linux to send it SIGTERM when its parent dies, however that dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
