"""Batches that repeat: each is drawn from the seed, the rank and its own number, whichever process makes it.

nnU-Net's augmentation workers share one queue and none of them is seeded, so the content and the order of its batches
depend on timing. Here nnU-Net's own loader makes the batches, but torch's DataLoader runs the workers: it tells each
worker the number of the batch to make and returns the batches in the order of their numbers.
"""

import itertools
import math
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from nnunet_cpr.training.seeding import seed_cpu
from nnunet_cpr.training.stopping import outlive_stop_signals

FEWEST_IN_ADVANCE = 6  # batches; nnU-Net's augmenter keeps as many


class RepeatableBatches:
    """An endless iterator over batches that takes the place of nnU-Net's augmenter.

    Args:
        source: its `next` makes one batch, here or in a copy of it in another process.
        entropy: numbers that set this sequence of batches apart from others: the seed, the rank, training or not.
        start: the number of the first batch.
        workers: processes that make batches in advance. With 0 they are made in this process. The batches are the same.
        pin_memory: whether batches go to pinned memory, for copies to a GPU.
    """

    def __init__(
        self, source: Iterator[Any], entropy: tuple[int, ...], start: int, workers: int, pin_memory: bool
    ) -> None:
        with warnings.catch_warnings():
            # The number is nnU-Net's, or the user's own.
            warnings.filterwarnings("ignore", "This DataLoader will create")
            batches = DataLoader(
                _NumberedBatches(source, entropy),
                batch_size=None,
                sampler=itertools.count(start),
                num_workers=workers,
                collate_fn=_unchanged,
                pin_memory=pin_memory,
                prefetch_factor=max(2, math.ceil(FEWEST_IN_ADVANCE / workers)) if workers else None,
                worker_init_fn=_prepare_worker,
                generator=torch.Generator(),  # else it draws a number from the training's
            )
            self._batches: Iterator[Any] | None = iter(batches)

    def __iter__(self) -> "RepeatableBatches":
        """Return itself."""
        return self

    def __next__(self) -> Any:
        """Return the next batch."""
        if self._batches is None:
            raise RuntimeError("these batches are finished")
        return next(self._batches)

    def _finish(self) -> None:
        """End the workers. nnU-Net's augmenters have this method, too."""
        self._batches = None


class _NumberedBatches(Dataset[Any]):
    """Makes a batch from its number."""

    def __init__(self, source: Iterator[Any], entropy: tuple[int, ...]) -> None:
        self._source, self._entropy = source, entropy

    def __getitem__(self, number: int) -> Any:
        # The training draws numbers as well, say for dropout. In its process it must not notice how batches are made.
        with generators_restored() if get_worker_info() is None else nullcontext():
            seed_cpu(*self._entropy, number + 1)  # NumPy takes (7, 0) and (7,) for the same seed
            return next(self._source)


@contextmanager
def generators_restored() -> Iterator[None]:
    """After the block, set the global generators of Python, NumPy and torch's CPU back to where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _unchanged(batch: Any) -> Any:
    return batch


def _prepare_worker(_: int) -> None:
    outlive_stop_signals()  # torch's own handler would end the worker at once


@contextmanager
def augmentation_in_this_process() -> Iterator[None]:
    """Let nnU-Net's `get_dataloaders` start no workers, so that what it returns can be used as a source of batches."""
    name = "nnUNet_n_proc_DA"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
