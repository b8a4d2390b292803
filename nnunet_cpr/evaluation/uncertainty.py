"""How sure a mean paired difference is: from the choice of cases, and from another run (seed) of the trainings.

Cases and runs are two sources of chance. A difference of trainer and baseline, averaged over cases and runs, has the
variance

    variance over cases / cases  +  variance over the trainer's runs / its runs  +  the same of the baseline's runs

(a random-effects model with both factors crossed; Satterthwaite 1946 gives its degrees of freedom). With one run on a
side the run part is unknown, and everything here is about the choice of cases only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

RUN_SAMPLES = 1999
"""Of the bootstrap over runs and cases."""
LEVEL, POWER = 0.05, 0.8
MOST = 100_000
"""Above so many cases or runs, nobody is told how many would do."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One source of chance: the variance over its units, and how many there are."""

    variance: float
    units: int

    @property
    def of_mean(self) -> float:
        """Its part of the variance of the mean."""
        return self.variance / self.units


@dataclass(frozen=True)
class Uncertainty:
    """The spread of a mean difference over cases and, where both sides have several, runs."""

    cases: Part
    runs: tuple[Part, ...] = ()

    @property
    def standard_error(self) -> float:
        """Of the mean difference."""
        return math.sqrt(sum(part.of_mean for part in (self.cases, *self.runs)))

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom."""
        parts = [part for part in (self.cases, *self.runs) if part.variance > 0]
        if not parts:
            return float(self.cases.units - 1)
        weights = sum(part.of_mean**2 / (part.units - 1) for part in parts)
        return float(sum(part.of_mean for part in parts) ** 2 / weights)

    def detectable(self) -> float:
        """Return the smallest true difference that a two-sided t-test at 5 % finds with a probability of 80 %."""
        return self.standard_error * _noncentrality(self.freedom)

    def p_equivalence(self, difference: float, margin: float) -> float:
        """Return the p-value of two one-sided t-tests for a true difference within +-margin (Schuirmann 1987)."""
        error = self.standard_error
        if error == 0:
            return 0.0 if abs(difference) < margin else 1.0
        return float(stats.t.sf((margin - abs(difference)) / error, self.freedom))

    def p_above(self, difference: float, least: float) -> float:
        """Return the p-value of a one-sided t-test for a true difference above `least`."""
        if self.standard_error == 0:
            return 0.0 if difference > least else 1.0
        return float(stats.t.sf((difference - least) / self.standard_error, self.freedom))

    def cases_needed(self, difference: float, margin: float) -> int | None:
        """Return how many cases would decide it if the true difference were this one; None if no number of them would.

        Decided is: a t-test at 5 % finds a difference, or the 95 % interval lies within +-margin, with a probability of
        80 %. Corrections for many tests are not considered.
        """
        return _fewest(lambda n: replace(self, cases=replace(self.cases, units=n)), difference, margin)

    def runs_needed(self, difference: float, margin: float) -> int | None:
        """Return how many runs on each side would decide it, the cases being the same; None if no number would."""
        if not self.runs:
            return None

        def with_runs(number: int) -> Uncertainty:
            return Uncertainty(self.cases, tuple(replace(part, units=number) for part in self.runs))

        return _fewest(with_runs, difference, margin)

    def decides(self, difference: float, margin: float) -> bool:
        """Whether this design would decide it with a probability of 80 % if the true difference were this one."""
        error, freedom = self.standard_error, self.freedom
        # The sum of two quantiles is within 1 % of the noncentral t's answer from 5 degrees of freedom on, and fast.
        if error * (stats.t.ppf(1 - LEVEL / 2, freedom) + stats.t.ppf(POWER, freedom)) <= abs(difference):
            return True
        if error == 0:
            return abs(difference) < margin
        # The 95 % interval lies inside the margin on both sides.
        needed = stats.t.ppf(1 - LEVEL / 2, freedom)
        inside = [(margin + sign * difference) / error - needed for sign in (1, -1)]
        return bool(sum(stats.t.cdf(inside, freedom)) - 1 >= POWER)


def uncertainty(differences: npt.NDArray[np.float64], trainer: Matrix, baseline: Matrix) -> Uncertainty | None:
    """Return the uncertainty of a mean difference, None for fewer than two cases.

    Args:
        differences: Of the cases, averaged over runs; shape (cases,), no NaN.
        trainer: The trainer's values, shape (runs, cases), no NaN.
        baseline: The same of the baseline.
    """
    if len(differences) < 2:
        return None
    cases = Part(float(differences.var(ddof=1)), len(differences))
    sides = (trainer, baseline)
    if min(len(side) for side in sides) < 2:
        return Uncertainty(cases)
    return Uncertainty(cases, tuple(Part(float(side.mean(axis=1).var(ddof=1)), len(side)) for side in sides))


def two_level_interval(trainer: Matrix, baseline: Matrix, known: Uncertainty, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean difference from a bootstrap over runs and cases.

    Each sample draws cases, the same for both sides, and runs of each side. Two things make up for few runs: deviations
    of runs from their mean are stretched by sqrt(runs / (runs - 1)), as a plain bootstrap has too little variance
    (Davison & Hinkley 1997, section 3.8), and the percentiles by the quantile of Student's t over the normal one.

    Args:
        trainer: The trainer's values, shape (runs, cases), two runs or more, no NaN.
        baseline: The same of the baseline.
        known: Their uncertainty.
        seed: Of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    n = trainer.shape[1]
    counts = _drawn_cases(n, seed)
    found = np.zeros(RUN_SAMPLES)
    batch = max(1, 2_000_000 // n)
    for begin in range(0, RUN_SAMPLES, batch):
        shares = counts[begin : begin + batch] / n
        for sign, side in ((1, trainer), (-1, baseline)):
            runs = len(side)
            means = shares @ side.T
            middle = means.mean(axis=1, keepdims=True)
            stretched = middle + math.sqrt(runs / (runs - 1)) * (means - middle)
            drawn = rng.multinomial(runs, np.full(runs, 1 / runs), size=len(shares)) / runs
            found[begin : begin + batch] += sign * (drawn * stretched).sum(axis=1)
    mean = float(trainer.mean() - baseline.mean())
    wider = stats.t.ppf(1 - LEVEL / 2, known.freedom) / stats.norm.ppf(1 - LEVEL / 2)
    low, high = mean + wider * (np.percentile(found, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)]) - mean)
    return float(low), float(high)


@lru_cache(maxsize=2)
def _drawn_cases(n: int, seed: int) -> npt.NDArray[np.uint16]:
    """Return how often each sample draws each case; the same for all comparisons of a dataset, so it is kept."""
    rng = np.random.default_rng([seed, n])
    batch = max(1, 2_000_000 // n)
    sizes = [min(batch, RUN_SAMPLES - begin) for begin in range(0, RUN_SAMPLES, batch)]
    return np.concatenate([rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.uint16) for size in sizes])


def _noncentrality(freedom: float) -> float:
    """Return the true difference, in standard errors, that a t-test finds with the probability POWER."""
    critical = stats.t.ppf(1 - LEVEL / 2, freedom)

    def lacking(shift: float) -> float:
        return float(stats.nct.sf(critical, freedom, shift)) - POWER

    return float(optimize.brentq(lacking, 0.0, 4 * critical + 4))


def _fewest(design: Callable[[int], Uncertainty], difference: float, margin: float) -> int | None:
    low, high = 1, 2
    while not design(high).decides(difference, margin):
        if high > MOST:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if design(middle).decides(difference, margin):
            high = middle
        else:
            low = middle
    return high if high <= MOST else None
