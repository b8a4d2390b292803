"""How the report writes numbers: Dice with 3 decimals, mm with 2, differences with their sign."""

import math
from typing import Any

METRICS = ("Dice", "NSD", "HD95", "MASD")
IN_MILLIMETERS = ("HD95", "MASD")  # distances: lower is better
UNDEFINED = "–"
MINUS = "−"


def lower_is_better(metric: str) -> bool:
    """Tell whether a lower value of the metric is the better one."""
    return metric in IN_MILLIMETERS


def metric_name(metric: str) -> str:
    """Return the metric with its unit and, where a reader could err, its direction."""
    return f"{metric} (mm, lower is better)" if lower_is_better(metric) else metric


def value(number: float, metric: str) -> str:
    """Format a value of the metric."""
    return fixed(number, _decimals(metric))


def difference(number: float, metric: str) -> str:
    """Format a difference with its sign, also where it rounds to zero: the sign is then all that is known of it."""
    if math.isnan(number):
        return UNDEFINED
    sign = "" if number == 0 else "+" if number > 0 else MINUS
    return f"{sign}{abs(number):.{_decimals(metric)}f}"


def margin(number: float, metric: str) -> str:
    """Format a margin with its unit."""
    return f"{number:.10g}{' mm' if metric in IN_MILLIMETERS else ''}"


def interval(low: float, high: float, metric: str) -> str:
    """Format a confidence interval of a difference."""
    if math.isnan(low) or math.isnan(high):
        return f"[{UNDEFINED}]"
    return f"[{difference(low, metric)}, {difference(high, metric)}]"


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


def _decimals(metric: str) -> int:
    return 2 if metric in IN_MILLIMETERS else 3
