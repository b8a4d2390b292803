"""Training batches as a function of seed and step, so that a training can begin at any step and resume exactly."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from harness.images import LabeledImages
    from harness.run import Run


def step_batch(count: int, batch_size: int, seed: int, step: int, *, drop_last: bool) -> np.ndarray:
    """Return the indices, below `count`, of a step's batch on all processes together, int64.

    Each epoch has an order of its own. What is left over at its end is a smaller batch, or left out if `drop_last`.
    """
    steps = count // batch_size if drop_last else math.ceil(count / batch_size)
    epoch, part = divmod(step, steps)
    return _epoch_order(count, seed, epoch)[part * batch_size : (part + 1) * batch_size]


def training_batches(run: "Run", images: "LabeledImages", batch_size: int, workers: int) -> Iterator[list["Tensor"]]:
    """Yield this process's images and labels of every step that is left, on its device.

    Args:
        run: the training, prepared.
        images: has (image, label) at every index below its length; what is random in it is seeded for each image.
        batch_size: images of a step on all processes together.
        workers: processes that read images; 0 for none. They make no difference to the batches.

    Raises:
        ValueError: an image cannot be read.
    """
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Seeded(Dataset[Any]):
        def __getitem__(self, key: tuple[int, int]) -> Any:
            index, seed = key
            with _seeded(seed):
                return images[index]

    class Batches:
        def __len__(self) -> int:
            return run.settings.max_steps - run.first_step

        def __iter__(self) -> Iterator[list[tuple[int, int]]]:
            for step in range(run.first_step, run.settings.max_steps):
                chosen = step_batch(len(images), batch_size, run.settings.seed, step, drop_last=True)
                seeds = np.random.SeedSequence((run.settings.seed, step)).generate_state(len(chosen))
                yield run.share(list(zip(chosen.tolist(), seeds.tolist(), strict=True)))

    # A generator of its own: the loader draws a seed when it starts, which must not move the first step's dropout.
    loader = DataLoader(
        Seeded(), batch_sampler=Batches(), num_workers=workers, pin_memory=run.device.type == "cuda",
        generator=torch.Generator(),
    )  # fmt: skip
    return on_device(loader, run)


def on_device(loader: Any, run: "Run") -> Iterator[list["Tensor"]]:
    """Yield a loader's batches on the device of the run. Raises ValueError where an image cannot be read."""
    with _errors_of_workers_in_one_line():
        for batch in loader:
            yield [tensor.to(run.device, non_blocking=True) for tensor in batch]


@contextmanager
def _errors_of_workers_in_one_line() -> Iterator[None]:
    """A worker's error arrives as its whole traceback, which ends with the error's own line."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators that augmentations draw from (Python's, NumPy's, torch's on CPU), and put them back after."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
