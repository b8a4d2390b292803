"""Time and memory of a function, in a process of its own."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from typing import NamedTuple


class Cost(NamedTuple):
    """What a function needed."""

    seconds: float
    cpu_seconds: float
    """Processor time of its process and of those it has waited for."""
    gib: float
    """The most memory at a time, of its process or of the largest of those it has waited for."""


def measured(target: Callable[..., object], *arguments: object) -> Cost:
    """Run a function in a new process. Ends this one where it fails."""
    start = time.perf_counter()
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    assert process.pid is not None
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{target.__name__} failed")
    return Cost(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)
