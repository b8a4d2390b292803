"""Runs a function over many items in several processes, and counts the CPU cores that this job may use."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from tqdm import tqdm

from nnunet_cpr.terminal import ADVICE, is_out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = "NNUNET_CPR_THREADS"
"""The variable for the threads of each training on a CPU."""
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


def training_threads() -> int | None:
    """Return what NNUNET_CPR_THREADS says, None if it says nothing.

    Not OMP_NUM_THREADS: nnU-Net's users set that to 1 for its augmentation workers.
    """
    asked = os.environ.get(THREADS, "")
    return int(asked) if asked.isdecimal() and int(asked) else None


def in_parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    num_processes: int,
    title: str,
    initializer: Callable[[], None] | None = None,
    name: Callable[[Item], object] = str,
) -> Iterator[Result]:
    """Yield `function` of every item in their order, with a progress bar on a terminal.

    A single process is this one, and so it is for little work: importing torch and MONAI takes a new process many
    seconds. Others are spawned, because torch's threads do not survive a fork; `initializer` runs once in each. They
    end with this process, however it ends. `name` says what to call an item in an error; it is pickled, as `function`
    is.

    Raises:
        ValueError: memory did not suffice, here or in another process; names the item.
    """
    work = _Work(function, name)
    with tqdm(desc=title, unit="case", total=len(items), disable=None, leave=False) as bar:
        for result in _results(work, items, min(num_processes, len(items)), initializer):
            bar.update()
            yield result


@dataclass(frozen=True)
class _Work(Generic[Item, Result]):
    """The function; where memory does not suffice it says for which item."""

    function: Callable[[Item], Result]
    name: Callable[[Item], object]

    def __call__(self, item: Item) -> Result:
        try:
            return self.function(item)
        except (MemoryError, RuntimeError, OSError, ImportError) as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(f"{self.name(item)}: there is not enough memory; {ADVICE}") from error


def _results(
    work: _Work[Item, Result],
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
                yield from _in_processes(work, items[done:], workers, initializer)
                return
        yield work(item)


def _in_processes(
    work: _Work[Item, Result],
    items: Sequence[Item],
    workers: int,
    initializer: Callable[[], None] | None,
) -> Iterator[Result]:
    # Unlike multiprocessing.Pool, an executor notices that a process was killed (for memory) and does not wait forever.
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    done = 0
    with ProcessPoolExecutor(workers, mp_context=context, initializer=partial(_begin, initializer)) as executor:
        chunk = max(1, min(8, len(items) // (8 * workers)))
        try:
            with _interrupts_held_back():
                # Not executor.map, which cancels what is left: Python 3.11 then fails over it when workers are killed.
                parts = (items[begin : begin + chunk] for begin in range(0, len(items), chunk))
                futures = deque(executor.submit(_do_all, work, part) for part in parts)
            while futures:
                for result in futures.popleft().result():
                    yield result
                    done += 1
        except BrokenProcessPool as error:
            raise ValueError(
                f"{work.name(items[done])} or a case after it: a process ended unexpectedly, probably for lack of "
                "memory; use fewer processes"
            ) from error
        except BaseException:
            for process in set(multiprocessing.active_children()) - before:
                process.kill()  # else leaving the block would wait for what they have begun
            raise


def _do_all(work: _Work[Item, Result], items: Sequence[Item]) -> list[Result]:
    return [work(item) for item in items]


def _begin(initializer: Callable[[], None] | None) -> None:
    """Prepare a worker: Ctrl-C on a terminal is for its parent, and it ends when its parent does, even by a kill."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if initializer is not None:
            initializer()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        os._exit(1)  # the parent says so in one line


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let processes that are started here begin with SIGINT blocked; this one gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
