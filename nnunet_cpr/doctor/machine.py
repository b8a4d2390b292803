"""What the machine and the job have: nnU-Net's folders, SLURM, free disk and CPU cores."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nnunet_cpr.doctor.fact import Fact
from nnunet_cpr.files import user_path
from nnunet_cpr.nnunet.paths import FOLDERS, external_trainers
from nnunet_cpr.parallel import job_cores

LITTLE_GIB = 10.0
"""Less free disk than this is worth a word: one preprocessed dataset and a few trainings take more."""
NNUNET_WORKERS = 12
"""nnU-Net's default number of augmentation workers, where the machine has as many cores."""


def machine_facts() -> Iterator[Fact]:
    """Yield one fact after the other."""
    for variable, content in FOLDERS.items():
        yield _folder(variable, content)
    yield _ext_trainer()
    yield _slurm()
    yield from _disk()
    yield _cores()


def _folder(variable: str, content: str) -> Fact:
    value = os.environ.get(variable, "")
    example = f"export {variable}=/path/for/{content.replace(' ', '_')}"
    if not value:
        return Fact(variable, "not set", example)
    if value.startswith("~"):
        return Fact(variable, value, f"nnU-Net takes ~ for a name: export {variable}={_expanded(value)}")
    path = Path(value)
    if not path.exists():
        return Fact(variable, f"{value}, which does not exist", f"mkdir -p {shlex.quote(value)}, or {example}",
                    needed=variable != "nnUNet_results")  # fmt: skip
    if not path.is_dir():
        return Fact(variable, f"{value}, which is not a folder", example)
    if not os.access(path, os.W_OK | os.X_OK):
        # Data are often shared and read-only; trained models must be written.
        advice = "choose a folder that you can write" if variable == "nnUNet_results" else "needed only to add datasets"
        return Fact(variable, f"{value}, which you cannot write", advice, needed=variable == "nnUNet_results")
    return Fact(variable, value)


def _expanded(value: str) -> str:
    try:
        return shlex.quote(str(user_path(value)))
    except ValueError:  # the home folder of an unknown user
        return "/the/whole/path"


def _ext_trainer() -> Fact:
    folders = external_trainers()
    if not folders:
        return Fact("nnUNet_extTrainer", "not set; our trainers do not need it")
    value = os.pathsep.join(map(str, folders))
    if missing := [folder for folder in folders if not folder.is_dir()]:
        return Fact("nnUNet_extTrainer", value, f"{missing[0]} is not a folder; nnU-Net passes over it", needed=False)
    return Fact("nnUNet_extTrainer", value)


def _slurm() -> Fact:
    if shutil.which("sbatch") is None:
        return Fact("SLURM", "no sbatch here; studies run on this machine")
    try:
        result = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=30, check=False)
        said = " ".join((result.stdout or result.stderr).split())
    except (OSError, subprocess.TimeoutExpired) as error:
        said, works = str(error), False
    else:
        works = result.returncode == 0
    return Fact("SLURM", said, "" if works else "ask the cluster's support why sbatch fails", needed=False)


def _disk() -> Iterator[Fact]:
    places = {name: os.environ.get(name, "") for name in FOLDERS} | {"temporary files": tempfile.gettempdir()}
    seen: dict[int, str] = {}
    for name, value in places.items():
        path = Path(value)
        if not value or not path.is_dir() or path.stat().st_dev in seen:
            continue
        seen[path.stat().st_dev] = name
        free = shutil.disk_usage(path).free / 2**30
        advice = f"less than {LITTLE_GIB:.0f} GiB: make room, or use another disk" if free < LITTLE_GIB else ""
        yield Fact(f"free disk, {name}", f"{free:.0f} GiB at {value}", advice, needed=False)


def _cores() -> Fact:
    job, machine = job_cores(), os.cpu_count() or 1
    value = f"{job} for this job, {machine} in this machine"
    given = os.environ.get("nnUNet_n_proc_DA")  # noqa: SIM112 (nnU-Net's name)
    workers = int(given) if given and given.isdecimal() else min(NNUNET_WORKERS, machine)
    if given and not given.isdecimal():
        return Fact("CPU cores", value, f"nnUNet_n_proc_DA is {given}: give a number, such as {job}")
    if workers > job:
        advice = f"nnU-Net would start {workers} augmentation workers: export nnUNet_n_proc_DA={max(1, job - 1)}"
        return Fact("CPU cores", value, advice, needed=False)
    return Fact("CPU cores", value)
