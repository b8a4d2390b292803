"""What sbatch is told for each job of a study, and the jobs that an earlier call has left in the queue.

Snakemake's SLURM plugin adds options of its own and evaluates values as Python expressions, so the jobs are submitted
by `plugins/snakemake_executor_plugin_nnunet_cpr`, which passes on exactly what is made here.
"""

import os
import re
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

from nnunet_cpr.batch.failures import one_line
from nnunet_cpr.batch.stop_relay import STOP_SECONDS

PLUGINS = Path(__file__).with_name("plugins")
"""Where Snakemake finds our plugin."""
KINDS = ("prepare", "train", "surface", "predict", "test_surface")
ON_DEVICE = ("train", "predict")
"""The jobs that run on the study's device, and that are told to stop before their time is over."""
CPUS = 8
"""Of a job, and for each GPU of a training, unless the user says how many.

nnU-Net augments on the CPU, and sbatch's default is 1.
"""
WARNING = "USR1@120"
"""Before the time limit, trainings and predictions are told to end."""
CHECK_SECONDS = 10
"""Until the queue is asked for the first time, and how much longer it takes each time; the plugin's default is 40."""
RETRIES = 3
"""Further attempts after a job failed or hit its time limit; they resume."""
OPTIONS = {
    "account", "acctg-freq", "batch", "bb", "bbf", "begin", "cluster-constraint", "comment", "constraint",
    "container", "container-id", "core-spec", "cores-per-socket", "cpu-freq", "cpus-per-gpu", "cpus-per-task",
    "deadline", "delay-boot", "dependency", "distribution", "exclude", "exclusive", "export", "extra",
    "extra-node-info", "gid", "gpu-bind", "gpu-freq", "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task",
    "gres", "gres-flags", "hint", "kill-on-invalid-dep", "licenses", "mail-type", "mail-user", "mcs-label", "mem",
    "mem-bind", "mem-per-cpu", "mem-per-gpu", "mincpus", "network", "nice", "nodelist", "nodes", "ntasks",
    "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-node", "ntasks-per-socket", "oversubscribe", "partition",
    "power", "prefer", "priority", "profile", "propagate", "qos", "reservation", "segment", "signal",
    "sockets-per-node", "switches", "thread-spec", "threads-per-core", "time", "time-min", "tmp", "tres-bind",
    "tres-per-task", "uid", "wait-all-nodes", "wckey",
}  # fmt: skip
"""sbatch's options with a value. Left out is what the batch itself decides: job-name, output, chdir, array, wrap..."""
FLAGS = {
    "contiguous", "exclusive", "hold", "no-kill", "no-requeue", "overcommit", "oversubscribe", "reboot", "requeue",
    "spread-job", "use-min-nodes",
}  # fmt: skip
"""sbatch's options without a value."""
GPU_OPTIONS = {
    "cpus-per-gpu", "gpu-bind", "gpu-freq", "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "gres",
    "gres-flags", "mem-per-gpu", "ntasks-per-gpu", "tres-bind", "tres-per-task",
}  # fmt: skip
"""What only jobs on the device ask for."""
ASK_FOR_GPUS = ("gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket")
FREE_TEXT = ("comment", "export", "extra")
"""Options whose values may hold `,NAME=`."""


def slurm_arguments(text: str, gpus: int = 1) -> tuple[list[str], dict[str, list[str]]]:
    """Return Snakemake's arguments for `partition=gpu,time=24:00:00,gres=gpu:1`, and sbatch's for each kind of job.

    Args:
        text: What the user asks for.
        gpus: How many GPUs a training takes.

    Raises:
        ValueError: a part cannot be read, it asks for too few GPUs, or there is no SLURM here.
    """
    wishes = _read(text)
    _check_gpus(wishes, gpus)
    for command in ("sbatch", "squeue", "scancel"):
        if shutil.which(command) is None:
            raise ValueError(f"--slurm: there is no {command} here; start this on a login node of the cluster")
    if find_spec("snakemake") and find_spec("snakemake_executor_plugin_slurm") is None:
        raise ValueError("--slurm needs Snakemake's SLURM plugin: pip install 'nnunet-cpr[batch]'")
    arguments = ["--executor", "nnunet-cpr", "--jobs", "100", "--retries", str(RETRIES),
                 "--nnunet-cpr-init-seconds-before-status-checks", str(CHECK_SECONDS),
                 "--nnunet-cpr-status-command", "sacct" if _has_accounting() else "squeue"]  # fmt: skip
    if "no-requeue" not in wishes:
        arguments.append("--nnunet-cpr-requeue")  # the plugin then leaves jobs of a failed node to SLURM
    return arguments, {kind: _sbatch(kind, wishes, gpus if kind == "train" else 1) for kind in KINDS}


def plugin_path(python_path: str | None) -> str:
    """Return a PYTHONPATH with which Snakemake finds our plugin, and then whatever is on this one."""
    return os.pathsep.join([str(PLUGINS), *filter(None, [python_path])])


def jobs_left(study_output: Path, must_know: bool) -> list[str]:
    """Return the ids of this user's jobs that were started in the study's folder and are still in the queue.

    Raises:
        ValueError: squeue does not answer, but `must_know`.
    """
    if shutil.which("squeue") is None:
        return []
    # By its number: a container's user may have no name, without which --me fails.
    listed = subprocess.run(
        ["squeue", "-u", str(os.getuid()), "-h", "-o", "%i|%Z"],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if listed.returncode and must_know:
        raise ValueError(f"squeue fails, so it cannot be known which jobs are in the queue: {one_line(listed.stderr)}")
    pairs = [line.split("|", 1) for line in listed.stdout.splitlines() if "|" in line]
    return [job for job, folder in pairs if Path(folder) == study_output]


def wait_for_jobs(study_output: Path) -> None:
    """Wait until the jobs that were canceled have ended, or their time for that is over."""
    until = time.monotonic() + STOP_SECONDS
    while jobs_left(study_output, must_know=False) and time.monotonic() < until:
        time.sleep(2)


def _check_gpus(wishes: dict[str, str | None], gpus: int) -> None:
    """Refuse fewer GPUs than a training takes, where their number can be read."""
    for name in ASK_FOR_GPUS:
        value = wishes.get(name) or ""
        found = re.fullmatch(r"gpu:(?:[^:,]+:)?(\d+)" if name == "gres" else r"(?:[^:,]+:)?(\d+)", value)
        if found and int(found[1]) < gpus:
            raise ValueError(f"--slurm: {name}={value}, but the study's gpus_per_training is {gpus}")


def _sbatch(kind: str, wishes: dict[str, str | None], gpus: int) -> list[str]:
    """Return sbatch's options for a kind of job: what was asked for, and what the batch cannot do without."""
    asked = {name: value for name, value in wishes.items() if kind in ON_DEVICE or name not in GPU_OPTIONS}
    ours: dict[str, str | None] = {}
    if not {"requeue", "no-requeue"} & asked.keys():
        ours["requeue"] = None
    if not {"cpus-per-task", "cpus-per-gpu", "tres-per-task"} & asked.keys():
        ours["cpus-per-task"] = str(CPUS * gpus)
    if gpus > 1 and not asked.keys() & {*ASK_FOR_GPUS, "tres-per-task"}:
        ours["gres"] = f"gpu:{gpus}"
    if kind in ON_DEVICE and "signal" not in asked:
        ours["signal"] = WARNING
    return [f"--{name}" if value is None else f"--{name}={value}" for name, value in (ours | asked).items()]


def _read(text: str) -> dict[str, str | None]:
    """Return option and value, None for one without, in sbatch's spelling.

    Values may hold commas, as in gres=gpu:1,shard:2 and nodelist=node[1,3]: only a comma with NAME= or one of FLAGS
    after it ends a value.
    """
    if not text.isprintable():
        raise ValueError("--slurm: there is a line break or another character that cannot be printed")
    wishes: dict[str, str | None] = {}
    last = ""
    for part in text.split(","):
        match = re.match(r"\s*([A-Za-z][\w-]*)\s*(?:=(.*))?$", part)
        name = match[1].lower().replace("_", "-") if match else ""
        name = "cpus-per-task" if name == "cpus" else name
        value = match[2] if match else None
        begins = value is not None or name in FLAGS
        if begins and not (last in FREE_TEXT and name not in OPTIONS | FLAGS):
            if name not in (FLAGS if value is None else OPTIONS) or value == "":
                raise _unreadable(part)
            if name in wishes:
                raise ValueError(f"--slurm: {name} is there twice")
            wishes[name], last = value, name
        elif wishes.get(last) is not None:
            wishes[last] = f"{wishes[last]},{part}"
        else:
            raise _unreadable(part)
    return wishes


def _unreadable(part: str) -> ValueError:
    return ValueError(
        f"--slurm: cannot read {part!r}; write NAME=VALUE,... with sbatch's long names, such as partition, account, "
        "qos, time, mem, constraint and gres, or cpus; names, output and folder of the jobs are set by the batch"
    )


def _has_accounting() -> bool:
    """Without slurmdbd the plugin would ask sacct for ever."""
    if shutil.which("sacct") is None:
        return False
    return subprocess.run(["sacct", "-n", "-X"], capture_output=True, check=False).returncode == 0
