"""Numbers as the benchmarks print them."""

from collections.abc import Mapping, Sequence
from typing import Any


def show_span(ends: Sequence[float], digits: int) -> str:
    """Return "1.02 to 1.05", or one number where both are printed alike."""
    lower, upper = (f"{end:.{digits}f}" for end in ends)
    return lower if lower == upper else f"{lower} to {upper}"


def show_caches(sizes: Mapping[str, int]) -> str:
    """Return "L1 48 KiB, L2 2 MiB" for the bytes of each cache."""
    return ", ".join(
        f"{level} {size / 2**20:g} MiB" if size >= 2**20 else f"{level} {size / 2**10:g} KiB"
        for level, size in sizes.items()
    )


def show_overhead(row: Mapping[str, Any]) -> str:
    """Return median and quartiles of what an optimizer adds to a training step (benchmark_training_steps.py)."""
    lower, median, upper = row["percent_over_adamw"]
    return f"{median:+.2f} % ({lower:+.2f} to {upper:+.2f})"


def largest_noise(rows: Sequence[Mapping[str, Any]], network: str) -> float:
    """Return the largest quartile of AdamW's difference from itself in any measurement with a network, in percent."""
    ends: list[list[float]] = [row["percent_adamw_over_itself"] for row in rows if row["network"] == network]
    return max(abs(end) for of_row in ends for end in of_row)
