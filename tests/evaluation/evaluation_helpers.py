"""Case tables, segmentations and folders of nnU-Net's results, made by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK

from nnunet_cpr.evaluation.results import CASE_COLUMNS

SPACING = (0.7, 0.8, 2.5)  # x, y, z
Epoch = tuple[float, float, list[float], float]
"""Training loss, validation loss, pseudo Dice of each label, seconds."""


def noise(seed: int, labels: int = 3, shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    array: np.ndarray = np.random.default_rng(seed).integers(0, labels + 1, shape).astype(np.uint8)
    return array


def write_segmentation(
    path: Path, array: np.ndarray, spacing: Sequence[float] = SPACING, origin: Sequence[float] = (3.0, -4.0, 5.0),
    direction: Sequence[float] | None = None,
) -> Path:  # fmt: skip
    """An array (z, y, x) as SimpleITK writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing[: array.ndim])
    image.SetOrigin(origin[: array.ndim])
    if direction is not None:
        image.SetDirection(direction)
    SimpleITK.WriteImage(image, str(path), True)
    return path


def frame(
    dataset: str = "D", metric: str = "Dice", fold: str = "0", **trainers: dict[str, dict[str, float]]
) -> pd.DataFrame:
    """Case rows from trainer={case: {label: value}}."""
    rows = [
        (dataset, trainer, fold, case, label, metric, value, trainer)
        for trainer, cases in trainers.items()
        for case, labels in cases.items()
        for label, value in labels.items()
    ]
    return pd.DataFrame(rows, columns=CASE_COLUMNS)


def write_training(
    results: Path,
    trainer: str,
    fold: int,
    cases: dict[str, dict[str, float]],
    labels: dict[str, Any],
    dataset: str = "Dataset004_Tiny",
) -> Path:
    """A fold's folder as nnU-Net leaves it, with Dice per case as {case: {key of the label: Dice}}."""
    model = results / dataset / f"{trainer}__nnUNetPlans__3d_fullres"
    folder = model / f"fold_{fold}"
    validation = folder / "validation"
    validation.mkdir(parents=True)
    (model / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    per_case = [
        {
            "metrics": {key: {"Dice": dice, "IoU": 0.5} for key, dice in values.items()},
            "prediction_file": f"/elsewhere/validation/{case}.nii.gz",
            "reference_file": f"/elsewhere/gt/{case}.nii.gz",
        }
        for case, values in cases.items()
    ]
    (validation / "summary.json").write_text(json.dumps({"metric_per_case": per_case}))
    return folder


def log_lines(epoch: int, train: float, validation: float, dice: list[float], seconds: float) -> str:
    """What nnU-Net writes of an epoch into its log; its code, but for the values."""
    lines = [
        "",
        f"Epoch {epoch}",
        "Current learning rate: 0.01",
        f"train_loss {np.round(train, decimals=4)}",
        f"val_loss {np.round(validation, decimals=4)}",
        f"Pseudo dice {[np.round(i, decimals=4) for i in dice]}",
        f"Epoch time: {np.round(seconds, decimals=2)} s",
    ]
    return "".join(f"2026-11-23 13:40:44.339281: {line} \n" for line in lines)


def write_log(
    fold: Path,
    epochs: dict[int, Epoch],
    name: str = "training_log_2026_11_23_13_39_25.txt",
) -> None:
    """A log of epochs as {epoch: (training loss, validation loss, [pseudo Dice], seconds)}."""
    (fold / name).write_text("".join(log_lines(epoch, *values) for epoch, values in epochs.items()))


def write_trace(fold: Path, epochs: dict[int, dict[str, tuple[float, float, float]]], steps: int = 250) -> None:
    """A CPR trace as {epoch: {tensor: (R, kappa, lambda)}}."""
    rows = [(e, steps * (e + 1), t, *values) for e, tensors in epochs.items() for t, values in tensors.items()]
    frame = pd.DataFrame(rows, columns=["epoch", "step", "tensor", "reg", "kappa", "lagmul"])
    frame.to_csv(fold / "cpr_trace.csv", index=False)
