"""Surface metrics that were computed before, kept beside the predictions and told apart by the content of files."""

import hashlib
import json
import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

from nnunet_cpr.evaluation.readers import nnunet_readers as readers
from nnunet_cpr.evaluation.readers import spacings
from nnunet_cpr.evaluation.readers.case_files import CaseFiles
from nnunet_cpr.evaluation.surface.distances import METRICS, library
from nnunet_cpr.files import read_json, write_json

CACHE_FILE = "nnunet_cpr_surface_metrics.json"
SAVE_CASES = 20
SAVE_SECONDS = 30.0
"""The cache is saved after so many new cases or so long."""
DEFINITION = 3
"""Part of a cache entry: to be raised when the same files give other values."""

Values = dict[str, dict[str, float]]
"""Metric's value by label and metric."""


def inputs_of(task: CaseFiles, tolerance_mm: float, hashes: "Hashes") -> dict[str, Any]:
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


class Hashes:
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


class Cache:
    """Results in the CACHE_FILE of each prediction's folder, by case.

    An entry has "inputs", "values" (null is NaN) and "sha256" of both, so that one that was changed is not believed.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Any]] = {}
        self._changed: set[Path] = set()
        self._unsaved = 0
        self._saved_at = time.monotonic()
        self._writable = True

    def get(self, task: CaseFiles, inputs: dict[str, Any]) -> Values | None:
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

    def put(self, task: CaseFiles, inputs: dict[str, Any], values: Values) -> None:
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

    def _folder(self, task: CaseFiles) -> dict[str, Any]:
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
