"""The GPUs of this machine, one training on each. Imports no torch."""

import getpass
import os
import shutil
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
    """Return the lock of each GPU. All studies of a user on this machine share them, so none is taken twice."""
    folder = Path(tempfile.gettempdir()) / f"nnunet-cpr-{getpass.getuser()}"
    return [folder / f"gpu-{gpu.replace('/', '-')}.lock" for gpu in gpus]
