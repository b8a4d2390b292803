"""Lesion-wise metrics of labels that come in several pieces, such as tumors and metastases.

Lesions are the connected components of a label (26 neighbors in space, 8 in a plane; connected-components-3d). Which
predicted lesions belong to which true one, a rule decides:

- `overlap`: those that share a voxel with it.
- `brats`: that of BraTS 2023 for adult glioma (github.com/rachitsaluja/BraTS-2023-Metrics). True lesions that touch
  after a dilation by 3 voxels (18 neighbors) are one; to each belong the predicted ones that touch it when it is
  dilated so. True lesions of 50 mm3 or less do not count, but what touches them is no false lesion either.

A true lesion without any predicted one is missed, a predicted lesion without any true one is false. With the numbers of
true lesions that are found and missed, and of false ones:

- Lesion sensitivity: found / (found + missed). NaN without true lesions.
- Lesion F1: 2 found / (2 found + missed + false).
- Lesion Dice: the sum over found lesions of the Dice of lesion and all that belongs to it, over found + missed + false.

F1 and Dice are NaN only where there are neither true nor predicted lesions that count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage

from nnunet_cpr.evaluation.readers.case_files import CaseFiles
from nnunet_cpr.evaluation.readers.segmentation_files import read_pair
from nnunet_cpr.evaluation.results import CASE_COLUMNS
from nnunet_cpr.parallel import in_parallel

METRICS = ("Lesion F1", "Lesion sensitivity", "Lesion Dice")
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """How lesions are matched: dilation in voxels, and the size in mm3 up to which true lesions do not count."""

    dilation: int = 0
    smallest: float = 0.0


RULES = {"overlap": Rule(), "brats": Rule(3, 50.0)}


def lesion_metrics(tasks: Sequence[CaseFiles], labels: Sequence[str], rule: str, num_processes: int) -> pd.DataFrame:
    """Compute METRICS of the named labels of every task, as CASE_COLUMNS.

    Raises:
        ValueError: there is no such label, or a file is missing, cannot be read or does not fit its reference.
    """
    for task in tasks:
        if unknown := [label for label in labels if label not in task.labels]:
            raise ValueError(
                f"{task.dataset} has no label {unknown[0]} for lesions; there are {', '.join(task.labels)}"
            )
    wanted = [replace(task, labels={label: task.labels[label] for label in labels}) for task in tasks]
    measure = partial(_measure, rule=RULES[rule])
    found = in_parallel(measure, wanted, num_processes, "lesions", name=attrgetter("prediction"))
    rows = [
        (task.dataset, task.trainer, task.fold, task.case, label, metric, value, task.run)
        for task, of_labels in zip(wanted, found, strict=True)
        for label, values in of_labels.items()
        for metric, value in values.items()
    ]
    return pd.DataFrame(rows, columns=CASE_COLUMNS).astype({"value": float})


def compare_lesions(
    reference: Mask, prediction: Mask, spacing: Sequence[float] | None = None, rule: Rule = RULES["overlap"]
) -> dict[str, float]:
    """Return METRICS of two masks of the same shape, plane or in space, with the voxels' spacing in mm (None: 1)."""
    true, predicted = _merged(reference, rule.dilation), _components(prediction)
    voxel = math.prod(spacing) if spacing else 1.0
    sizes, predicted_sizes = np.bincount(true.ravel()), np.bincount(predicted.ravel())
    found = missed = 0
    overlaps, matched = 0.0, set[int]()
    for number, where in enumerate(_boxes(true, rule.dilation), 1):
        lesion = true[where] == number
        reach = ndimage.binary_dilation(lesion, _around(lesion.ndim), rule.dilation) if rule.dilation else lesion
        belonging = set(np.unique(predicted[where][reach]).tolist()) - {0}
        matched |= belonging
        if sizes[number] * voxel <= rule.smallest:
            continue
        if not belonging:
            missed += 1
            continue
        found += 1
        both = np.isin(predicted[where][lesion], list(belonging)).sum()
        overlaps += float(2 * both / (predicted_sizes[list(belonging)].sum() + sizes[number]))
    false = int(predicted.max(initial=0)) - len(matched)
    total = found + missed + false
    return {
        "Lesion F1": 2 * found / (found + total) if total else math.nan,
        "Lesion sensitivity": found / (found + missed) if found + missed else math.nan,
        "Lesion Dice": overlaps / total if total else math.nan,
    }


def _measure(task: CaseFiles, rule: Rule) -> dict[str, dict[str, float]]:
    pair = read_pair(task.reference, task.prediction, task.reader, task.spacing_files).without_border()
    return {
        name: compare_lesions(np.isin(pair.reference, label), np.isin(pair.prediction, label), pair.spacing, rule)
        for name, label in task.labels.items()
    }


def _components(mask: Mask) -> npt.NDArray[np.integer]:
    import cc3d

    return np.asarray(cc3d.connected_components(mask, connectivity=8 if mask.ndim == 2 else 26))


def _merged(mask: Mask, dilation: int) -> npt.NDArray[np.integer]:
    """Return the components, of which those are one that touch after the dilation."""
    if not dilation:
        return _components(mask)
    grown = _components(ndimage.binary_dilation(mask, _around(mask.ndim), dilation))
    return np.where(mask, grown, 0)


def _around(dimensions: int) -> Mask:
    return np.asarray(ndimage.generate_binary_structure(dimensions, 2))


def _boxes(components: npt.NDArray[np.integer], margin: int) -> list[tuple[slice, ...]]:
    """Return where each component and its surroundings are, by number."""
    return [
        tuple(slice(max(0, one.start - margin), one.stop + margin) for one in box)
        for box in ndimage.find_objects(components)
        if box is not None
    ]
