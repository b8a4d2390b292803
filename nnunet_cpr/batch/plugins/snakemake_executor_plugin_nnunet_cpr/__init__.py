"""Snakemake's SLURM plugin, except that jobs reach sbatch without a shell and with no option that nobody asked for.

Snakemake finds it by its name on PYTHONPATH, which `nnunet-cpr batch --slurm` sets. The SLURM plugin still watches the
queue and cancels jobs. It would put paths and names between double quotes into a shell's command, and add options
(--mem, -p, -A) on its own account.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import snakemake_executor_plugin_slurm as slurm
from snakemake_executor_plugin_slurm.validation import validate_or_get_slurm_job_id
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from nnunet_cpr.batch.failures import failures, note_failure, one_line, reason_in
from nnunet_cpr.batch.plan import FILE
from nnunet_cpr.batch.slurm import PLUGINS
from nnunet_cpr.files import read_json

common_settings = slurm.common_settings
ExecutorSettings = slurm.ExecutorSettings
_SCRIPT = """\
#!/bin/sh
# sbatch's --cpus-per-task is not handed to srun by itself
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
exec srun --ntasks=1 --nodes=1 {command}
"""


class Executor(slurm.Executor):  # type: ignore[misc]  # the plugin has no type hints
    """Submits a study's jobs. Snakemake runs in the study's folder, and so do they."""

    def run_job(self, job: Any) -> None:
        """Submit one job: a script that starts it with srun, so that SLURM's signals reach it."""
        try:
            self._submit(job)
        except (OSError, ValueError, KeyError, slurm.WorkflowError) as error:
            self._report_job_error_threadsafe(SubmittedJobInfo(job), f"the job cannot be submitted: {error}")

    def report_job_error(self, job_info: SubmittedJobInfo, msg: str | None = None, **more: Any) -> None:
        """Leave the reason for `nnunet-cpr batch`, unless the job itself said more."""
        name = f"{job_info.job.rule.name}/{_name(job_info.job)}"
        if msg and name not in failures(Path.cwd()):
            said = reason_in(Path((job_info.aux or {}).get("slurm_logfile", "")))
            note_failure(Path.cwd(), name, f"{msg} {said}" if said else msg)
        super().report_job_error(job_info, msg, **more)

    def _submit(self, job: Any) -> None:
        kind, name = job.rule.name, _name(job)
        logs = Path.cwd() / ".snakemake" / "slurm_logs" / kind / name
        logs.mkdir(parents=True, exist_ok=True)
        pattern = f"{str(logs).replace('%', '%%')}/%j.log"
        command = shlex.join([sys.executable, "-m", "nnunet_cpr.batch.job", kind, name])
        options = ["--parsable", f"--job-name={self.run_uuid}", f"--output={pattern}", f"--chdir={Path.cwd()}",
                   *_sbatch_options(read_json(Path(FILE))["sbatch"][kind], f"{kind} {name}")]  # fmt: skip
        done = subprocess.run(
            ["sbatch", *options],
            input=_SCRIPT.format(command=command),
            capture_output=True,
            text=True,
            errors="replace",
            env=_environment(),
            check=False,
        )
        if done.returncode:
            message = one_line(done.stderr) or f"exit code {done.returncode}"
            self._report_job_error_threadsafe(SubmittedJobInfo(job), f"sbatch refuses the job: {message}")
            return
        number = validate_or_get_slurm_job_id(done.stdout.strip().split(";")[0], done.stdout)
        path = logs / f"{number}.log"
        self.logger.info(f"Job {job.jobid} has been submitted with SLURM jobid {number} (log: {path}).")
        self._report_job_submission_threadsafe(SubmittedJobInfo(job, number, {"slurm_logfile": path}))


def _sbatch_options(asked: list[str], comment: str) -> list[str]:
    """Return what was asked for, and the defaults of what was not."""
    names = {option.split("=")[0] for option in asked}
    defaults = ["--export=ALL", f"--comment={comment}"]
    return [*(option for option in defaults if option.split("=")[0] not in names), *asked]


def _name(job: Any) -> str:
    return str(next(iter(job.wildcards), "all"))


def _environment() -> dict[str, str]:
    """Return the environment without what makes Snakemake find this plugin."""
    environment = dict(os.environ)
    places = [place for place in environment.pop("PYTHONPATH", "").split(os.pathsep) if place != str(PLUGINS)]
    return environment | ({"PYTHONPATH": os.pathsep.join(places)} if any(places) else {})
