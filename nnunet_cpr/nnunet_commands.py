"""Where nnU-Net's commands are, and the processes that they leave."""

import ctypes
import os
import shutil
import signal
import sys
import time
from pathlib import Path

PATIENCE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def executable(name: str) -> str:
    """Return the command of this Python's environment, which need not be activated.

    Raises:
        ValueError: it is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ValueError(f"the command {name} is not installed beside {sys.executable}; reinstall nnunetv2")
    return found


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
