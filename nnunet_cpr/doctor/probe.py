"""Prints as JSON what importing torch and nnU-Net tells; `python -m nnunet_cpr.doctor.probe` in a process of its own.

A new process finds the trainers as nnU-Net's commands do, and survives a library that crashes when it is imported.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

EXAMPLE = "nnUNetTrainerCPR_ws2000"


def trainers() -> str:
    """Return where nnU-Net's own search finds one of our trainers."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    with contextlib.redirect_stdout(sys.stderr):  # nnU-Net may print where it looks
        found = recursive_find_trainer_class_by_name(EXAMPLE)
    return f"{found.__module__}.{found.__qualname__}"


def torch_build() -> dict[str, Any]:
    """Return torch's version, the CUDA that it was built for, and the GPUs that it can use."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [f"{p.name}, {p.total_memory / 2**30:.0f} GiB" for p in map(torch.cuda.get_device_properties, range(count))]
    return {"version": torch.__version__, "cuda": torch.version.cuda or torch.version.hip, "gpus": gpus}


def step() -> dict[str, Any]:
    """Return what does the optimizer's step on this machine's CPU, and why not the C kernels."""
    from nnunet_cpr.optim.fused import SWITCH, c_build

    return {"why_not": c_build.why_not(), "switch": SWITCH, "kernels": os.environ.get(SWITCH, "auto")}


def main() -> None:
    """Print what each part finds, or the error that it ends with."""
    parts: dict[str, Callable[[], Any]] = {"torch": torch_build, "trainers": trainers, "step": step}
    answers = {}
    for name, part in parts.items():
        try:
            answers[name] = {"found": part()}
        except Exception as error:
            answers[name] = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
