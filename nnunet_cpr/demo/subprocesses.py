"""nnU-Net's commands, run as a user would: output to a log file, a progress bar from what they leave on disk."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nnunet_cpr.exclusive import held
from nnunet_cpr.nnunet.commands import executable
from nnunet_cpr.nnunet.processes import stop_with_parent

POLL_SECONDS = 0.5
LOG_LINES_SHOWN = 15


class CommandFailed(Exception):
    """A command of nnU-Net ended with an error; the text has the end of its log and where the log is."""


@dataclass(frozen=True)
class Meter:
    """One progress bar: how far something is, by looking at it from outside."""

    label: str
    unit: str
    total: Callable[[], int]
    count: Callable[[], int]
    note: Callable[[], str] = str


def run_command(command: list[str], log: Path, variables: dict[str, str], meters: list[Meter]) -> None:
    """Run the command, appending its output to `log`, and follow it with one bar after another.

    When this process is interrupted, the command and its own children are stopped first.
    """
    environment = os.environ | variables | {"PYTHONUNBUFFERED": "1"}
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"\n$ {shlex.join(command)}\n")
        stream.flush()
        process = subprocess.Popen(
            [executable(command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a process group of its own, so that its workers can be stopped with it
            preexec_fn=stop_with_parent,
            pass_fds=held(),  # whatever becomes of this process, the folder is in use until the command ends
        )
        try:
            for meter in meters:
                _follow(process, meter)
            code = process.wait()
        finally:
            if process.poll() is None:
                _stop(process)
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-LOG_LINES_SHOWN:]
        raise CommandFailed(
            f"{command[0]} failed with exit code {code}. The end of its log:\n\n  "
            + "\n  ".join(lines)
            + f"\n\nThe whole log: {log}"
        )


def _follow(process: subprocess.Popen[bytes], meter: Meter) -> None:
    total, done = meter.total(), meter.count()
    with tqdm(desc=meter.label, unit=meter.unit, total=total, initial=done, disable=None, leave=False) as bar:
        while bar.n < total and process.poll() is None:
            time.sleep(POLL_SECONDS)
            bar.n = min(meter.count(), total)
            bar.set_postfix_str(meter.note(), refresh=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, how)
        try:
            process.wait(timeout=10)
            return
        except subprocess.TimeoutExpired:
            continue
