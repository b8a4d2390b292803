"""The GPUs of this machine, each for one training at a time. Imports no torch."""

import os
import shutil
import stat
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from nnunet_cpr.batch.failures import forget_failure, note_failure
from nnunet_cpr.batch.locks import take_some_of


def gpus_here() -> list[str]:
    """Return the GPUs that a program started here would see: CUDA_VISIBLE_DEVICES if it is set, else all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split() if listed.returncode == 0 else []


def gpu_locks(gpus: list[str]) -> list[Path]:
    """Return the lock of each GPU. All studies of a user on this machine share them, so none is taken twice.

    Raises:
        OSError: there is no folder for them that is this user's alone.
    """
    folder = _private_folder()
    return [folder / f"gpu-{gpu.replace('/', '-')}.lock" for gpu in gpus]


def guard_lock() -> Path:
    """Return the lock of whoever is choosing among the GPUs."""
    return _private_folder() / "choosing.lock"


def take_gpus(gpus: list[str], number: int, study_output: Path, job: str) -> tuple[str, list[int]]:
    """Wait until so many of the GPUs are free; return CUDA_VISIBLE_DEVICES and the descriptors of the locks.

    While the job waits, its failure says so.
    """
    which = "all" if number == 1 else f"more than {len(gpus) - number}"
    text = f"waits, because other studies train on {which} of the GPUs {', '.join(gpus)}"
    taken = take_some_of(gpu_locks(gpus), number, guard_lock(), partial(note_failure, study_output, job, text))
    forget_failure(study_output, job)
    return ",".join(gpus[index] for index in taken), list(taken.values())


def _private_folder() -> Path:
    """Return a folder that only this user can write to.

    XDG_RUNTIME_DIR comes second: it is removed when the user logs out, while a batch under nohup goes on.
    """
    name = f"nnunet-cpr-{os.getuid()}"  # by number: a container's user may have no name
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folders = [Path(parent) / name for parent in (tempfile.gettempdir(), runtime) if parent]
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        except OSError:
            continue
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return folder
    raise OSError(
        f"there is no place for the locks of the GPUs: {' and '.join(map(str, folders))} must be a folder that belongs "
        "to you and that nobody else can write to; remove it, or set TMPDIR to a folder of your own on this machine"
    )
