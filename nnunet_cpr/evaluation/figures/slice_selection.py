"""The cases that are shown as pictures: which ones, and of each the slice that tells most.

For every dataset: the case with the lowest Dice of all, and for every trainer those that lost and gained most against
the baseline (foreground mean). The baseline is shown beside the trainer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nnunet_cpr.evaluation import formatting as numbers
from nnunet_cpr.evaluation.metrics import METRICS
from nnunet_cpr.evaluation.readers.case_files import CaseFiles, Locate
from nnunet_cpr.evaluation.readers.spacings import reference_spacing
from nnunet_cpr.evaluation.readers.volumes import Volume, open_image, open_segmentation
from nnunet_cpr.evaluation.results import FOREGROUND, CaseSlice, SlicedSegmentation
from nnunet_cpr.evaluation.statistics import snap
from nnunet_cpr.labels import Label

METRIC = "Dice"
MOST_PICTURES = 24
"""Of a whole report, shared by its datasets: a picture takes seconds and some 200 kB."""
LABELS_NAMED = 3
PIXELS = 256
"""Larger slices are drawn at half, a third... of their resolution."""
MARGIN = 0.15
"""Of the structures' extent, left around them."""


@dataclass
class Choice:
    """A case to show: the baseline's segmentation and a trainer's."""

    dataset: str
    case: str
    trainers: tuple[str, str]
    reasons: list[str]
    against_reference: str | None
    """The trainer whose worst slice is shown; None: the slice where both segmentations differ most."""


def read_slices(
    cases: pd.DataFrame, extremes: pd.DataFrame, baseline: str, locate: Locate
) -> tuple[list[CaseSlice], list[str]]:
    """Return a slice of every case that is to be shown, and sentences on those that cannot be."""
    dice = cases[cases["metric"] == METRIC]
    slices, left_out = [], []
    for dataset, of_dataset in dice.groupby("dataset", sort=False):
        most = max(1, MOST_PICTURES // dice["dataset"].nunique())
        chosen = choose(of_dataset, extremes[extremes["metric"] == METRIC], baseline)
        if len(chosen) > most:
            left_out.append(
                f"{dataset}: {most} of {numbers.plural(len(chosen), 'picture')} drawn, to keep the page small."
            )
        reasons = []
        for choice in chosen[:most]:
            try:
                slices.append(_read(choice, of_dataset[of_dataset["case"] == choice.case], locate))
            except Exception as error:  # each library behind nnU-Net's readers has its own
                reasons.append(f"{choice.case} ({' '.join(str(error).split()) or type(error).__name__})")
        if reasons:
            count = f"{len(reasons)} of {numbers.plural(len(chosen[:most]), 'picture')}"
            more = ", for instance" if len(reasons) > 1 else ""
            left_out.append(f"{dataset}: {count} left out, for files that cannot be read{more}: {reasons[0]}.")
    return slices, left_out


def choose(dice: pd.DataFrame, extremes: pd.DataFrame, baseline: str) -> list[Choice]:
    """Return the cases of one dataset to show, the worst one first; a case that is chosen twice is shown once."""
    dataset = str(dice["dataset"].iloc[0])
    foreground = dice[dice["label"] == FOREGROUND]
    values = foreground.groupby(["case", "trainer"], sort=False)["value"].mean().dropna()
    if values.empty:
        return []
    values[:] = snap(values.to_numpy(), METRICS[METRIC].rounding)
    case, worst = values.idxmin()
    others = [name for name in dice["trainer"].unique() if name != baseline]
    value = numbers.value(values.min(), METRIC)
    reason = f"lowest {METRIC} of all ({worst}, {value})"
    chosen = [Choice(dataset, case, (baseline, others[0] if worst == baseline else worst), [reason], worst)]
    for trainer in others:
        rows = extremes[(extremes["dataset"] == dataset) & (extremes["trainer"] == trainer)]
        changes = rows.set_index("case")["difference"]
        for word, changed in (
            ("lost", changes[changes < 0].nsmallest(1)),
            ("gained", changes[changes > 0].nlargest(1)),
        ):
            for case, change in changed.items():
                reason = f"{word} most with {trainer} ({numbers.difference(change, METRIC)})"
                same = [one for one in chosen if (one.case, one.trainers) == (case, (baseline, trainer))]
                if same:
                    same[0].reasons.append(reason)
                else:
                    chosen.append(Choice(dataset, str(case), (baseline, trainer), [reason], None))
    return chosen


def _read(choice: Choice, dice: pd.DataFrame, locate: Locate) -> CaseSlice:
    runs = [_typical_run(dice, trainer) for trainer in choice.trainers]
    files = [locate(choice.dataset, run["run"], run["fold"], choice.case) for run in runs]
    first = files[0]
    spacing = reference_spacing(first.reference, first.prediction, first.reader, first.spacing_files)
    truth = open_segmentation(first.reference, first.reader, spacing)
    predictions = [open_segmentation(one.prediction, one.reader) for one in files]
    for one, prediction in zip(files, predictions, strict=True):
        if prediction.shape != truth.shape:
            raise ValueError(f"{one.prediction} has the size {prediction.shape}, its reference {truth.shape}")
    axis = truth.best_axis()
    index, where = _telling_slice(choice, truth, predictions, axis, first.ignore)
    last = truth.shape[axis] - 1
    planes = [volume.plane(axis, index) for volume in (truth, *predictions)]
    image = _image(first, truth, axis, index)
    window, step = _window(planes, list(first.labels.values()), truth.aspect(axis))
    several = dice.groupby("trainer")["run"].nunique() > 1
    reference, *shown = [plane[window][::step, ::step] for plane in planes]
    return CaseSlice(
        dataset=choice.dataset,
        case=choice.case,
        reasons=choice.reasons,
        position=f"{truth.plane_name(axis).capitalize()} slice {index} of 0 to {last}, {where}."
        if last
        else "Plane image.",
        changes=_changes(dice, choice.trainers),
        image=None if image is None else _shrink(image[window], step),
        reference=reference,
        segmentations=[
            SlicedSegmentation(trainer, run["run"] if several[trainer] else None, run["value"], plane)
            for trainer, run, plane in zip(choice.trainers, runs, shown, strict=True)
        ],
        labels=first.labels,
        aspect=truth.aspect(axis),
    )


def _typical_run(dice: pd.DataFrame, trainer: str) -> Any:
    """The row of the run whose foreground mean is nearest to the mean of the trainer's runs."""
    rows = dice[(dice["trainer"] == trainer) & (dice["label"] == FOREGROUND)]
    distances = (rows["value"] - rows["value"].mean()).abs().fillna(2.0)  # more than any Dice is away
    return rows.iloc[snap(distances.to_numpy(), METRICS[METRIC].rounding).argmin()]  # two runs are always equally near


def _telling_slice(
    choice: Choice, truth: Volume, predictions: Sequence[Volume], axis: int, ignore: int | None
) -> tuple[int, str]:
    """The slice with most differing voxels, and what differs there."""
    reference = truth.labels()
    if choice.against_reference is None:
        differ = predictions[0].labels() != predictions[1].labels()
        where = "where the two segmentations differ most"
    else:
        differ = predictions[choice.trainers.index(choice.against_reference)].labels() != reference
        where = f"where {choice.against_reference} differs most from the reference"
    if ignore is not None:
        differ &= reference != ignore
    if not differ.any():
        differ, where = reference != 0, "the one with most foreground"
    counts = differ.sum(axis=tuple(other for other in range(3) if other != axis))
    return int(counts.argmax()), where


def _image(files: CaseFiles, truth: Volume, axis: int, index: int) -> npt.NDArray[Any] | None:
    path = next((path for path in files.images if path.is_file()), None)
    if path is None:
        return None
    image = open_image(path, files.reader)
    if image.shape != truth.shape:
        raise ValueError(f"{path} has the size {image.shape}, its reference {truth.shape}")
    return image.plane(axis, index).astype(float)


def _window(planes: Sequence[npt.NDArray[Any]], labels: list[Label], aspect: float) -> tuple[tuple[slice, slice], int]:
    """A square (in mm) around the structures, as far as the plane reaches, and the step that makes it small enough."""
    structures = np.any([np.isin(plane, label) for plane in planes for label in labels], axis=0)
    if not structures.any():
        structures = np.ones_like(structures)
    rows, columns = (np.flatnonzero(structures.any(axis=axis)) for axis in (1, 0))
    side = max(len(range(rows[0], rows[-1] + 1)) * aspect, len(range(columns[0], columns[-1] + 1))) * (1 + 2 * MARGIN)
    window = []
    for found, size, half in ((rows, structures.shape[0], side / aspect / 2), (columns, structures.shape[1], side / 2)):
        middle = (found[0] + found[-1] + 1) / 2
        window.append(slice(max(0, int(middle - half - 1)), min(size, int(middle + half + 2))))
    largest = max(one.stop - one.start for one in window)
    return (window[0], window[1]), -(-largest // PIXELS)


def _shrink(image: npt.NDArray[Any], step: int) -> npt.NDArray[Any]:
    """Average step x step pixels; the last ones may be fewer."""
    for axis, size in enumerate(image.shape):
        starts = np.arange(0, size, step)
        counts = np.diff([*starts, size])
        image = np.add.reduceat(image, starts, axis=axis) / (counts[:, None] if axis == 0 else counts)
    return image


def _changes(dice: pd.DataFrame, trainers: tuple[str, str]) -> str:
    """Say which labels' Dice differs most between the two trainers."""
    labels = dice[dice["label"] != FOREGROUND]
    means = labels.groupby(["label", "trainer"], sort=False)["value"].mean().unstack()[list(trainers)].dropna()
    if means.empty:
        return ""
    order = means.diff(axis=1)[trainers[1]].abs().sort_values(ascending=False, kind="stable").index[:LABELS_NAMED]
    said = [f"{label} {' and '.join(numbers.value(value, METRIC) for value in means.loc[label])}" for label in order]
    which = " of the labels that differ most" if len(order) < len(means) else ""
    return f"{METRIC}{which}, {trainers[0]} and {trainers[1]}: {', '.join(said)}."
