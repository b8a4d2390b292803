"""Where the segmentations, the reference and the image of a case are, for nnU-Net's trainings and for plain folders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from nnunet_cpr.evaluation.nnunet_results import Training
from nnunet_cpr.labels import Label


@dataclass(frozen=True)
class CaseFiles:
    """A segmentation of a case, its reference and image."""

    reference: Path
    prediction: Path
    images: Sequence[Path]
    """Where the image may be."""
    labels: dict[str, Label]
    ignore: int | None
    reader: str | None = None
    """nnU-Net's reader of these files, if its name is known."""
    spacing_files: Sequence[Path] = ()
    """Where the spacing of a TIFF volume may be."""


Locate = Callable[[str, str, str, str], CaseFiles]
"""Files of a case from dataset, run, fold and case."""


def in_trainings(trainings: Sequence[Training]) -> Locate:
    """Return what finds the files of nnU-Net's validation cases."""
    by_name = {(t.dataset, t.run, t.fold): t for t in trainings}

    @cache
    def located(training: Training) -> dict[str, tuple[Path, Path]]:
        return training.locate()

    def locate(dataset: str, run: str, fold: str, case: str) -> CaseFiles:
        training = by_name[dataset, run, fold]
        reference, prediction = located(training)[case]
        images = [path for path in (training.image(case),) if path] + _beside(reference, case)
        labels, ignore, places = training.labels(), training.ignore_label, training.spacing_files(reference)
        return CaseFiles(reference, prediction, images, labels, ignore, training.reader, places)

    return locate


def in_folders(reference: Path, predictions: dict[str, Path], cases: pd.DataFrame) -> Locate:
    """Return what finds the files of plain folders, whose cases :func:`read_folders` returned."""
    from nnunet_cpr.evaluation import folders

    _, ignore = folders.dataset_labels(reference)

    def locate(dataset: str, run: str, fold: str, case: str) -> CaseFiles:
        rows = cases[(cases["run"] == run) & (cases["case"] == case)]
        (task,) = folders.surface_tasks(reference, predictions, rows)
        images = _beside(task.reference, case)
        return CaseFiles(task.reference, task.prediction, images, task.labels, ignore, task.reader, task.spacing_files)

    return locate


def _beside(reference: Path, case: str) -> list[Path]:
    """Where nnU-Net's layout has the image of a reference: labelsTs/case.nii.gz, imagesTs/case_0000.nii.gz."""
    name = reference.parent.name
    ending = reference.name.removeprefix(case)
    return [reference.parent.with_name(name.replace("labels", "images")) / f"{case}_0000{ending}"]
