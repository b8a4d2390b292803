"""How a job hands stop signals on to the command of nnU-Net that it runs: once, and with patience that ends."""

import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from nnunet_cpr.nnunet.processes import stop_group, stop_with_parent
from nnunet_cpr.training.stopping import RESUME_ME

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""From SLURM or LSF before the time is up, and from LSF when it is; they kill by themselves later."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, *WARNINGS)
STOP_SECONDS = 180
"""How long a training may take to save when asked to stop; then it is killed."""


class StopRelay:
    """Collects stop signals while the block runs and hands the first of them to the training."""

    def __init__(self) -> None:
        self.starting = False
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False
        self.received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRelay":
        """Begin to collect them."""
        self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._kill)
        return self

    def __exit__(self, *_: object) -> None:
        """Go back to what was done with them before."""
        signal.alarm(0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.received.append(number)
        if self._process is not None:
            self._ask()
        elif not self.starting:  # nothing runs yet: there is nothing to save
            sys.exit(RESUME_ME)

    def hand_to(self, process: subprocess.Popen[bytes]) -> None:
        """From now on tell this process; of a signal that came while it was started, too."""
        self._process = process
        if self.received:
            self._ask()

    def _ask(self) -> None:
        if self._process is None or self._asked:  # a second signal would make the training drop everything
            return
        self._asked = True
        self._process.send_signal(signal.SIGTERM)
        if self.received[0] not in WARNINGS:
            signal.alarm(STOP_SECONDS)

    def _kill(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()


def run_command(command: list[str], log: Path, environment: dict[str, str], locks: list[int], stop: StopRelay) -> int:
    """Run the command in a session of its own: only this process tells it to stop, once, and its death does, too."""
    with log.open("ab") as stream:
        stream.write(f"\n$ {shlex.join(command)}\n".encode())
        stream.flush()
        stop.starting = True
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=locks,
            start_new_session=True,
            preexec_fn=stop_with_parent,
        )
        stop.hand_to(process)
        code = process.wait()
    stop_group(process.pid)  # workers that a killed training has left
    return code if code >= 0 else 128 - code
