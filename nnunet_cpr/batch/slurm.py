"""What Snakemake must be told for a SLURM cluster, and the jobs that an earlier call has left in the queue."""

import re
import shutil
import subprocess
import time
from pathlib import Path

from nnunet_cpr.batch.train import STOP_SECONDS

RESOURCES = {
    "partition": "slurm_partition",
    "account": "slurm_account",
    "qos": "qos",
    "time": "runtime",
    "mem": "mem_mb",
    "cpus": "cpus_per_task",
    "constraint": "constraint",
    "gres": "gres",
}
"""Our names, which are sbatch's, and those of Snakemake's SLURM plugin."""
CPUS = "8"
"""A job's share by default: nnU-Net augments on the CPU."""
WARNING_SECONDS = 120
"""Before the time limit, trainings are told to save and end."""
RETRIES = 3
"""Further attempts after a job failed or hit its time limit; they resume."""


def slurm_arguments(text: str) -> list[str]:
    """Return Snakemake's arguments for `partition=gpu,time=24:00:00,gres=gpu:1`. gres is for trainings only.

    Raises:
        ValueError: a part cannot be read, or there is no SLURM here.
    """
    given = {"cpus": CPUS, **_read(text)}
    if shutil.which("sbatch") is None:
        raise ValueError("--slurm: there is no sbatch here; start this on a login node of the cluster")
    gres = given.pop("gres", None)
    defaults = [f"{RESOURCES[key]}={value}" for key, value in given.items()]
    arguments = ["--executor", "slurm", "--jobs", "100", "--retries", str(RETRIES), "--slurm-requeue"]
    if not _has_accounting():
        arguments += ["--slurm-status-command", "squeue"]
    if "account" not in given:
        arguments.append("--slurm-no-account")
    arguments += ["--default-resources", *defaults] if defaults else []
    ours = [f"train:slurm_extra='--signal=USR1@{WARNING_SECONDS}'"]
    if gres:
        ours.append(f"train:gres='{gres}'")  # a colon in the value needs the quotes
    return [*arguments, "--set-resources", *ours]


def jobs_left(study_output: Path) -> list[str]:
    """Return the ids of this user's jobs that were started in the study's folder and are still in the queue."""
    if shutil.which("squeue") is None:
        return []
    listed = subprocess.run(["squeue", "--me", "-h", "-o", "%i|%Z"], capture_output=True, text=True, check=False)
    pairs = [line.split("|", 1) for line in listed.stdout.splitlines() if "|" in line]
    return [job for job, folder in pairs if Path(folder) == study_output]


def wait_for_jobs(study_output: Path) -> None:
    """Wait until the jobs that were cancelled have saved and ended, or their time for that is over."""
    until = time.monotonic() + STOP_SECONDS
    while jobs_left(study_output) and time.monotonic() < until:
        time.sleep(2)


def _read(text: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not (equals and value) or key not in RESOURCES:
            raise ValueError(f"--slurm: cannot read {part!r}; write KEY=VALUE with KEY of {', '.join(RESOURCES)}")
        given[key] = value
    if "time" in given:
        given["time"] = str(_minutes(given["time"]))
    if "mem" in given:
        given["mem"] = str(_megabytes(given["mem"]))
    return given


def _minutes(text: str) -> int:
    """Read sbatch's times: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; seconds are rounded up."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise ValueError(f"--slurm: the time {text} is none that sbatch knows, for example 24:00:00 or 2-00:00:00")
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return int(days or 0) * 1440 + hours * 60 + minutes + (1 if seconds else 0)


def _megabytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)", text, re.IGNORECASE)
    if match is None:
        raise ValueError(f"--slurm: the memory {text} is none that sbatch knows, for example 64G")
    return max(1, int(int(match[1]) * 1024.0 ** ("KMGT".index(match[2].upper() or "M") - 1)))


def _has_accounting() -> bool:
    """Without slurmdbd the plugin would ask sacct for ever."""
    if shutil.which("sacct") is None:
        return False
    return subprocess.run(["sacct", "-n", "-X"], capture_output=True, check=False).returncode == 0
