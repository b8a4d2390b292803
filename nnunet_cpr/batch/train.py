"""The job that trains one fold: never two on one fold, never two on one GPU, and the stop signal handed on once."""

import itertools
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from nnunet_cpr.batch.failures import forget_failure, note_failure, reason_in
from nnunet_cpr.batch.gpus import take_gpus
from nnunet_cpr.batch.locks import take
from nnunet_cpr.batch.plan import Plan, job_name
from nnunet_cpr.batch.runs import CHECKPOINTS, Run
from nnunet_cpr.batch.study import Study
from nnunet_cpr.evaluation.starting_weights import checksum, note_weights
from nnunet_cpr.files import write_json
from nnunet_cpr.nnunet_commands import executable, stop_group, stop_with_parent
from nnunet_cpr.parallel import job_cores
from nnunet_cpr.training.stopping import RESUME_ME

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""From SLURM or LSF before the time is up, and from LSF when it is; they kill by themselves later."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, *WARNINGS)
STOP_SECONDS = 180
"""How long a training may take to save when asked to stop; then it is killed."""


def train_command(study: Study, run: Run) -> list[str]:
    """Return nnU-Net's command. With --c it starts, resumes, or only validates, whatever is left.

    nnU-Net takes no weights to begin with where it is to resume.
    """
    begins = study.pretrained_weights and not run.is_begun()
    command, number = [executable("nnUNetv2_train")], study.gpus_per_training
    if number > 1:  # nnU-Net's own command does not hand stop signals on to its processes
        command = [sys.executable, "-m", "nnunet_cpr.training.launch"]
    gpus = ["-num_gpus", str(number)] if number > 1 else []
    return [*command, run.dataset, study.configuration, run.fold, "-tr", run.run, "-p", study.plans,
            "-device", study.device, *gpus, *(["-pretrained_weights", study.pretrained_weights] if begins else ["--c"]),
            *study.train_arguments]  # fmt: skip


def processes(gpus: int = 1) -> dict[str, str]:
    """Return nnU-Net's variables for the numbers of its processes, where this job has fewer cores than it assumes.

    With several GPUs, nnU-Net starts as many for each.
    """
    cores, assumed = max(1, job_cores() // gpus), {"nnUNet_n_proc_DA": 12, "nnUNet_def_n_proc": 8}
    return {name: str(cores) for name, number in assumed.items() if cores < number and name not in os.environ}


def train(plan: Plan, run: Run) -> int:
    """Train and validate the fold unless that has been done, and return nnU-Net's exit code.

    The locks are inherited by nnU-Net's process: they fall when it ends, even if this one is killed before.
    """
    study, log, job = plan.study, run.log(plan.study.output), f"train/{job_name(run.key)}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with StopSignals() as signals:
        fold_lock = take(run.lock, wait=False)
        if fold_lock is None:
            print(f"{run.key} is being trained by another process; waiting for it", flush=True)
            note_failure(study.output, job, "waits, because another process trains this fold")
            fold_lock = take(run.lock)
            forget_failure(study.output, job)
        assert fold_lock is not None
        if run.is_done():
            return 0
        if outdated := run.outdated():
            raise ValueError(f"{run.folder}: {outdated}; undo that, or rename or remove the folder to train it again")
        locks, wanted = [fold_lock], study.gpus_per_training
        environment = os.environ | processes(wanted) | {"PYTHONUNBUFFERED": "1"}
        if plan.gpus:
            visible, gpu_locks = take_gpus(plan.gpus, wanted, study.output, job)
            locks += gpu_locks
            environment["CUDA_VISIBLE_DEVICES"] = visible
        _set_aside_earlier_training(run)
        if not run.is_begun():
            _note_weights(study, run)
        begun, begin = time.time(), log.stat().st_size if log.is_file() else 0
        code = run_command(train_command(study, run), log, environment, locks, signals)
        reason = reason_in(log, begin) if code else ""
        if code == 0 and not run.is_done():
            code, reason = 1, "nnU-Net ended well, but left no result of this training"
        outcome = "done" if code == 0 else "stopped" if code == RESUME_ME or signals.received else "failed"
        record = run.record(study.output)
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"outcome": outcome, "exit_code": code, "reason": reason, "host": socket.gethostname(),
                            "begun": begun, "ended": time.time()})  # fmt: skip
        if outcome == "failed":
            note_failure(study.output, job, f"exit code {code}: {reason}; see {log}")
        return code


def _note_weights(study: Study, run: Run) -> None:
    """Note which weights the training begins with, which must be those that were there when the study was read."""
    if study.pretrained_weights and checksum(Path(study.pretrained_weights)) != study.weights_sha256:
        raise ValueError(f"{study.pretrained_weights} has changed since this call began; call again to use it")
    note_weights(run.folder, study.pretrained_weights, study.weights_sha256 or "")


def _set_aside_earlier_training(run: Run) -> None:
    """Rename the final checkpoint of an earlier training, as nnU-Net's --c would prefer it to the newer one's latest.

    Our trainers do so themselves, nnU-Net's do not.
    """
    final, latest = run.folder / CHECKPOINTS[0], run.folder / CHECKPOINTS[1]
    if final.is_file() and latest.is_file() and (run.validation / "summary.json").is_file():
        names = (final.with_name(f"{final.name}.old{number or ''}") for number in itertools.count())
        final.rename(next(name for name in names if not name.exists()))


class StopSignals:
    """Collects stop signals while the block runs and hands the first of them to the training."""

    def __init__(self) -> None:
        self.starting = False
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False
        self.received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
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


def run_command(
    command: list[str], log: Path, environment: dict[str, str], locks: list[int], signals: StopSignals
) -> int:
    """Run the command in a session of its own: only this process tells it to stop, once, and its death does, too."""
    with log.open("ab") as stream:
        stream.write(f"\n$ {shlex.join(command)}\n".encode())
        stream.flush()
        signals.starting = True
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
        signals.hand_to(process)
        code = process.wait()
    stop_group(process.pid)  # workers that a killed training has left
    return code if code >= 0 else 128 - code
