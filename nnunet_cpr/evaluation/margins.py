"""How small a difference means nothing, and the verdict on a comparison that follows from it."""

import math
from collections.abc import Mapping
from typing import Any

from nnunet_cpr.evaluation.metrics import metric
from nnunet_cpr.evaluation.uncertainty import LEVEL

BETTER, WORSE, EQUAL, UNDECIDED = "better", "worse", "equal", "not decided"


def margin_of(name: str, given: Mapping[str, float]) -> float:
    """Return the margin of a metric: the user's, else its default. What matters depends on the task."""
    return given.get(name, metric(name).margin)


def widest_interval(row: Any) -> tuple[float, float]:
    """Return the interval over runs and cases if there is one, else that over cases."""
    if math.isnan(row.runs_ci_low):
        return row.ci_low, row.ci_high
    return row.runs_ci_low, row.runs_ci_high


def verdict(row: Any) -> str:
    """Return BETTER, WORSE, EQUAL (within the margin) or UNDECIDED.

    EQUAL needs the interval inside the margin and the two one-sided tests; BETTER and WORSE an interval without 0, the
    rank test with Holm's correction, and means that differ in the same direction. EQUAL comes first: a difference that
    is certain, but too small to matter, is EQUAL.
    """
    low, high = widest_interval(row)
    if math.isnan(low) or math.isnan(high):
        return UNDECIDED
    if -row.margin < low and high < row.margin and row.p_equivalence < LEVEL:
        return EQUAL
    if low <= 0 <= high or not row.p_holm < LEVEL or means_disagree(row):
        return UNDECIDED
    return BETTER if (row.difference < 0) == metric(row.metric).lower_is_better else WORSE


def not_worse(row: Any) -> bool:
    """Whether interval and t-test exclude that the trainer is worse by the margin or more (non-inferiority)."""
    low, high = widest_interval(row)
    inside = high < row.margin if metric(row.metric).lower_is_better else low > -row.margin
    return bool(inside and row.p_not_worse < LEVEL / 2)


def means_disagree(row: Any) -> bool:
    """Whether the means over all defined cases differ in the other direction than the pairs."""
    equal = math.isclose(row.trainer_mean, row.baseline_mean, rel_tol=1e-9)  # the rest is rounding
    return not equal and (row.trainer_mean - row.baseline_mean) * row.difference < 0
