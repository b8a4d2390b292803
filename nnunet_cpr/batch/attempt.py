"""One attempt at a job that runs nnU-Net's commands: its GPUs and environment, and the record of how it ended."""

import os
import socket
import time

from nnunet_cpr.batch.failures import note_failure, reason_in
from nnunet_cpr.batch.gpus import take_gpus
from nnunet_cpr.batch.job_files import JobFiles
from nnunet_cpr.batch.plan import Plan
from nnunet_cpr.batch.stop_relay import StopRelay, run_command
from nnunet_cpr.files import write_json
from nnunet_cpr.parallel import THREADS, job_cores, training_threads
from nnunet_cpr.training.stopping import RESUME_ME


class Attempt:
    """Runs a job's commands, which inherit its locks: those fall when a command ends, even if the job was killed."""

    def __init__(self, plan: Plan, files: JobFiles, job: str, lock: int, gpus: int, stop: StopRelay) -> None:
        """Wait for so many GPUs, if there are any to share. `lock` is held already, `job` is its name in messages."""
        self._output, self._files, self._job, self._stop = plan.study.output, files, job, stop
        self._locks = [lock]
        cores = max(1, job_cores() // gpus)  # with several GPUs, nnU-Net starts as many processes for each
        self._environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        if plan.study.device == "cpu":
            share = plan.threads or training_threads() or job_cores()
            cores = min(cores, share)
            self._environment |= threads(share)
        self._environment |= processes(cores)
        if plan.gpus:
            visible, gpu_locks = take_gpus(plan.gpus, gpus, self._output, job)
            self._locks += gpu_locks
            self._environment["CUDA_VISIBLE_DEVICES"] = visible
        self._log = files.log(self._output)
        self._begun, self._begin = time.time(), self._log.stat().st_size if self._log.is_file() else 0

    @property
    def stopped(self) -> bool:
        """Whether the job was asked to stop."""
        return bool(self._stop.received)

    def run(self, command: list[str]) -> int:
        """Run a command to its end and return its exit code."""
        return run_command(command, self._log, self._environment, self._locks, self._stop)

    def end(self, code: int, unfinished: str) -> int:
        """Record how it ended and return the exit code: 1 if the commands ended well, but something is `unfinished`."""
        reason = reason_in(self._log, self._begin) if code else unfinished
        code = 1 if code == 0 and unfinished else code
        outcome = "done" if code == 0 else "stopped" if code == RESUME_ME or self.stopped else "failed"
        record = self._files.record(self._output)
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"outcome": outcome, "exit_code": code, "reason": reason, "host": socket.gethostname(),
                            "begun": self._begun, "ended": time.time()})  # fmt: skip
        if outcome == "failed":
            note_failure(self._output, self._job, f"exit code {code}: {reason}; see {self._log}")
        return code


def processes(cores: int) -> dict[str, str]:
    """Return nnU-Net's variables for the numbers of its processes, where it has fewer cores than it assumes."""
    assumed = {"nnUNet_n_proc_DA": 12, "nnUNet_def_n_proc": 8}
    return {name: str(cores) for name, number in assumed.items() if cores < number and name not in os.environ}


def threads(number: int) -> dict[str, str]:
    """Return what keeps trainings on one CPU out of each other's way.

    Our trainers obey NNUNET_CPR_THREADS. nnU-Net's own trainers and predictions use a thread for each core of the
    machine; those with nothing to do then at least sleep, instead of keeping a core busy.
    """
    policy = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    return {THREADS: str(number)} | ({"OMP_WAIT_POLICY": policy} if number < job_cores() else {})
