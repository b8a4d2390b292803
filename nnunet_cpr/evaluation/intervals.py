"""Bootstrap intervals of many means at once, by SciPy's BCa bootstrap (Efron 1987).

Samples of the same size are resampled together. SciPy draws the same indices for each of them, given the same seed, so
the intervals are the same as from one call per sample, but the indices are drawn once, and all means are one matrix
product. Resamples whose mean is that of the sample, on paper, count as equal to it, which matters for the bias
correction of small samples. So an interval does not depend on what else is compared.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

BOOTSTRAP_SAMPLES = 9999
BATCH_NUMBERS = 2_000_000
"""Numbers that are held at a time."""

ROUNDING = 1e-12
"""Relative to the largest value."""

Sample = npt.NDArray[np.float64]


def mean_intervals(samples: Sequence[Sample], seed: int) -> list[tuple[float, float]]:
    """Return the 95 % interval of each sample's mean; NaN for fewer than two values."""
    found = [(float("nan"), float("nan"))] * len(samples)
    by_size: dict[int, list[int]] = {}
    for number, sample in enumerate(samples):
        if len(sample) > 1 and np.ptp(sample) == 0:  # BCa is not defined without spread
            found[number] = float(sample[0]), float(sample[0])
        elif len(sample) > 1:
            by_size.setdefault(len(sample), []).append(number)
    for size, numbers in by_size.items():
        values = np.stack([samples[number] for number in numbers])
        for number, low, high in zip(numbers, *_bootstrap(values, size, seed), strict=True):
            found[number] = float(low), float(high)
    return found


def _bootstrap(values: npt.NDArray[np.float64], size: int, seed: int) -> tuple[Sample, Sample]:
    """Return the lower and upper ends for the rows of `values`."""
    centers = values.mean(axis=1, keepdims=True)
    deviations = values - centers
    rounding = ROUNDING * np.abs(values).max(axis=1, keepdims=True)

    def means(indices: npt.NDArray[np.int64], axis: int) -> npt.NDArray[np.float64]:
        """Return the mean deviations over the cases of `indices` (draws, cases), of shape (rows, draws)."""
        draws = np.atleast_2d(indices)
        places = draws + size * np.arange(len(draws))[:, None]
        counts = np.bincount(places.ravel(), minlength=size * len(draws)).reshape(-1, size)
        found: npt.NDArray[np.float64] = deviations @ counts.T.astype(float) / draws.shape[1]
        found[np.abs(found) <= rounding] = 0.0
        return found if indices.ndim > 1 else found[:, 0]

    batch = max(1, BATCH_NUMBERS // size)
    interval = stats.bootstrap(
        (np.arange(size),), means, n_resamples=BOOTSTRAP_SAMPLES, batch=batch, vectorized=True, method="BCa", rng=seed
    ).confidence_interval
    return interval.low + centers[:, 0], interval.high + centers[:, 0]
