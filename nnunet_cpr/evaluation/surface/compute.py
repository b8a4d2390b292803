"""Surface metrics of many cases, in several processes. What was computed before is taken from the cache."""

import math
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from nnunet_cpr.evaluation.readers import nnunet_readers as readers
from nnunet_cpr.evaluation.readers import spacings
from nnunet_cpr.evaluation.readers.case_files import CaseFiles
from nnunet_cpr.evaluation.readers.segmentation_files import read_pair
from nnunet_cpr.evaluation.results import CASE_COLUMNS
from nnunet_cpr.evaluation.surface.cache import CACHE_FILE, Cache, Hashes, Values, inputs_of
from nnunet_cpr.evaluation.surface.distances import METRICS, Mask, bounding_box, surface_distances
from nnunet_cpr.files import remove_leftovers
from nnunet_cpr.parallel import in_parallel


def surface_metrics(tasks: list[CaseFiles], tolerance_mm: float, num_processes: int) -> pd.DataFrame:
    """Compute NSD at a tolerance (mm), HD95 and MASD (mm) of every task and label, as CASE_COLUMNS.

    Results are kept in CACHE_FILE beside the predictions and taken from there where neither the files nor what is asked
    have changed. Each process reads two volumes, which is what needs most memory.

    Raises:
        ValueError: MONAI is not installed, or a file is missing, cannot be read or does not fit its reference.
    """
    for folder in {task.prediction.parent for task in tasks}:
        remove_leftovers(folder, {CACHE_FILE})
    cache, hashes = Cache(), Hashes()
    inputs = [inputs_of(task, tolerance_mm, hashes) for task in tasks]
    results = [cache.get(task, asked) for task, asked in zip(tasks, inputs, strict=True)]
    missing = [index for index, values in enumerate(results) if values is None]
    measured = in_parallel(
        partial(_measure, tolerance_mm=tolerance_mm),
        [tasks[index] for index in missing],
        num_processes,
        "surfaces",
        _use_one_thread,
        attrgetter("prediction"),
    )
    try:
        for index, values in zip(missing, measured, strict=True):
            results[index] = values
            cache.put(tasks[index], inputs[index], values)
    finally:
        cache.save()
    rows = [
        (task.dataset, task.trainer, task.fold, task.case, label, metric, values[label][metric], task.run)
        for task, values in zip(tasks, results, strict=True)
        if values is not None
        for label in task.labels
        for metric in METRICS
    ]
    return pd.DataFrame(rows, columns=CASE_COLUMNS).astype({"value": float})


def spacing_cautions(tasks: list[CaseFiles]) -> list[str]:
    """Say whose distances are not what they seem, because of the spacing in the references' headers.

    Raises:
        ValueError: a reference has no spacing, or its file cannot be read.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    for reference, task in {task.reference: task for task in tasks}.items():
        if readers.nibabel_reads(reference, task.reader):
            caution = spacings.nifti_caution(reference)
        else:
            known = readers.knows_place(reference) or readers.takes_json_spacing(reference, task.reader)
            caution = "" if known else "is of a format without spacing; its distances are in pixels, not in mm"
        if caution:
            found.setdefault((task.dataset, caution), []).append(reference)
    said = []
    for (dataset, caution), paths in found.items():
        others = f" (and {len(paths) - 1} more like it)" if len(paths) > 1 else ""
        said.append(f"{dataset}: the reference {paths[0]}{others} {caution}.")
    return said


def _measure(task: CaseFiles, tolerance_mm: float) -> Values:
    masks, spacing = _packed_masks(task)  # the volumes are forgotten, because MONAI needs the memory
    return {
        name: surface_distances(_unpacked(reference), _unpacked(prediction), spacing, tolerance_mm)
        for name, (reference, prediction) in masks.items()
    }


class _PackedMask(NamedTuple):
    """A mask as bits, and its shape."""

    bits: npt.NDArray[np.uint8]
    shape: tuple[int, ...]


def _packed_masks(task: CaseFiles) -> tuple[dict[str, tuple[_PackedMask, _PackedMask]], list[float]]:
    """Return reference and prediction of each label, within the box of both, and their spacing in mm."""
    pair = read_pair(task.reference, task.prediction, task.reader, task.spacing_files)
    spacing = list(pair.spacing or ())
    if not spacing:
        if readers.takes_json_spacing(task.reference, task.reader):
            raise ValueError(spacings.no_spacing(task.reference))
        spacing = [1.0, 1.0, 1.0]
    flat = pair.reference.shape.index(1) if 1 in pair.reference.shape else None
    pair = pair.without_border()
    reference, prediction = pair.reference, pair.prediction
    if flat is not None:
        # In space, every voxel of a single slice would lie on the surface.
        reference, prediction = reference.squeeze(flat), prediction.squeeze(flat)
        del spacing[flat]
    found = {}
    for name, label in task.labels.items():
        masks = np.isin(reference, label), np.isin(prediction, label)
        box = bounding_box(masks[0] | masks[1])
        found[name] = _packed(masks[0][box]), _packed(masks[1][box])
    return found, spacing


def _packed(mask: Mask) -> _PackedMask:
    return _PackedMask(np.packbits(mask), mask.shape)


def _unpacked(mask: _PackedMask) -> Mask:
    bits = np.unpackbits(mask.bits, count=math.prod(mask.shape))
    return bits.reshape(mask.shape).view(bool)


def _use_one_thread() -> None:
    """Keep torch to one thread in a process that is one of many."""
    import torch

    torch.set_num_threads(1)
