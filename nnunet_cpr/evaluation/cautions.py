"""What a comparison must not mix without a word: trained cases, other true labels, trainings of unequal length."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nnunet_cpr.evaluation.readers.fold_ensembles import FoldEnsemble
from nnunet_cpr.evaluation.readers.nnunet_results import Training, shortened
from nnunet_cpr.files import read_json
from nnunet_cpr.nnunet.paths import known_folder


def trained_with(trainings: Sequence[Training]) -> list[str]:
    """Name the validation cases that their own fold was trained with, by the split that is there now."""
    preprocessed = known_folder("nnUNet_preprocessed")
    if preprocessed is None:
        return []
    splits: dict[str, Any] = {}
    found: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for one in trainings:
        if isinstance(one, FoldEnsemble) or not one.fold.isdecimal():
            continue
        if one.dataset not in splits:
            splits[one.dataset] = _read(preprocessed / one.dataset / "splits_final.json")
        try:
            train = set(map(str, splits[one.dataset][int(one.fold)]["train"]))
        except (IndexError, KeyError, TypeError):  # no split, or a fold that nnU-Net makes itself
            continue
        if both := sorted(train & set(one.validated())):
            found.setdefault((one.dataset, one.fold, tuple(both)), []).append(one.run)
    return [
        f"{dataset}: fold {fold} was trained with {len(both)} of its validation cases ({shortened(list(both))}); their "
        f"values say nothing of new cases ({shortened(runs)})."
        for (dataset, fold, both), runs in found.items()
    ]


def other_references(trainings: Sequence[Training]) -> list[str]:
    """Name the cases of which two trainings of a dataset were validated against different true labels.

    nnU-Net's summary.json counts the voxels of each label, so nothing but that is read.
    """
    first: dict[tuple[str, str], tuple[npt.NDArray[np.float64], str]] = {}
    found: dict[tuple[str, str, str], list[str]] = {}
    for one in trainings:
        for case, sizes in _true_sizes(one).items():
            known, whose = first.setdefault((one.dataset, case), (sizes, one.run))
            if not np.array_equal(sizes, known):
                found.setdefault((one.dataset, one.run, whose), []).append(case)
    return [
        f"{dataset}: {run} and {other} were validated against different true labels of {shortened(sorted(cases))}; "
        "their values cannot be compared."
        for (dataset, run, other), cases in found.items()
    ]


def _true_sizes(training: Training) -> dict[str, npt.NDArray[np.float64]]:
    """Return how many voxels each label of the true segmentation has, of the cases of which all are known."""
    with suppress(ValueError):
        summary = training.summary()
        sizes = summary.true_voxels[:, np.argsort(summary.labels)]
        return {case: row for case, row in zip(summary.cases, sizes, strict=True) if not np.isnan(row).any()}
    return {}


def unequal_lengths(epochs: pd.DataFrame) -> list[str]:
    """Say where trainers of a dataset were trained for different numbers of optimizer steps."""
    said = []
    for dataset, part in epochs.groupby("dataset", sort=False):
        steps = part.groupby(["trainer", "run", "fold"], sort=False)["step"].max()
        lengths = {str(trainer): sorted(set(values)) for trainer, values in steps.groupby("trainer", sort=False)}
        if len({tuple(values) for values in lengths.values()}) > 1:
            named = [f"{trainer} {_range(values)}" for trainer, values in lengths.items()]
            said.append(f"{dataset}: the trainings are not equally long; optimizer steps: {'; '.join(named)}.")
    return said


def _range(steps: Sequence[float]) -> str:
    return f"{steps[0]:,.0f}" if len(steps) == 1 else f"{steps[0]:,.0f} to {steps[-1]:,.0f}"


def _read(path: Any) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return []
