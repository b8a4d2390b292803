"""What nnU-Net's text logs say of every epoch: losses, pseudo Dice and time.

The checkpoints hold the same values, but in hundreds of megabytes that only torch can read.
"""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from nnunet_cpr.evaluation.readers.nnunet_results import Training, name_trainings
from nnunet_cpr.evaluation.results import EPOCH_COLUMNS
from nnunet_cpr.files import read_json
from nnunet_cpr.training.settings import NNUNET_ITERATIONS, parse

VALUES = ["train_loss", "validation_loss", "pseudo_dice", "seconds"]
EPOCH = re.compile(r": Epoch (\d{1,9})(?!\d)")
_VALUE = re.compile(r": (?:train_loss (?P<train>\S+)|val_loss (?P<val>\S+)|Pseudo dice (?P<dice>\[.*\]))")
_TIME = re.compile(r": Epoch time: (\d{1,9}(?:\.\d*)?) s")
_MOST_STEPS = 10**9
"""Of an epoch; more is damage."""


def read_logs(trainings: Sequence[Training]) -> tuple[pd.DataFrame, list[str]]:
    """Return EPOCH_COLUMNS, a row an epoch, and sentences on trainings whose logs are missing or incomplete.

    `step` counts the optimizer steps done by the end of the epoch, `pseudo_dice` is the mean over labels. A value
    that a log lacks is NaN.
    """
    frames, without, incomplete = [], [], []
    for training in trainings:
        log = read_log(training.folder)
        if log.empty:
            without.append(training)
            continue
        if log["epoch"].max() + 1 > len(log):
            incomplete.append(training)
        step = (log["epoch"] + 1) * steps_per_epoch(training.run.partition(":")[0], training.folder)
        named = {"dataset": training.dataset, "trainer": training.trainer, "run": training.run, "fold": training.fold}
        frames.append(log.assign(step=step, **named)[EPOCH_COLUMNS])
    left_out = [f"Left out, because there is no log: {name_trainings(without)}."] if without else []
    left_out += [f"The logs lack epochs: {name_trainings(incomplete)}."] if incomplete else []
    return (pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=EPOCH_COLUMNS)), left_out


def read_log(folder: Path) -> pd.DataFrame:
    """Return epoch and VALUES of the finished epochs in the logs of a fold's folder."""
    epochs: dict[int, dict[str, float]] = {}
    # A resumed training has several logs; an epoch that was done again counts once, as it was last.
    for path in sorted(filter(Path.is_file, folder.glob("training_log_*.txt")), key=_written):
        epoch, values = None, dict[str, float]()
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if found := EPOCH.search(line):
                epoch, values = int(found[1]), {}
            elif found := _VALUE.search(line):
                values |= _read_value(found)
            elif epoch is not None and (found := _TIME.search(line)):
                epochs[epoch] = {**values, "seconds": float(found[1])}
    rows = [{"epoch": epoch, **epochs[epoch]} for epoch in sorted(epochs)]
    return pd.DataFrame(rows, columns=["epoch", *VALUES]).astype({"epoch": int} | dict.fromkeys(VALUES, float))


def read_pseudo_dice(text: str) -> list[float]:
    """Return the labels' values of the list in a log, which NumPy 2 writes as `[np.float32(0.5), ...]`."""
    inner = text.strip().strip("[]")
    return [float(value) for value in re.findall(r"float\d*\(([^)]*)\)", inner) or inner.split(",") if value.strip()]


def read_cost(logs: pd.DataFrame) -> pd.DataFrame:
    """Return epochs, median seconds per epoch and total training hours of each training of :func:`read_logs`."""
    seconds = logs.groupby(["dataset", "trainer", "run", "fold"], sort=False)["seconds"]
    cost = seconds.agg(epochs="count", seconds_per_epoch="median", total_hours=lambda epochs: epochs.sum() / 3600)
    return cost.reset_index()


def steps_per_epoch(run: str, folder: Path) -> int:
    """Return the optimizer steps of an epoch, from the debug.json that nnU-Net writes, else from our trainers' names.

    Without either they are nnU-Net's 250.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        steps = int(read_json(folder / "debug.json")["num_iterations_per_epoch"])
        if 0 < steps <= _MOST_STEPS:
            return steps
    with suppress(ValueError):
        return parse(run).iterations or NNUNET_ITERATIONS
    return NNUNET_ITERATIONS


def _read_value(found: re.Match[str]) -> dict[str, float]:
    try:
        if found["dice"]:
            known = [value for value in read_pseudo_dice(found["dice"]) if not math.isnan(value)]
            return {"pseudo_dice": sum(known) / len(known)} if known else {}
        return {"train_loss": float(found["train"])} if found["train"] else {"validation_loss": float(found["val"])}
    except ValueError:  # a line that was cut off
        return {}


def _written(log: Path) -> list[int]:
    """Return the time in a log's name, whose numbers nnU-Net does not pad."""
    return [int(number) for number in re.findall(r"\d+", log.name)]
