"""What the comparison says about each dataset, in plain and neutral words."""

import math
from dataclasses import dataclass
from typing import Any

from nnunet_cpr.evaluation import formatting as numbers
from nnunet_cpr.evaluation.margins import (
    BETTER,
    EQUAL,
    UNDECIDED,
    WORSE,
    means_disagree,
    not_worse,
    widest_interval,
)
from nnunet_cpr.evaluation.results import FOREGROUND, Results, rows_by_key
from nnunet_cpr.evaluation.uncertainty import LEVEL

READING = (
    "Intervals over cases, and the rank test, describe the cases, given the trainings that were run; intervals over "
    "runs and cases also cover how much a repeated training would differ. Equal means: the 95 % interval lies within "
    "the margin, and two one-sided tests agree. Not decided means: neither a difference nor equality is shown."
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
    first, *rest = results.metrics
    found: dict[str, list[Verdict]] = {}
    for dataset in results.datasets:
        found[dataset] = []
        for trainer in results.others:
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
    margin = f"±{numbers.margin(row.margin, metric)}"
    if math.isnan(row.difference):
        return "nothing to compare: no case is defined for both"
    low, high = widest_interval(row)
    if math.isnan(low) or math.isnan(high):
        return "not decided: too few cases to judge"
    direction = "higher" if row.difference > 0 else "lower"
    excludes_zero = not low <= 0 <= high
    if row.verdict == EQUAL:
        if row.wins == row.losses == 0:
            return "equal in every case"
        less = f" ({direction} {metric}, but by less)" if excludes_zero and row.p_holm < LEVEL else ""
        return f"equal to the baseline within {margin}{less}"
    if row.verdict in (BETTER, WORSE):
        return f"{direction} {metric} ({row.verdict}) than the baseline"
    text = f"not decided: {_undecided(row, excludes_zero, direction)}, and equality within {margin} is not shown"
    if not_worse(row):
        text += f", but it is not worse by {numbers.margin(row.margin, metric)} or more"
    return text


def _undecided(row: Any, excludes_zero: bool, direction: str) -> str:
    """Say why a difference is not shown either."""
    if not excludes_zero:
        if not math.isnan(row.runs_ci_low) and not row.ci_low <= 0 <= row.ci_high:
            return "the difference over these cases may come from the few runs (seeds)"
        if row.p_holm < LEVEL:
            return "no evidence of a difference in the mean, though the rank test finds one (look at the cases)"
        return "no evidence of a difference"
    if means_disagree(row):
        return "the paired difference and the means disagree, as undefined cases are left out of pairs"
    return (
        f"weak evidence of a {direction} {row.metric} (the interval excludes 0, but the test with Holm's correction "
        f"does not reach p < {LEVEL})"
    )


def _numbers(row: Any) -> str:
    metric = row.metric
    p = f"p\u00a0=\u00a0{numbers.p_value(row.p_holm)}".replace("=\u00a0<", "<\u00a0")
    return (
        f"Foreground mean {metric} {numbers.value(row.trainer_mean, metric)} against "
        f"{numbers.value(row.baseline_mean, metric)}: {_difference(row)}, "
        f"n\u00a0=\u00a0{numbers.plural(int(row.n), 'case')}, {p} with Holm's correction. "
        f"Better in {numbers.plural(row.wins, 'case')}, equal in {row.ties}, worse in {row.losses}."
        f"{_power(row)}"
    )


def _power(row: Any) -> str:
    """Say what this design could have detected and, if it decided nothing, what would."""
    if math.isnan(row.detectable) or row.detectable == 0:
        return ""
    metric, units = row.metric, "cases" if math.isnan(row.runs_ci_low) else "cases and runs"
    least = numbers.value(row.detectable, metric)
    least = f"{least}{numbers.in_unit(metric)}" if float(least) else f"below the last digit of {metric}"
    text = f" Smallest difference that so many {units} detect in 80 % of studies: {least}."
    if row.verdict != UNDECIDED:
        return text
    if row.cases_needed <= row.n:
        return f"{text} Without the correction for many comparisons, so many cases would mostly suffice."
    ways = [f"{int(row.cases_needed):,} cases"] if not math.isnan(row.cases_needed) else []
    ways += [f"{int(row.runs_needed):,} runs of each trainer"] if not math.isnan(row.runs_needed) else []
    if ways:
        return f"{text} If the true difference is the one seen, about {' or '.join(ways)} would decide it."
    return f"{text} If the true difference is the one seen, more cases alone would hardly decide it."


def _difference(row: Any) -> str:
    metric = row.metric
    unit = numbers.in_unit(metric)
    covers = _range(row.ci_low, row.ci_high, metric)
    if not math.isnan(row.runs_ci_low):
        covers += f" over cases, {_range(row.runs_ci_low, row.runs_ci_high, metric)} over runs and cases"
    return f"difference {numbers.difference(row.difference, metric)}{unit} (95 % CI {covers})"


def _range(low: float, high: float, metric: str) -> str:
    return f"{numbers.difference(low, metric)} to {numbers.difference(high, metric)}"
