"""Runs a function over many items in several processes, and counts the CPU cores that this job may use."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

START_SECONDS = 15.0
"""What new processes cost before they work; they have to save more."""
_CORES_OF_A_JOB = (
    ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"),
    ("LSB_DJOB_NUMPROC",),  # LSF
    ("NSLOTS",),  # Grid Engine
    ("NCPUS",),  # PBS
)
"""Where schedulers say how many cores a job has; of the names of one scheduler the first that is set counts."""


def job_cores() -> int:
    """Return how many CPU cores this job may use, at least 1.

    The smallest of what this process's affinity, its cgroup and the scheduler allow, not the machine's count.
    """
    from joblib import cpu_count  # affinity and cgroups; takes 0.3 s to import

    counts = [int(cpu_count())]
    for names in _CORES_OF_A_JOB:
        said = next((os.environ[name] for name in names if os.environ.get(name)), "")
        if said.isdecimal() and int(said) > 0:
            counts.append(int(said))
    return max(1, min(counts))


def in_parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    num_processes: int,
    title: str,
    initializer: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Yield `function` of every item in their order, with a progress bar on a terminal.

    A single process is this one, and so it is for little work: importing torch and MONAI takes a new process many
    seconds. Others are spawned, because torch's threads do not survive a fork; `initializer` runs once in each.

    Raises:
        ValueError: a process was killed.
    """
    with tqdm(desc=title, unit="case", total=len(items), disable=None, leave=False) as bar:
        for result in _results(function, items, min(num_processes, len(items)), initializer):
            bar.update()
            yield result


def _results(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    initializer: Callable[[], None] | None,
) -> Iterator[Result]:
    """Begin in this process, and start others once it is clear that they save more time than they cost."""
    begun = 0.0
    for done, item in enumerate(items):
        if done == 1:
            begun = time.monotonic()  # the first item also imports the libraries
        if workers > 1 and done >= 2:
            left = (time.monotonic() - begun) / (done - 1) * (len(items) - done)
            if left * (1 - 1 / workers) > START_SECONDS:
                yield from _in_processes(function, items[done:], workers, initializer)
                return
        yield function(item)


def _in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    initializer: Callable[[], None] | None,
) -> Iterator[Result]:
    # Unlike multiprocessing.Pool, an executor notices that a process was killed (for memory) and does not wait forever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=initializer) as executor:
        chunk = max(1, min(8, len(items) // (8 * workers)))
        try:
            yield from executor.map(function, items, chunksize=chunk)
        except BrokenProcessPool as error:
            raise ValueError(
                "a process ended unexpectedly, probably for lack of memory; use fewer processes"
            ) from error
