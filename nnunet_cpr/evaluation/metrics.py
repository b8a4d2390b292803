"""The metrics of a comparison: their units, directions, margins and conventions. Imports nothing heavy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any


@dataclass(frozen=True)
class Metric:
    """One metric of a case and label."""

    name: str
    margin: float
    """Differences up to this mean nothing, where the user says nothing else."""
    unit: str = ""
    lower_is_better: bool | None = False
    """None: neither, as with signed errors. Such metrics are summarized, but not compared."""
    decimals: int = 3
    empty_is_defined: bool = False
    """Whether a value is usual where label and prediction are both empty; see `--empty`."""
    rounding: float = 1e-9
    """Which differences are rounding, relative to the largest value: more than that of means in float64 (1e-13), less
    than one voxel of 1e8."""


_SURFACE_ROUNDING = 1e-6  # spacing is float32 in a NIfTI header, and MONAI adds up areas in float32
_METRICS = [
    Metric("Dice", 0.01, empty_is_defined=True),
    Metric("NSD", 0.01, empty_is_defined=True, rounding=_SURFACE_ROUNDING),
    Metric("HD95", 1.0, "mm", lower_is_better=True, decimals=2, rounding=_SURFACE_ROUNDING),
    Metric("MASD", 0.1, "mm", lower_is_better=True, decimals=2, rounding=_SURFACE_ROUNDING),
    Metric("Precision", 0.01),
    Metric("Recall", 0.01),
    Metric("RVE", 0.01, lower_is_better=None),
    Metric("absolute RVE", 0.01, lower_is_better=True),
    Metric("Lesion F1", 0.01),
    Metric("Lesion sensitivity", 0.01),
    Metric("Lesion Dice", 0.01),
]
METRICS = {metric.name: metric for metric in _METRICS}
"""By name, in the order of a report."""
COUNTS = ("TP", "FP", "FN")
"""nnU-Net's keys of voxel counts."""
OF_COUNTS = ("Precision", "Recall", "RVE", "absolute RVE")


def metric(name: str) -> Metric:
    """Return the metric of that name; one that is not known counts as a share of which more is better."""
    return METRICS.get(name) or Metric(name, METRICS["Dice"].margin)


def of_counts(counts: Mapping[str, Any]) -> dict[str, float]:
    """Return precision, recall and volume errors from nnU-Net's voxel counts of a case and label.

    RVE, the relative volume error, is (predicted - true volume) / true volume. What would divide by 0 is NaN: all but
    the precision where the label is not in the case, the precision where nothing was predicted.

    Raises:
        ValueError: a count is not a whole number of at least 0.
        KeyError: a count is not there.
    """
    tp, fp, fn = (_count(key, counts[key]) for key in COUNTS)
    predicted, true = tp + fp, tp + fn
    rve = (predicted - true) / true if true else math.nan
    precision, recall = tp / predicted if predicted else math.nan, tp / true if true else math.nan
    return {"Precision": precision, "Recall": recall, "RVE": rve, "absolute RVE": abs(rve)}


def _count(key: str, value: Any) -> int:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        number = math.nan
    if not 0 <= number < 1e15 or number % 1:
        raise ValueError(f"a {key} of {value!r:.40}")
    return int(number)
