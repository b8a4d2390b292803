"""Whether timings are a result, or say more about the machine's other work.

A round begins and ends with the same optimizer. Two things must hold:

- The quartiles, over the rounds, of its last time over its first are within 5 % of 1. With 30 rounds, medians of such
  ratios are then known to about 2 %. This notices whatever changes in the course of a round, also where it cannot be
  seen from here, as other machines on the same host.
- Other processes take at most 5 % of the time of all processors, from Linux's count of busy time less this process's
  own. What a hypervisor withholds counts as theirs. This notices load that slows all rounds alike.
"""

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FEWEST_ROUNDS = 10
"""With fewer, quartiles say little."""
MOST_OFF = 0.05
MOST_OTHERS = 0.05


class Seconds(NamedTuple):
    """Three clocks, in seconds."""

    wall: float
    own: float
    """Processor time of this process and of its children that have ended."""
    all: float | None
    """Busy time of all processors; None where the system does not tell."""


def read_clocks(stat: Path = Path("/proc/stat")) -> Seconds:
    """Return the three clocks as they are now."""
    busy = None
    try:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        pass
    return Seconds(time.monotonic(), sum(os.times()[:4]), busy)


def share_of_others(before: Seconds, after: Seconds, processors: int) -> float | None:
    """Return the share of all processors' time that other processes took; None where that is not known."""
    if before.all is None or after.all is None:
        return None
    own, busy = after.own - before.own, after.all - before.all
    if busy < own / 2:  # some sandboxes show a count that does not move
        return None
    return max(0.0, busy - own) / ((after.wall - before.wall) * processors)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper


def find_doubts(against_itself: Sequence[float], others: float | None) -> list[str]:
    """Return why timings are not a result; nothing if they are.

    Args:
        against_itself: by round, the last time of the optimizer that begins and ends it, over its first.
        others: the share of all processors' time that other processes took, None where it is not known.
    """
    if len(against_itself) < FEWEST_ROUNDS:
        return [f"{len(against_itself)} rounds are too few to tell, {FEWEST_ROUNDS} are enough"]
    doubts = []
    lower, _, upper = quartiles(against_itself)
    if lower < 1 - MOST_OFF or upper > 1 + MOST_OFF:
        doubts.append(
            f"rounds disagree: the same optimizer took {lower:.2f} to {upper:.2f} (quartiles) of its time a moment "
            f"before, allowed are {1 - MOST_OFF:.2f} to {1 + MOST_OFF:.2f}"
        )
    if others is not None and others > MOST_OTHERS:
        doubts.append(f"other processes took {others:.0%} of the processors' time, allowed are {MOST_OTHERS:.0%}")
    return doubts
