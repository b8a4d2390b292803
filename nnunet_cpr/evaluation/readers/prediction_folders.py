"""Segmentations of any tool in plain folders: checked against the reference, Dice as nnU-Net computes it.

nnU-Net and torch are imported where they are used, because the command line imports this module.
"""

import os
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nnunet_cpr.evaluation.metrics import OF_COUNTS, of_counts
from nnunet_cpr.evaluation.readers.case_files import CaseFiles, Locate, image_beside
from nnunet_cpr.evaluation.readers.nnunet_results import stated_reader
from nnunet_cpr.evaluation.readers.segmentation_files import hidden_cases, list_cases, read_pair
from nnunet_cpr.evaluation.readers.spacings import spacing_files
from nnunet_cpr.evaluation.results import CASE_COLUMNS
from nnunet_cpr.labels import (
    FOREGROUND,
    Label,
    check_case_name,
    foreground_labels,
    ignore_label,
    name_of_value,
    read_dataset_json,
    value_of_name,
)
from nnunet_cpr.parallel import in_parallel

NAMES_IN_ERRORS = 5


def read_folders(
    reference: Path,
    predictions: dict[str, Path],
    dataset: str,
    num_processes: int,
    intersect: bool = False,
    counts: bool = False,
) -> pd.DataFrame:
    """Compute Dice of every case and label in folders of segmentations, as CASE_COLUMNS.

    Labels are those of the dataset.json (nnU-Net's or the Decathlon's) in the reference folder or its parent, by name,
    and whatever other value occurs in a reference, by number. Dice is NaN where label and prediction are both empty, as
    nnU-Net has it. With `counts` there are the metrics of voxel counts, too. With `intersect` the folders may have
    different cases; those with a reference are read.

    Raises:
        ValueError: folders or files that are missing, do not fit each other, or cannot be read; names them.
    """
    named, ignore = dataset_labels(reference)
    pairs = _pairs(reference, predictions, intersect)
    readers = {name: _reader(reference, folder) for name, folder in predictions.items()}
    tasks = [
        _DiceTask(*files, labels=tuple(named.values()), ignore=ignore, reader=readers[name]) for name, _, files in pairs
    ]
    found = list(in_parallel(_dice, tasks, num_processes, "Dice", name=attrgetter("prediction")))
    labels = _all_labels(named, ignore, found)
    if not labels:
        raise ValueError(f"the references in {reference} are all empty, and no dataset.json there names a label")
    rows = [
        # A label that occurs in neither file was not computed: it is what nnU-Net calls NaN.
        (dataset, name, 0, case, label, metric, dice.values.get(value, {}).get(metric, np.nan), name)
        for (name, case, _), dice in zip(pairs, found, strict=True)
        for label, value in labels.items()
        for metric in (("Dice", *OF_COUNTS) if counts else ("Dice",))
    ]
    return pd.DataFrame(rows, columns=CASE_COLUMNS).astype({"value": float})


def locate_in_folders(reference: Path, predictions: dict[str, Path], cases: pd.DataFrame) -> Locate:
    """Return what finds the files of the cases that :func:`read_folders` returned."""
    named, ignore = dataset_labels(reference)
    labels = {str(label): value_of_name(label, named) for label in cases["label"].unique() if label != FOREGROUND}
    references = list_cases(reference)
    files = {name: list_cases(folder) for name, folder in predictions.items()}
    readers = {name: _reader(reference, folder) for name, folder in predictions.items()}

    def locate(dataset: str, name: str, fold: int | str, case: str) -> CaseFiles:
        truth = references[case]
        return CaseFiles(
            dataset=dataset,
            trainer=name,
            run=name,
            fold=fold,
            case=case,
            reference=truth,
            prediction=files[name][case],
            labels=labels,
            reader=readers[name],
            spacing_files=spacing_files(truth),
            images=(image_beside(truth, case),),
            ignore=ignore,
        )

    return locate


def left_out(reference: Path, predictions: dict[str, Path]) -> list[str]:
    """Say which segmentations are left out because their names begin with a dot."""
    said = []
    for folder in dict.fromkeys([reference, *predictions.values()]):
        if hidden := [path.name for path in hidden_cases(folder)]:
            named = ", ".join(hidden[:NAMES_IN_ERRORS]) + (", ..." if len(hidden) > NAMES_IN_ERRORS else "")
            said.append(f"{folder}: files whose names begin with a dot are left out: {named}.")
    return said


def _reader(reference: Path, predictions: Path) -> str | None:
    """Return the name of nnU-Net's reader, which it also writes beside its predictions, None where no file says it."""
    return stated_reader(predictions, reference, reference.parent)


def dataset_labels(reference: Path) -> tuple[dict[str, Label], int | None]:
    """Return the labels or regions by name, and the ignore label, from a dataset.json in or above `reference`.

    Without a dataset.json nothing is named.
    """
    folder = Path(os.path.abspath(reference))  # so that "." has a parent
    for path in (folder / "dataset.json", folder.parent / "dataset.json"):
        if path.is_file():
            try:
                content = read_dataset_json(path)
                return foreground_labels(content), ignore_label(content)
            except KeyError as error:
                raise ValueError(f"{path} has no key {error}; add it, or move the file away") from error
            except (OSError, ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} cannot be read as a dataset.json ({error})") from error
    return {}, None


@dataclass(frozen=True)
class _DiceTask:
    reference: Path
    prediction: Path
    labels: tuple[Label, ...]
    ignore: int | None
    reader: str | None


@dataclass(frozen=True)
class _Dice:
    """Dice of the labels that were asked for or occur in the files, and what occurs where."""

    values: dict[Label, dict[str, float]]
    in_reference: list[int]
    in_prediction: list[int]
    prediction: Path


class _AlreadyRead:
    """Gives segmentations that have been read to nnU-Net, so that it does not read them again."""

    def __init__(self, **segmentations: npt.NDArray[np.uint16]) -> None:
        self._segmentations = segmentations

    def read_seg(self, name: str) -> tuple[npt.NDArray[np.uint16], dict[str, Any]]:
        return self._segmentations[name], {}


def _dice(task: _DiceTask) -> _Dice:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics

    pair = read_pair(task.reference, task.prediction, task.reader, spacing_files(task.reference)).without_border()
    reference, prediction = pair.reference, pair.prediction
    in_reference, in_prediction = _foreground(reference), _foreground(prediction)
    labels = list(dict.fromkeys([*task.labels, *in_reference, *in_prediction]))
    reader = _AlreadyRead(reference=reference, prediction=prediction)
    metrics = compute_metrics("reference", "prediction", reader, labels, task.ignore)["metrics"]
    values = {label: {"Dice": float(metrics[label]["Dice"])} | of_counts(metrics[label]) for label in labels}
    return _Dice(values, in_reference, in_prediction, task.prediction)


def _foreground(segmentation: npt.NDArray[np.uint16]) -> list[int]:
    present = np.zeros(np.iinfo(segmentation.dtype).max + 1, dtype=bool)
    for plane in segmentation:  # one by one, because indices take 8 bytes a voxel
        present[plane] = True
    return [int(value) for value in np.flatnonzero(present) if value != 0]


def _all_labels(named: dict[str, Label], ignore: int | None, found: list[_Dice]) -> dict[str, Label]:
    """Return the labels by name: those of dataset.json, then values of references that it does not name.

    Raises:
        ValueError: a prediction holds a value that no reference and no dataset.json has.
    """
    known = {value for label in named.values() for value in (label if isinstance(label, tuple) else (label,))}
    if ignore is not None:
        known.add(ignore)
    unnamed = sorted({value for dice in found for value in dice.in_reference} - known)
    for dice in found:
        if strange := [value for value in dice.in_prediction if value not in known and value not in unnamed]:
            raise ValueError(f"{dice.prediction} holds the label {strange[0]}, which no reference has")
    return named | {name_of_value(value, named): value for value in unnamed}


def _pairs(reference: Path, predictions: dict[str, Path], intersect: bool) -> list[tuple[str, str, tuple[Path, Path]]]:
    """Return (name of the prediction, case, (reference file, prediction file)) for every prediction and case."""
    references = list_cases(reference)
    for case in references:
        check_case_name(case, reference)
    pairs = []
    for name, folder in predictions.items():
        files = list_cases(folder)
        if not intersect:
            _check_none_lacks(folder, references, files, "predictions")
            _check_none_lacks(reference, files, references, "references")
        common = [case for case in references if case in files]
        if not common:
            raise ValueError(f"{folder} and {reference} have no case in common")
        pairs += [(name, case, (references[case], files[case])) for case in common]
    return pairs


def _check_none_lacks(folder: Path, needed: dict[str, Path], present: dict[str, Path], what: str) -> None:
    if lacking := [path.name for case, path in needed.items() if case not in present]:
        some = ", ".join(lacking[:NAMES_IN_ERRORS]) + (", ..." if len(lacking) > NAMES_IN_ERRORS else "")
        raise ValueError(f"{folder} lacks {len(lacking)} of {len(needed)} {what}: {some}")
