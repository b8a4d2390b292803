"""How the report writes numbers: Dice with 3 decimals, mm with 2, differences with their sign."""

import math
from typing import Any

from nnunet_cpr.evaluation.metrics import metric

UNDEFINED = "–"
MINUS = "−"


def unit(name: str) -> str:
    """Return " (mm)" for a metric in mm, nothing for one without unit."""
    return f" ({metric(name).unit})" if metric(name).unit else ""


def in_unit(name: str) -> str:
    """Return " mm" for a metric in mm, nothing for one without unit."""
    return f" {metric(name).unit}" if metric(name).unit else ""


def metric_name(name: str) -> str:
    """Return the metric with its unit and, where a reader could err, its direction."""
    known = metric(name)
    parts = [part for part in (known.unit, "lower is better" if known.lower_is_better else "") if part]
    return f"{name} ({', '.join(parts)})" if parts else name


def value(number: float, name: str) -> str:
    """Format a value of the metric."""
    return fixed(number, metric(name).decimals)


def difference(number: float, name: str) -> str:
    """Format a difference with its sign, also where it rounds to zero: the sign is then all that is known of it."""
    if math.isnan(number):
        return UNDEFINED
    sign = "" if number == 0 else "+" if number > 0 else MINUS
    return f"{sign}{abs(number):.{metric(name).decimals}f}"


def margin(number: float, name: str) -> str:
    """Format a margin with its unit."""
    return f"{number:.10g}{in_unit(name)}"


def interval(low: float, high: float, name: str) -> str:
    """Format a confidence interval of a difference."""
    if math.isnan(low) or math.isnan(high):
        return f"[{UNDEFINED}]"
    return f"[{difference(low, name)}, {difference(high, name)}]"


def p_value(number: float) -> str:
    """Format a p-value."""
    return "<0.001" if number < 0.001 else fixed(number, 3)


def fixed(number: float, decimals: int) -> str:
    """Format a number without forced sign."""
    return UNDEFINED if math.isnan(number) else f"{number:.{decimals}f}".replace("-", MINUS)


def name(anything: Any) -> str:
    """Format a name, fold or count on one line; whole floats (a column with gaps has them) lose their '.0'."""
    if isinstance(anything, float):
        return UNDEFINED if math.isnan(anything) else f"{anything:.15g}"
    return UNDEFINED if anything is None else " ".join(str(anything).split())


def plural(count: int, noun: str) -> str:
    """Return '1 case', '2 cases'."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
