"""What the comparison says about each dataset, in plain and neutral words."""

import math
from dataclasses import dataclass
from typing import Any

from nnunet_cpr.evaluation import report_numbers as numbers
from nnunet_cpr.evaluation.report_lookup import datasets, metrics, others, rows_by_key
from nnunet_cpr.evaluation.results import FOREGROUND, Results

LEVEL = 0.05

READING = (
    "The interval and the test describe the cases, given the trainings that were run: they do not cover how much a "
    "second training of the same setting would differ. No evidence of a difference is not evidence of equality."
)


@dataclass(frozen=True)
class Verdict:
    """The sentence for one trainer on one dataset: a short finding, and the numbers that it rests on."""

    trainer: str
    finding: str
    numbers: str
    other_metrics: list[str]


def verdicts(results: Results) -> dict[str, list[Verdict]]:
    """Return the verdicts on every dataset, by the foreground mean of the first metric (Dice, where it is there)."""
    rows = rows_by_key(results.comparisons)
    first, *rest = metrics(results)
    found: dict[str, list[Verdict]] = {}
    for dataset in datasets(results):
        found[dataset] = []
        for trainer in others(results):
            row = rows.get((dataset, trainer, FOREGROUND, first))
            if row is None:
                continue
            more = [
                f"{numbers.metric_name(metric)}: {finding(other)}, {_difference(other)}."
                for metric in rest
                if (other := rows.get((dataset, trainer, FOREGROUND, metric))) is not None
            ]
            found[dataset].append(Verdict(trainer, finding(row), _numbers(row), more))
    return found


def finding(row: Any) -> str:
    """Say in a few words what a comparison shows."""
    metric = row.metric
    if math.isnan(row.difference):
        return "nothing to compare, for no case is defined in both"
    if math.isnan(row.ci_low) or math.isnan(row.ci_high):
        return "too few cases to judge"
    if row.wins == row.losses == 0:
        return "no evidence of a difference (equal in every case)"
    if row.ci_low <= 0 <= row.ci_high:
        if row.p_holm < LEVEL:
            return "no evidence of a difference in the mean, though the rank test finds one (look at the cases)"
        return "no evidence of a difference"
    equal = math.isclose(row.trainer_mean, row.baseline_mean, rel_tol=1e-9)  # the rest is rounding
    if not equal and (row.trainer_mean - row.baseline_mean) * row.difference < 0:
        return (
            "no clear result: the paired difference and the means disagree, for undefined cases are left out of pairs"
        )
    direction = "higher" if row.difference > 0 else "lower"
    meaning = "better" if (row.difference < 0) == numbers.lower_is_better(metric) else "worse"
    if row.p_holm < LEVEL:
        return f"{direction} {metric} ({meaning}) than the baseline"
    return (
        f"weak evidence of a {direction} {metric} ({meaning}): the interval excludes 0, but the test with Holm's "
        f"correction does not reach p < {LEVEL}"
    )


def _numbers(row: Any) -> str:
    metric = row.metric
    p = f"p\u00a0=\u00a0{numbers.p_value(row.p_holm)}".replace("=\u00a0<", "<\u00a0")
    return (
        f"Foreground mean {metric} {numbers.value(row.trainer_mean, metric)} against "
        f"{numbers.value(row.baseline_mean, metric)}: {_difference(row)}, "
        f"n\u00a0=\u00a0{numbers.plural(int(row.n), 'case')}, {p} with Holm's correction. "
        f"Better in {numbers.plural(row.wins, 'case')}, equal in {row.ties}, worse in {row.losses}."
    )


def _difference(row: Any) -> str:
    metric = row.metric
    unit = " mm" if metric in numbers.IN_MILLIMETERS else ""
    return (
        f"difference {numbers.difference(row.difference, metric)}{unit} (95 % CI "
        f"{numbers.difference(row.ci_low, metric)} to {numbers.difference(row.ci_high, metric)})"
    )
