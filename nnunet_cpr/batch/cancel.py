"""Ctrl-C reaches every job on a cluster, even while Snakemake is asking for the jobs' states.

Snakemake empties its list of active jobs while it asks. Interrupted at that moment, it would cancel none of them.
"""

from typing import Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


def cancel_all_jobs() -> None:
    """Let every executor of this Snakemake cancel what it has submitted and not yet reported as ended."""
    RemoteExecutor.report_job_submission = _report_submission
    RemoteExecutor.report_job_success = _report_success
    RemoteExecutor.report_job_error = _report_error
    RemoteExecutor.cancel = _cancel


_submission_of_snakemake = RemoteExecutor.report_job_submission
_success_of_snakemake = RemoteExecutor.report_job_success
_error_of_snakemake = RemoteExecutor.report_job_error


def _report_submission(self: RemoteExecutor, job_info: SubmittedJobInfo, *more: Any, **named: Any) -> None:
    _jobs(self)[id(job_info)] = job_info
    _submission_of_snakemake(self, job_info, *more, **named)


def _report_success(self: RemoteExecutor, job_info: SubmittedJobInfo) -> None:
    _jobs(self).pop(id(job_info), None)
    _success_of_snakemake(self, job_info)


def _report_error(self: RemoteExecutor, job_info: SubmittedJobInfo, *more: Any, **named: Any) -> None:
    _jobs(self).pop(id(job_info), None)  # a job that could not be submitted was never there
    _error_of_snakemake(self, job_info, *more, **named)


def _cancel(self: RemoteExecutor) -> None:
    try:
        self.cancel_jobs(list(_jobs(self).values()))
    finally:  # the command for canceling may fail because a job has ended by itself
        self.shutdown()


def _jobs(executor: RemoteExecutor) -> dict[int, SubmittedJobInfo]:
    """Return the executor's jobs that have not ended, as far as it knows."""
    jobs: dict[int, SubmittedJobInfo] = executor.__dict__.setdefault("_jobs_to_cancel", {})
    return jobs
