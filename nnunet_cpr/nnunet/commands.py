"""Where nnU-Net's commands are."""

import shutil
import sys
from pathlib import Path


def executable(name: str) -> str:
    """Return the command of this Python's environment, which need not be activated.

    Raises:
        ValueError: it is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ValueError(f"the command {name} is not installed beside {sys.executable}; reinstall nnunetv2")
    return found
