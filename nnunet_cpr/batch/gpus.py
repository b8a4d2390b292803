"""The GPUs of this machine, each for one training at a time. Imports no torch."""

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path


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
