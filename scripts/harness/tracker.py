"""TensorBoard or Weights & Biases beside the files of a run, by accelerate's trackers."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from harness.settings import Settings
from nnunet_cpr.training.loggers import CPR_CHARTS, Guard, require

MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
PROJECT = "nnunet-cpr"
"""W&B's, unless WANDB_PROJECT names another."""


class Tracker:
    """Hands the rows of a run's tables to what `--log-to` names, or to nobody. Its failures end no training.

    Args:
        settings: of the run.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._first_step = settings, 0
        if settings.log_to:
            require(MODULES[settings.log_to], settings.log_to, f"--log-to {settings.log_to}", "leave it out")
        self._guard = Guard(settings.log_to or "", lambda line: print(f"{settings.script}.py: {line}", file=sys.stderr))

    def start(self, accelerator: Accelerator, done: int) -> None:
        """Begin, or go on in the curves of the run that is resumed after so many steps.

        Raises:
            ValueError: W&B cannot begin, because, say, nobody is logged in.
        """
        self._accelerator = accelerator
        if not self._settings.log_to:
            return
        folder = self._settings.folder
        options = {
            "tensorboard": {"purge_step": done + 1},  # TensorBoard then does not show what is about to be done again
            "wandb": {
                "dir": str(folder), "name": folder.name, "id": _wandb_id(folder), "resume": "allow",
                "config": {"script": self._settings.script, **self._settings.to_json()},
            },
        }  # fmt: skip
        in_wandb = self._settings.log_to == "wandb"
        try:
            # TensorBoard's events get a folder of the project's name.
            accelerator.init_trackers(
                os.environ.get("WANDB_PROJECT", PROJECT) if in_wandb else "tensorboard", None, options
            )
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"--log-to {self._settings.log_to}: {reason}") from error
        if accelerator.is_main_process:
            tracker = accelerator.get_tracker(self._settings.log_to, unwrap=True)
            if in_wandb:
                self._first_step = tracker.step  # it has the steps before from an earlier process
            else:
                tracker.add_custom_scalars({"CPR": CPR_CHARTS})

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Hand on the values of a step."""
        if step >= self._first_step:
            self._guard(self._accelerator.log, values, step)


def _wandb_id(folder: Path) -> str | None:
    """Return the id of the run that an earlier process has begun in this folder, by the name of W&B's file."""
    file = next(iter(sorted(folder.glob("wandb/*run-*/run-*.wandb"))), None)
    return file.stem.removeprefix("run-") if file else None
