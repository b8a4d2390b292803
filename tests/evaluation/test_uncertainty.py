"""Uncertainty over cases and runs: against statsmodels, and against simulated studies whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from nnunet_cpr.evaluation.uncertainty import Part, Uncertainty, two_level_interval, uncertainty


def simulate(rng, runs, cases, run_spread, difference=0.0):
    """Trainer and baseline, each (runs, cases): cases, runs and their combination all vary."""
    hard = rng.normal(0, 1, cases)

    def side():
        return rng.normal(0, run_spread, (runs, 1)) + rng.normal(0, 0.5, (runs, cases))

    return difference + hard + side(), side()


def of_one_run(values):
    return uncertainty(values, values[None], np.zeros((1, len(values))))


def test_with_one_run_it_is_the_paired_t_test():
    values = np.random.default_rng(0).normal(0.01, 0.05, 25)
    found = of_one_run(values)
    assert found.standard_error == pytest.approx(stats.sem(values))
    assert found.freedom == pytest.approx(24)
    for margin in (0.02, 0.05):
        expected = ttost_paired(values, np.zeros(25), -margin, margin)[0]
        assert found.p_equivalence(values.mean(), margin) == pytest.approx(expected)
    one_sided = stats.ttest_1samp(values, -0.02, alternative="greater").pvalue
    assert found.p_above(values.mean(), -0.02) == pytest.approx(one_sided)
    effect = TTestPower().solve_power(nobs=25, alpha=0.05, power=0.8) * values.std(ddof=1)
    assert found.detectable() == pytest.approx(effect, rel=1e-3)


def test_few_values():
    assert of_one_run(np.array([0.5])) is None and of_one_run(np.array([])) is None
    found = of_one_run(np.zeros(4))
    assert found.standard_error == found.detectable() == 0
    assert (found.p_equivalence(0.0, 0.1), found.p_equivalence(0.2, 0.1)) == (0, 1)


def test_runs_add_their_part():
    trainer, baseline = simulate(np.random.default_rng(1), 4, 30, 0.3)
    found = uncertainty(trainer.mean(axis=0) - baseline.mean(axis=0), trainer, baseline)
    parts = [(trainer.mean(axis=0) - baseline.mean(axis=0)).var(ddof=1) / 30]
    parts += [side.mean(axis=1).var(ddof=1) / 4 for side in (trainer, baseline)]
    assert found.standard_error == pytest.approx(math.sqrt(sum(parts)))
    assert found.freedom == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 29 + (parts[1] ** 2 + parts[2] ** 2) / 3))


def test_without_variance_between_runs_only_their_number_is_left_out():
    """Welch's t-test of the runs' means is what remains where the cases do not vary."""
    rng = np.random.default_rng(2)
    trainer, baseline = (np.repeat(rng.normal(size=(runs, 1)), 20, axis=1) for runs in (3, 5))
    found = uncertainty(np.full(20, trainer.mean() - baseline.mean()), trainer, baseline)
    welch = stats.ttest_ind(trainer[:, 0], baseline[:, 0], equal_var=False)
    assert found.freedom == pytest.approx(welch.df)
    assert (trainer.mean() - baseline.mean()) / found.standard_error == pytest.approx(welch.statistic)


@pytest.mark.parametrize("runs", [2, 3, 5])
@pytest.mark.parametrize("run_spread", [0.0, 0.3, 1.5])
def test_the_interval_over_runs_and_cases_covers_the_truth(runs, run_spread):
    """In about 95 % of studies, never in fewer; where runs hardly vary it is too wide, for they are so few."""
    rng, studies, covered, over_cases = np.random.default_rng(runs), 300, 0, 0
    for study in range(studies):
        trainer, baseline = simulate(rng, runs, 40, run_spread, difference=0.2)
        means = trainer.mean(axis=0) - baseline.mean(axis=0)
        low, high = two_level_interval(trainer, baseline, uncertainty(means, trainer, baseline), study)
        covered += low <= 0.2 <= high
        over_cases += abs(means.mean() - 0.2) <= stats.t.ppf(0.975, 39) * stats.sem(means)
    assert stats.binomtest(covered, studies, 0.95, alternative="less").pvalue > 0.001
    if run_spread > 1:
        assert covered < 0.99 * studies
        assert over_cases < 0.6 * studies  # what an interval over cases alone would have promised


@pytest.mark.parametrize("runs", [1, 3])
def test_a_detectable_difference_is_detected_in_four_of_five_studies(runs):
    rng, studies, found = np.random.default_rng(3), 2000, 0
    # The truth: variance of cases 1 + 2 * 0.25 / runs, and of runs 0.09 + 0.25 / 40 on each side.
    sides = (Part(0.09 + 0.25 / 40, runs),) * 2 if runs > 1 else ()
    truth = Uncertainty(Part(1 + 2 * 0.25 / runs, 40), sides)
    difference = truth.detectable()
    for _ in range(studies):
        trainer, baseline = simulate(rng, runs, 40, 0.3 if runs > 1 else 0.0, difference)
        means = trainer.mean(axis=0) - baseline.mean(axis=0)
        known = uncertainty(means, trainer, baseline)
        found += abs(means.mean()) > stats.t.ppf(0.975, known.freedom) * known.standard_error
    # With runs a little fewer: how many degrees of freedom there are is then itself estimated from few runs.
    assert found / studies == pytest.approx(0.8, abs=0.03 if runs == 1 else 0.06)


@pytest.mark.parametrize(("difference", "margin"), [(0.3, 0.1), (0.02, 0.2), (0.1, 0.25)])
def test_so_many_cases_decide_it(difference, margin):
    """In four of five simulated studies, or more, a difference is found, or the 95 % interval is inside the margin."""
    known = Uncertainty(Part(1.0, 20))
    number = known.cases_needed(difference, margin)
    assert not Uncertainty(Part(1.0, number - 1)).decides(difference, margin)
    rng, decided = np.random.default_rng(4), 0
    for _ in range(1000):
        values = rng.normal(difference, 1, number)
        seen = of_one_run(values)
        detected = stats.ttest_1samp(values, 0).pvalue < 0.05
        half = stats.t.ppf(0.975, number - 1) * seen.standard_error
        decided += detected or abs(values.mean()) + half < margin
    assert decided / 1000 > 0.77
    if difference < 0.05 or difference > margin:  # else now one, now the other is found
        assert decided / 1000 < 0.9


def test_more_cases_do_not_help_where_runs_vary():
    known = Uncertainty(Part(1.0, 50), (Part(0.2, 3), Part(0.2, 3)))
    assert known.cases_needed(0.1, 0.2) is None
    number = Uncertainty(Part(0.01, 50), known.runs).runs_needed(0.5, 0.01)
    assert Uncertainty(Part(0.01, 50), (Part(0.2, number),) * 2).decides(0.5, 0.01)
    assert Uncertainty(Part(1.0, 50)).runs_needed(0.5, 0.01) is None
    assert Uncertainty(Part(1.0, 50)).cases_needed(0.0, 0.001) is None


def test_the_interval_repeats_with_its_seed_and_needs_little_memory():
    trainer, baseline = simulate(np.random.default_rng(5), 3, 5000, 0.1)
    known = uncertainty(trainer.mean(axis=0) - baseline.mean(axis=0), trainer, baseline)
    first, again = (two_level_interval(trainer, baseline, known, 7) for _ in range(2))
    assert first == again != two_level_interval(trainer, baseline, known, 8)
