"""What TensorBoard and Weights & Biases are told: nnU-Net's own values of each epoch, and the constraints.

W&B is nnU-Net's own logger, and nnU-Net's environment variables switch it on. TensorBoard is ours; nnU-Net hands its
values to it as it does to W&B. This module imports no torch.
"""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from nnunet_cpr.optim import Constraint
    from nnunet_cpr.training.trainer import NamedTrainer

SWITCH = "NNUNET_CPR_TENSORBOARD"
FOLDER = "tensorboard"
"""Below the fold's folder."""
CPR_CHARTS = {quantity: ["Multiline", [f"tensor_{quantity}/.*"]] for quantity in ("lambda", "R", "kappa")}
"""Charts with a line for each tensor, as TensorBoard's page of custom scalars takes them."""
CHARTS = {
    "nnU-Net": {
        "loss": ["Multiline", ["nnunet/train_losses", "nnunet/val_losses"]],
        "pseudo Dice": ["Multiline", ["nnunet/mean_fg_dice", "nnunet/ema_fg_dice"]],
    },
    "CPR": CPR_CHARTS,
}


def constraint_values(constraints: "Sequence[Constraint]") -> dict[str, float]:
    """Return the constraints as named numbers.

    Both tools show the names that agree up to the first slash in one section. So the summary has a section of its own,
    and so has each quantity of the single tensors, of which there may be hundreds. TensorBoard opens the first two
    sections in alphabetical order, which are the summary and nnU-Net's own values.

    Args:
        constraints: as an optimizer's `constraints()` returns them.

    Returns:
        How many tensors are `cpr/bounded`, `cpr/active` and `cpr/flipping`; largest value and median of lambda and of
        R / kappa; and each tensor's `tensor_lambda/NAME`, `tensor_R/NAME` and, once its bound is set,
        `tensor_kappa/NAME`.
    """
    values: dict[str, float] = {
        "cpr/bounded": sum(c.bounded for c in constraints),
        "cpr/active": sum(c.active for c in constraints),
        "cpr/flipping": sum(c.flips for c in constraints),
    }
    ratios = [c.reg / c.kappa for c in constraints if c.bounded and c.kappa > 0]
    for name, numbers in {"lambda": [c.lagmul for c in constraints], "R_over_kappa": ratios}.items():
        if numbers:  # NumPy's functions return NaN if one of the numbers is
            values |= {f"cpr/{name}_max": float(np.max(numbers)), f"cpr/{name}_median": float(np.median(numbers))}
    for c in constraints:
        values |= {f"tensor_lambda/{c.name}": c.lagmul, f"tensor_R/{c.name}": c.reg}
        if c.bounded:
            values[f"tensor_kappa/{c.name}"] = c.kappa
    return values


class Logger(Protocol):
    """What nnU-Net's loggers can do."""

    def update_config(self, config: dict[str, Any]) -> None:
        """Add to the settings of the run."""

    def log(self, key: str, value: Any, step: int) -> None:
        """Take a value of an epoch."""

    def log_summary(self, key: str, value: Any) -> None:
        """Take a value that belongs to no epoch."""


class TensorBoardLogger:
    """Writes what nnU-Net hands to its loggers as TensorBoard's events; the steps are epochs.

    An epoch's values wait until it ends. So a training that begins anew in the folder of an earlier one hides that
    one's curves when it also puts its checkpoints aside, and not before: until then `--c` continues the earlier one.

    Args:
        folder: of the events.
        epoch: with which the training begins or goes on.

    Raises:
        ValueError: tensorboard cannot be imported.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        require("torch.utils.tensorboard", "tensorboard", f"{SWITCH}=1", f"unset {SWITCH}")
        self._folder, self._epochs_done = folder, epoch
        self._waiting: dict[str, float] = {}
        self._writer: SummaryWriter | None = None

    def update_config(self, config: dict[str, Any]) -> None:
        """Do nothing: TensorBoard shows numbers, and nnU-Net's own files hold the settings."""

    def log(self, key: str, value: Any, step: int) -> None:
        """Keep a value until its epoch is over. Times are left out, as TensorBoard notes one with every value."""
        if not key.endswith("_timestamps"):
            self._waiting[f"nnunet/{key}"] = value
        elif key == "epoch_end_timestamps":
            self.write({}, step)

    def log_summary(self, key: str, value: Any) -> None:
        """Write a value after those of the last epoch."""
        self._write({f"nnunet/{key}": value}, self._epochs_done)

    def write(self, values: Mapping[str, float], epoch: int) -> None:
        """Write the values of an epoch, and those that wait."""
        waiting, self._waiting = self._waiting, {}
        self._epochs_done = epoch + 1
        self._write({**waiting, **values}, epoch)

    def _write(self, values: Mapping[str, float], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if not values:
            return
        try:
            if self._writer is None:
                # TensorBoard then shows nothing that an earlier process wrote of this step and those after it.
                self._writer = SummaryWriter(str(self._folder), purge_step=step)
                self._writer.add_custom_scalars(CHARTS)
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except Exception:
            self._writer = None  # it can no longer be used after, say, a full disk; the next epoch gets a new one
            raise


class Guard:
    """Calls what may fail. The first error is reported; none ends the training.

    Args:
        name: of what may fail, for the report.
        report: prints a line.
    """

    def __init__(self, name: str, report: Callable[[str], None]) -> None:
        self._name, self._report = name, report
        self._failed = False

    def __call__(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call the function."""
        try:
            function(*arguments)
        except Exception as error:
            if not self._failed:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self._report(
                    f"WARNING: {self._name} failed ({reason}). The training goes on; what is logged there may have "
                    "gaps. This warning is given once."
                )
            self._failed = True


class GuardedLogger:
    """A logger whose errors are reported once and end nothing."""

    def __init__(self, logger: Logger, report: Callable[[str], None]) -> None:
        self._logger = logger
        self._try = Guard(type(logger).__name__, report)

    def __getattr__(self, name: str) -> Any:
        """All else is the logger's own, such as W&B's `run`."""
        return getattr(self._logger, name)

    def update_config(self, config: dict[str, Any]) -> None:
        """Hand on."""
        self._try(self._logger.update_config, config)

    def log(self, key: str, value: Any, step: int) -> None:
        """Hand on."""
        self._try(self._logger.log, key, value, step)

    def log_summary(self, key: str, value: Any) -> None:
        """Hand on."""
        self._try(self._logger.log_summary, key, value)

    def log_constraints(self, values: Mapping[str, float], epoch: int) -> None:
        """Hand on what :func:`constraint_values` returned at the end of an epoch."""
        if isinstance(self._logger, TensorBoardLogger):
            self._try(self._logger.write, values, epoch)
            return
        for key, value in values.items():
            self.log(key, value, epoch)


def set_up_loggers(trainer: "NamedTrainer") -> None:
    """Add TensorBoard to nnU-Net's loggers if the user asked for it, and let none of them end the training.

    Raises:
        ValueError: the switch has another value than 0 or 1, or tensorboard cannot be imported.
    """
    loggers: list[Logger] = list(getattr(trainer.logger, "loggers", []))  # a trainer may bring a logger of its own
    if _tensorboard_is_on():
        tensorboard = TensorBoardLogger(Path(trainer.output_folder, FOLDER), trainer.current_epoch)
        if trainer.local_rank == 0:
            loggers.append(tensorboard)
    guarded = [GuardedLogger(logger, trainer.print_to_log_file) for logger in loggers]
    for logger in guarded:
        logger.update_config({"trainer": type(trainer).__name__})  # nnU-Net's own settings do not say
    trainer.logger.loggers = guarded


def log_constraints(trainer: "NamedTrainer", constraints: "Sequence[Constraint]") -> None:
    """Hand the constraints at the end of an epoch to all loggers that are on."""
    loggers: list[GuardedLogger] = trainer.logger.loggers
    if loggers:
        values = constraint_values(constraints)
        for logger in loggers:
            logger.log_constraints(values, trainer.current_epoch)


def require(module: str, install: str, wish: str, way_out: str) -> None:
    """Raise ValueError where a module that the user's `wish` needs cannot be imported."""
    try:
        importlib.import_module(module)
    except Exception as error:  # it is absent, or does not fit, say, the protobuf that is installed
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{wish} needs the package {install}, which cannot be imported ({reason}): pip install {install}, "
            f"or {way_out}"
        ) from error


def _tensorboard_is_on() -> bool:
    value = os.environ.get(SWITCH, "")
    if value.lower() not in ("", "0", "1", "false", "true"):  # as nnU-Net's own switch
        raise ValueError(f"{SWITCH} is {value!r}, but must be 1 (on) or 0 (off)")
    return value.lower() in ("1", "true")
