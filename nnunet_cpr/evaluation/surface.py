"""Distances between the surfaces of segmentation and reference: NSD, HD95 and MASD, with MONAI.

MONAI, because it is released several times a year, brings all three, takes the spacing, and is what many papers use.
DeepMind's surface-distance, where NSD comes from, has had one release (0.1); a test compares the two. Definitions:

- NSD (normalized surface Dice, 0 to 1): the share of both surfaces that lies within the tolerance of the other one, by
  area. The surface and its area elements are DeepMind's (`use_subvoxels`); without, MONAI counts border voxels, however
  large their faces are, which is not comparable with published values and wrong for anisotropic spacing.
- HD95 (mm): 95th percentile of the distances from the border voxels of one to the other's, the larger of both ways.
- MASD (mm, mean average surface distance): mean distance between border voxels, the mean of both ways (as Metrics
  Reloaded defines it; MONAI's `symmetric` averages over all voxels, which weighs the larger surface more).

A border voxel is in the mask and has a face in common with a voxel outside it; outside the image is outside the mask.
An image of one slice is taken as plane. Where both masks are empty all three are NaN; where one is, NSD is 0 and the
distances are NaN. Lengths are in mm; of planes in formats without spacing (.png), in pixels.

torch and MONAI are imported where they are used, because the command line imports this module.
"""

import hashlib
import json
import math
import os
import time
import warnings
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nnunet_cpr.evaluation import readers, spacings
from nnunet_cpr.evaluation.results import CASE_COLUMNS
from nnunet_cpr.evaluation.segmentations import read_pair
from nnunet_cpr.files import read_json, remove_leftovers, write_json
from nnunet_cpr.labels import Label
from nnunet_cpr.parallel import in_parallel

METRICS = ("NSD", "HD95", "MASD")
CACHE_FILE = "nnunet_cpr_surface_metrics.json"
SAVE_CASES = 20
SAVE_SECONDS = 30.0
"""The cache is saved after so many new cases or so long."""
DEFINITION = 2
"""Part of a cache entry: to be raised when the same files give other values."""
ROUNDING = 1e-5
"""Relative. Spacing is float32 in a NIfTI header; a distance of exactly the tolerance is within it all the same."""

Mask = npt.NDArray[np.bool_]
Values = dict[str, dict[str, float]]
"""Metric's value by label and metric."""


@dataclass(frozen=True)
class SurfaceTask:
    """One case of one training or folder. Labels are by name; a tuple is a region of several values."""

    dataset: str
    trainer: str
    run: str
    fold: int | str
    case: str
    reference: Path
    prediction: Path
    labels: dict[str, Label]
    reader: str | None = None
    """The name of nnU-Net's reader, where it is known."""
    spacing_files: tuple[Path, ...] = ()
    """Where the spacing of a reference may be that is a TIFF volume; default: where nnU-Net has it."""


def library() -> str:
    """Return name and version of the library that computes the metrics.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return f"MONAI {metadata.version('monai')}"
    except metadata.PackageNotFoundError:
        raise ValueError("surface metrics need MONAI: pip install 'nnunet-cpr[surface]'") from None


def surface_metrics(tasks: list[SurfaceTask], tolerance_mm: float, num_processes: int) -> pd.DataFrame:
    """Compute NSD at a tolerance (mm), HD95 and MASD (mm) of every task and label, as CASE_COLUMNS.

    Results are kept in CACHE_FILE beside the predictions and taken from there where neither the files nor what is asked
    have changed. Each process needs about 150 bytes a voxel of a label's bounding box (MONAI's NSD).

    Raises:
        ValueError: MONAI is not installed, or a file is missing, cannot be read or does not fit its reference.
    """
    for folder in {task.prediction.parent for task in tasks}:
        remove_leftovers(folder, {CACHE_FILE})
    cache, hashes = _Cache(), _Hashes()
    inputs = [_inputs(task, tolerance_mm, hashes) for task in tasks]
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


def spacing_cautions(tasks: list[SurfaceTask]) -> list[str]:
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


def surface_distances(reference: Mask, prediction: Mask, spacing: list[float], tolerance_mm: float) -> dict[str, float]:
    """Return NSD, HD95 and MASD (mm) of two masks, plane or in space, with their spacing in mm."""
    if not reference.any() or not prediction.any():
        one_empty = reference.any() or prediction.any()
        return {"NSD": 0.0 if one_empty else math.nan, "HD95": math.nan, "MASD": math.nan}
    import torch
    from monai.metrics.surface_dice import compute_surface_dice
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    box = _bounding_box(reference | prediction)
    # No margin is needed: outside the box both masks are empty, and that is what MONAI takes to be there.
    reference, prediction = np.ascontiguousarray(reference[box]), np.ascontiguousarray(prediction[box])
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that it passes itself.
        warnings.filterwarnings("ignore", category=FutureWarning)
        nsd = compute_surface_dice(
            torch.from_numpy(prediction)[None, None],
            torch.from_numpy(reference)[None, None],
            class_thresholds=[tolerance_mm * (1 + ROUNDING)],
            include_background=True,
            spacing=spacing,
            use_subvoxels=True,
        )
        # Once for both distances; MONAI's functions for HD95 and mean distance would each do it again.
        borders = get_mask_edges(prediction, reference, crop=False)
        both_ways = [
            np.asarray(get_surface_distance(borders[a], borders[b], spacing=spacing), dtype=np.float64)
            for a, b in ((0, 1), (1, 0))
        ]
    return {
        "NSD": float(nsd.item()),
        "HD95": max(float(np.percentile(distances, 95)) for distances in both_ways),
        "MASD": float(np.mean([distances.mean() for distances in both_ways])),
    }


def _measure(task: SurfaceTask, tolerance_mm: float) -> Values:
    pair = read_pair(task.reference, task.prediction, task.reader, task.spacing_files)
    reference, prediction, spacing = pair.reference, pair.prediction, list(pair.spacing or ())
    if not spacing:
        if readers.takes_json_spacing(task.reference, task.reader):
            raise ValueError(spacings.no_spacing(task.reference))
        spacing = [1.0, 1.0, 1.0]
    if 1 in reference.shape:
        # In space, every voxel of a single slice would lie on the surface.
        axis = reference.shape.index(1)
        reference, prediction = reference.squeeze(axis), prediction.squeeze(axis)
        del spacing[axis]
    foreground = (reference != 0) | (prediction != 0)
    if foreground.any():
        box = _bounding_box(foreground)
        reference, prediction = reference[box], prediction[box]
    return {
        name: surface_distances(np.isin(reference, label), np.isin(prediction, label), spacing, tolerance_mm)
        for name, label in task.labels.items()
    }


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Return the smallest box that holds a mask, which is not empty."""
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)


def _use_one_thread() -> None:
    """Keep torch to one thread in a process that is one of many."""
    import torch

    torch.set_num_threads(1)


def _inputs(task: SurfaceTask, tolerance_mm: float, hashes: "_Hashes") -> dict[str, Any]:
    """Return what a result depends on, as JSON has it."""
    inputs: dict[str, Any] = {
        "definition": DEFINITION,
        "library": library(),
        "tolerance_mm": float(tolerance_mm),
        "labels": {name: list(label) if isinstance(label, tuple) else label for name, label in task.labels.items()},
        "reader": task.reader,
        "reference": hashes.of(task.reference),
        "prediction": hashes.of(task.prediction),
    }
    if readers.is_tiff(task.reference):
        places = task.reference, task.prediction, task.reader, task.spacing_files
        inputs["spacing"] = spacings.reference_spacing(*places)
    return inputs


class _Hashes:
    """SHA-256 of files. A file that several tasks share, also by links, is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], str] = {}

    def of(self, path: Path) -> str:
        """Return the hash of a file's content. Raises ValueError if it cannot be read."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                key = status.st_dev, status.st_ino
                if key not in self._known:
                    content = hashlib.sha256()
                    while chunk := file.read(1 << 20):
                        content.update(chunk)
                    self._known[key] = content.hexdigest()
                return self._known[key]
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror})") from error


class _Cache:
    """Results in the CACHE_FILE of each prediction's folder, by case.

    An entry has "inputs", "values" (null is NaN) and "sha256" of both, so that one that was changed is not believed.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Any]] = {}
        self._changed: set[Path] = set()
        self._unsaved = 0
        self._saved_at = time.monotonic()
        self._writable = True

    def get(self, task: SurfaceTask, inputs: dict[str, Any]) -> Values | None:
        """Return the values of a task, or None where they are unknown, of other inputs, or cannot be right."""
        entry = self._folder(task).get(task.case)
        if not isinstance(entry, dict) or entry.get("inputs") != inputs:
            return None
        known = entry.get("values")
        if entry.get("sha256") != _seal(inputs, known) or not isinstance(known, dict) or set(known) != set(task.labels):
            return None
        if not all(_are_possible(values) for values in known.values()):
            return None
        return {
            label: {metric: math.nan if value is None else float(value) for metric, value in values.items()}
            for label, values in known.items()
        }

    def put(self, task: SurfaceTask, inputs: dict[str, Any], values: Values) -> None:
        """Keep the values of a task, and save from time to time."""
        # NaN is no JSON.
        known = {k: {metric: None if math.isnan(x) else x for metric, x in v.items()} for k, v in values.items()}
        self._folder(task)[task.case] = {"inputs": inputs, "values": known, "sha256": _seal(inputs, known)}
        self._changed.add(task.prediction.parent)
        self._unsaved += 1
        if self._unsaved >= SAVE_CASES or time.monotonic() - self._saved_at >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what has changed. Says so once where that is impossible."""
        for folder in self._changed:
            try:
                write_json(folder / CACHE_FILE, self._folders[folder])
            except OSError as error:
                if self._writable:
                    warnings.warn(f"surface metrics are not kept: {folder / CACHE_FILE}: {error}", stacklevel=2)
                self._writable = False
        self._changed.clear()
        self._unsaved = 0
        self._saved_at = time.monotonic()

    def _folder(self, task: SurfaceTask) -> dict[str, Any]:
        folder = task.prediction.parent
        if folder not in self._folders:
            try:
                content = read_json(folder / CACHE_FILE)
            except (OSError, ValueError):  # none yet, or damaged
                content = None
            self._folders[folder] = content if isinstance(content, dict) else {}
        return self._folders[folder]


def _seal(inputs: Any, values: Any) -> str:
    return hashlib.sha256(json.dumps([inputs, values], sort_keys=True).encode()).hexdigest()


def _are_possible(values: Any) -> bool:
    """Tell whether these can be the metrics of a label, None for undefined ones."""
    if not isinstance(values, dict) or set(values) != set(METRICS):
        return False
    if not all(value is None or (type(value) in (int, float) and 0 <= value < math.inf) for value in values.values()):
        return False
    nsd, hd95, masd = (values[metric] for metric in METRICS)
    if hd95 is None or masd is None:  # a mask is empty, or both are
        return hd95 is masd and nsd in (None, 0)
    return nsd is not None and nsd <= 1
