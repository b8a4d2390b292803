"""The statistics, against hand-computed tables, SciPy and statsmodels called directly, and simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from evaluation_helpers import frame
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nnunet_cpr.evaluation import statistics
from nnunet_cpr.evaluation.intervals import mean_intervals
from nnunet_cpr.evaluation.results import FOREGROUND
from nnunet_cpr.evaluation.uncertainty import two_level_interval, uncertainty


def random_cases(n=30, trainers=("base", "new"), labels=("left", "right"), seed=0, shift=0.0, metric="Dice"):
    rng = np.random.default_rng(seed)
    return frame(
        metric=metric,
        **{
            t: {f"c{i}": {label: rng.beta(8, 2) + shift * (t != "base") for label in labels} for i in range(n)}
            for t in trainers
        },
    )


def test_comparison_by_hand():
    cases = frame(
        base={"a": {"left": 0.5, "right": 0.8}, "b": {"left": 0.7, "right": 0.6}, "c": {"left": 0.6, "right": 0.7}},
        new={"a": {"left": 0.6, "right": 0.7}, "b": {"left": 0.7, "right": 0.9}, "c": {"left": 0.5, "right": 0.9}},
    )
    table = statistics.compare(statistics.add_foreground(cases), "base").set_index("label")
    left, right, mean = table.loc["left"], table.loc["right"], table.loc[FOREGROUND]
    assert (left.baseline_mean, left.trainer_mean) == pytest.approx((0.6, 0.6))
    assert (left.difference, left.difference_std) == pytest.approx((0.0, 0.1))  # +0.1, 0, -0.1
    assert (left.wins, left.ties, left.losses, left.n) == (1, 1, 1, 3)
    assert left.effect_size == pytest.approx(0)
    assert (right.baseline_mean, right.trainer_mean) == pytest.approx((0.7, 2.5 / 3))
    assert (right.wins, right.ties, right.losses) == (2, 0, 1)
    assert right.effect_size == pytest.approx((3 + 2 - 1) / 6)  # +0.3, +0.2, -0.1
    # case by case: a 0, b +0.15, c +0.05
    assert (mean.baseline_mean, mean.trainer_mean) == pytest.approx((0.65, (0.6 + 2.5 / 3) / 2))
    assert (mean.difference, mean.n) == pytest.approx((0.2 / 3, 3))
    assert mean.difference_std == pytest.approx(np.std([0, 0.15, 0.05], ddof=1))


def test_lower_is_better_for_distances():
    cases = frame(metric="HD95", base={"a": {"x": 5.0}, "b": {"x": 4.0}}, new={"a": {"x": 3.0}, "b": {"x": 4.5}})
    row = statistics.compare(cases, "base").iloc[0]
    assert (row.difference, row.wins, row.losses) == (-0.75, 1, 1)
    ranks = statistics.rank(
        statistics.add_foreground(frame(metric="HD95", a={"c": {"x": 5.0}}, b={"c": {"x": 3.0}}, d={"c": {"x": 4.0}}))
    )
    assert list(ranks["trainer"]) == ["b", "d", "a"]


def test_p_values_are_scipys_and_holms_correction_covers_all_rows():
    cases = pd.concat([random_cases(shift=0.02), random_cases(seed=1, metric="NSD")])
    table = statistics.compare(statistics.add_foreground(cases), "base")
    assert len(table) == 6
    for row in table.itertuples():
        part = cases[cases["metric"] == row.metric]
        if row.label != FOREGROUND:
            part = part[part["label"] == row.label]
        wide = part.groupby(["case", "trainer"])["value"].mean().unstack()
        expected = stats.wilcoxon(wide["new"], wide["base"]).pvalue
        assert row.p == pytest.approx(expected, rel=1e-9)
    assert table["p_holm"].to_numpy() == pytest.approx(multipletests(table["p"], method="holm")[1])


def test_the_interval_is_scipys_bca_and_repeatable():
    cases = random_cases(20)
    row = statistics.compare(cases, "base", seed=3).set_index("label").loc["left"]
    wide = cases[cases["label"] == "left"].pivot(index="case", columns="trainer", values="value")
    values = (wide["new"] - wide["base"])[cases["case"].unique()].to_numpy()
    for seed, tolerance in ((3, 1e-12), (99, 0.02)):
        expected = stats.bootstrap((values,), np.mean, n_resamples=9999, method="BCa", rng=seed).confidence_interval
        assert (row.ci_low, row.ci_high) == pytest.approx((expected.low, expected.high), abs=tolerance)
    again = statistics.compare(cases, "base", seed=3).set_index("label").loc["left"]
    assert (again.ci_low, again.ci_high) == (row.ci_low, row.ci_high)


def test_many_intervals_at_once_are_those_of_one_at_a_time():
    rng = np.random.default_rng(0)
    samples = [rng.gamma(2, 1, size) for size in (20, 30, 20, 2000, 30, 20)] + [np.ones(7), np.array([1.0])]
    for sample, ends in zip(samples, mean_intervals(samples, 5), strict=True):
        if np.ptp(sample):
            one = stats.bootstrap((sample,), np.mean, n_resamples=9999, batch=2_000_000 // len(sample), rng=5)
            assert ends == pytest.approx(tuple(one.confidence_interval), abs=1e-12)


@pytest.mark.parametrize("size", [4, 6, 20])
def test_an_interval_does_not_depend_on_what_else_is_compared(size):
    """Means that are equal on paper count as equal: whole numbers, which are exact, say what is right."""
    rng = np.random.default_rng(size)
    whole = [rng.integers(-5, 6, size).astype(float) for _ in range(12)]
    exact = [mean_intervals([sample * size], 3)[0] for sample in whole]  # so that means are whole, too
    for scale in (1 / 3, 0.01):
        together = mean_intervals([sample * scale for sample in whole], 3)
        for sample, ends, right in zip(whole, together, exact, strict=True):
            assert ends == pytest.approx(mean_intervals([sample * scale], 3)[0], abs=1e-12)
            assert ends == pytest.approx([end * scale / size for end in right], abs=1e-9)


def test_coverage_of_the_interval_is_near_95_percent():
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(200):
        ((low, high),) = mean_intervals([rng.gamma(2, 0.01, size=40) - 0.02], seed)  # skewed, true mean 0
        covered.append(low <= 0 <= high)
    assert 0.90 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], (math.nan, math.nan)), ([0.1], (math.nan, math.nan)), ([0.1, 0.1], (0.1, 0.1)), ([0.0] * 5, (0.0, 0.0))],
)
def test_intervals_without_spread(values, expected):
    assert mean_intervals([np.array(values)], 0) == [pytest.approx(expected, nan_ok=True)]


def test_equal_trainers_show_no_difference():
    cases = random_cases()
    twin = cases[cases["trainer"] == "base"].assign(trainer="new", run="new")
    table = statistics.compare(pd.concat([cases[cases["trainer"] == "base"], twin]), "base")
    assert (table["difference"] == 0).all() and (table["p"] == 1).all() and (table["effect_size"] == 0).all()
    assert (table["ties"] == table["n"]).all()


# Equal on paper


def test_means_of_the_same_values_in_another_order_are_ties():
    """Three labels exchange their values, so every foreground mean stays the same, but for floating point."""
    values = np.random.default_rng(3).uniform(0.01, 0.95, (20, 3))
    others = np.roll(values, 1, axis=1)
    assert ((others - values).mean(axis=1) != 0).any()
    cases = frame(
        base={f"c{i}": dict(zip("xyz", row, strict=True)) for i, row in enumerate(values)},
        new={f"c{i}": dict(zip("xyz", row, strict=True)) for i, row in enumerate(others)},
    )
    row = statistics.compare(cases, "base").set_index("label").loc[FOREGROUND]
    assert (row.wins, row.ties, row.losses, row.p, row.effect_size) == (0, 20, 0, 1, 0)
    assert (row.difference, row.ci_low, row.ci_high) == (0, 0, 0)
    assert (statistics.extremes(cases, "base")["difference"] == 0).all()


def test_steps_that_are_equal_on_paper_share_a_rank():
    """Differences of one, two and three fortieths: SciPy ranks the whole numbers exactly."""
    new = [0.500, 0.825, 0.375, 0.500, 0.450, 0.700, 0.350]
    base = [0.525, 0.775, 0.325, 0.550, 0.500, 0.650, 0.425]
    steps = [-1, 2, 2, -2, -2, 2, -3]  # fortieths
    assert len(set(np.abs(np.subtract(new, base)))) > 3
    cases = frame(
        base={f"c{i}": {"x": value} for i, value in enumerate(base)},
        new={f"c{i}": {"x": value} for i, value in enumerate(new)},
    )
    for metric in ("Dice", "NSD"):
        row = statistics.compare(cases.assign(metric=metric), "base").iloc[0]
        assert row.p == pytest.approx(stats.wilcoxon(steps).pvalue, abs=1e-12)
        assert row.effect_size == pytest.approx((3 * 4 - 1 - 2 * 4 - 7) / 28)  # ranks 1, 4 (five times) and 7
        assert (row.wins, row.losses) == (3, 4)


def test_a_real_difference_stays_one():
    """One voxel more in a structure of 10 million voxels."""
    dice = [2 * 9_000_000 / 19_000_000, 2 * 9_000_001 / 19_000_001]
    cases = frame(base={c: {"x": dice[0]} for c in "abc"}, new={c: {"x": dice[1]} for c in "abc"})
    row = statistics.compare(cases, "base").iloc[0]
    assert (row.wins, row.ties) == (3, 0) and row.difference == pytest.approx(dice[1] - dice[0], rel=1e-6)


def test_distances_in_float32_voxels_are_ties():
    """Seven voxels of 0.3 mm are three of 0.7 mm, but for the header's float32."""
    seven, three = 7 * float(np.float32(0.3)), 3 * float(np.float32(0.7))
    assert seven != three
    cases = frame(
        metric="HD95", a={"c": {"x": seven}}, b={"c": {"x": three}}, d={"c": {"x": 9.0}}, base={"c": {"x": seven}}
    )
    table = statistics.compare(statistics.add_foreground(cases), "base").set_index(["trainer", "label"])
    assert table.loc[("b", "x"), "ties"] == 1 and table.loc[("d", "x"), "losses"] == 1
    ranks = statistics.rank(statistics.add_foreground(cases)).set_index("trainer")["mean_rank"]
    assert ranks.to_dict() == {"a": 2, "b": 2, "base": 2, "d": 4}


def test_snap():
    nan = math.nan
    values = np.array([0.3, -0.1 - 0.2, nan, 1e-17, -1e-17, 0.0, 0.5, -0.300001, nan])
    found = statistics.snap(values, 1e-9)
    assert found[0] == -found[1] and (found[3:6] == 0).all() and not np.signbit(found[3:6]).any()
    assert found[6] == 0.5 and found[7] == -0.300001
    assert np.isnan(found).tolist() == np.isnan(values).tolist()
    assert statistics.snap(np.array([]), 1e-9).size == 0


def test_undefined_cases_are_left_out_of_the_pairs_and_of_n():
    cases = frame(
        base={"a": {"left": 0.5}, "b": {"left": math.nan}, "c": {"left": 0.7}},
        new={"a": {"left": 0.6}, "b": {"left": 0.0}, "c": {"left": 0.9}},
    )
    row = statistics.compare(cases, "base").iloc[0]
    assert row.n == 2
    assert row.difference == pytest.approx(0.15)
    assert (row.baseline_mean, row.trainer_mean) == pytest.approx((0.6, 0.5))  # nnU-Net's means, each over its own


def test_nothing_to_compare():
    cases = frame(base={"a": {"left": math.nan}}, new={"a": {"left": math.nan}})
    with pytest.raises(ValueError, match="D: no case has a Dice for both base and new"):
        statistics.compare(cases, "base")


def test_one_label_is_one_test():
    cases = pd.concat([random_cases(labels=("x",), trainers=("base", "new", "other"), shift=0.05)])
    table = statistics.compare(statistics.add_foreground(cases), "base")
    expected = multipletests(table.loc[table["label"] == "x", "p"], method="holm")[1]
    assert table.loc[table["label"] == "x", "p_holm"].to_numpy() == pytest.approx(expected)
    assert table.loc[table["label"] == FOREGROUND, "p_holm"].to_numpy() == pytest.approx(expected)


def test_a_collapsed_trainer_does_not_hide_the_others():
    nan = math.nan
    cases = frame(
        base={c: {"x": 0.5} for c in "abc"}, new={c: {"x": 0.6} for c in "abc"}, gone={c: {"x": nan} for c in "abc"}
    )
    table = statistics.compare(statistics.add_foreground(cases), "base").set_index(["trainer", "label"])
    assert table.loc[("gone", "x"), "n"] == 0 and math.isnan(table.loc[("gone", "x"), "difference"])
    assert table.loc[("new", "x"), "difference"] == pytest.approx(0.1)


class TestSummary:
    def rows(self, cases):
        return statistics.summarize(statistics.add_foreground(cases)).set_index(["trainer", "label"])

    def test_means_by_hand(self):
        nan = math.nan
        one = frame(fold="0", t={"a": {"x": 0.5, "y": nan}, "b": {"x": 0.7, "y": 0.8}})
        two = frame(fold="1", t={"c": {"x": 0.9, "y": 0.6}})
        table = self.rows(pd.concat([one, two]))
        x, y, mean = (table.loc[("t", label)] for label in ("x", "y", FOREGROUND))
        assert (x["n"], x["mean"], x["median"], x["min"], x["max"]) == pytest.approx((3, 0.7, 0.7, 0.5, 0.9))
        assert (y["n"], y["undefined"], y["mean"]) == pytest.approx((2, 1, 0.7))
        assert mean["mean"] == pytest.approx(0.7)  # mean of the labels' means, not of the cases' (0.65)
        assert mean["mean_over_folds"] == pytest.approx(((0.6 + 0.8) / 2 + (0.9 + 0.6) / 2) / 2)
        assert (mean["folds"], mean["runs"]) == (2, 1)
        assert math.isnan(mean["runs_std"])

    def test_each_training_by_itself(self):
        one = frame(fold="0", t={"a": {"x": 0.5, "y": math.nan}, "b": {"x": 0.7, "y": 0.8}})
        two = frame(fold="1", t={"c": {"x": 0.9, "y": 0.6}})
        table = statistics.per_training(statistics.add_foreground(pd.concat([one, two])))
        table = table.set_index(["fold", "label"])
        assert table["mean"].to_dict() == pytest.approx(
            {("0", "x"): 0.6, ("0", "y"): 0.8, ("0", FOREGROUND): 0.7,
             ("1", "x"): 0.9, ("1", "y"): 0.6, ("1", FOREGROUND): 0.75}
        )  # fmt: skip
        assert table.loc[("0", "y"), "n"] == 1 and table.loc[("0", "x"), "n"] == 2

    def test_a_label_without_any_value_does_not_poison_the_mean(self):
        table = self.rows(frame(t={"a": {"x": 0.5, "y": math.nan}, "b": {"x": 0.7, "y": math.nan}}))
        assert table.loc[("t", FOREGROUND), "mean"] == pytest.approx(0.6)
        assert table.loc[("t", "y"), "n"] == 0

    def test_runs_are_apart_from_cases(self):
        """Two seeds that differ by 0.1 throughout: the spread over cases does not see it."""
        one = frame(t={"a": {"x": 0.5}, "b": {"x": 0.7}}).assign(run="s0")
        two = frame(t={"a": {"x": 0.6}, "b": {"x": 0.8}}).assign(run="s1")
        row = self.rows(pd.concat([one, two])).loc[("t", "x")]
        assert (row["n"], row["runs"]) == (2, 2)
        assert row["mean"] == pytest.approx(0.65)
        assert row["std"] == pytest.approx(np.std([0.55, 0.75], ddof=1))
        assert row["runs_std"] == pytest.approx(np.std([0.6, 0.7], ddof=1))


def test_runs_are_averaged_before_they_are_paired():
    base = frame(base={"a": {"x": 0.5}, "b": {"x": 0.7}})
    runs = [frame(new={"a": {"x": v}, "b": {"x": v + 0.2}}).assign(run=r) for v, r in ((0.5, "s0"), (0.7, "s1"))]
    row = statistics.compare(pd.concat([base, *runs]), "base").iloc[0]
    assert (row.n, row.difference) == pytest.approx((2, 0.1))


def several_runs(runs=3, cases=12):
    """Two labels; the second is undefined in one case for all, and in another one for a single run."""
    rng = np.random.default_rng(3)
    parts = []
    for trainer in ("base", "new"):
        for run in range(runs):
            values = {f"c{k}": {"left": rng.uniform(), "right": rng.uniform()} for k in range(cases)}
            values["c1"]["right"] = np.nan
            values["c2"]["right"] = np.nan if (trainer, run) == ("new", 0) else 0.5
            parts.append(frame(**{trainer: values}).assign(run=f"{trainer}{run}"))
    return pd.concat(parts)


def test_with_several_runs_the_interval_covers_them_too():
    """A slow way to the same: each run's table by hand, and the cases in which both are defined."""
    cases = several_runs()
    table = statistics.compare(statistics.add_foreground(cases), "base", seed=5, margins={"Dice": 0.2})
    for row in table.itertuples():
        sides = []
        for trainer in ("new", "base"):
            runs = []
            for run in range(3):
                own = cases[cases["run"] == f"{trainer}{run}"].set_index(["case", "label"])["value"].to_dict()
                of_cases = []
                for k in range(12):
                    left, right = own[f"c{k}", "left"], own[f"c{k}", "right"]
                    if k == 2 and (trainer, run) == ("new", 0):
                        right = 0.5  # the mean of the other runs
                    of_cases.append({"left": left, "right": right, FOREGROUND: np.nanmean([left, right])}[row.label])
                runs.append([value for value in of_cases if not np.isnan(value)])
            sides.append(np.array(runs))
        means = sides[0].mean(axis=0) - sides[1].mean(axis=0)
        assert row.n == len(means) == (11 if row.label == "right" else 12)
        known = uncertainty(means, *sides)
        assert row.difference == pytest.approx(means.mean())
        assert (row.runs_ci_low, row.runs_ci_high) == pytest.approx(two_level_interval(*sides, known, 5))
        assert row.detectable == pytest.approx(known.detectable())
        assert row.p_equivalence == pytest.approx(known.p_equivalence(means.mean(), 0.2))
        assert row.p_not_worse == pytest.approx(known.p_above(means.mean(), -0.2))
        assert row.runs_ci_low < row.ci_low < row.ci_high < row.runs_ci_high
        assert row.margin == 0.2


def test_one_run_of_either_side_says_nothing_of_runs():
    cases = several_runs()
    table = statistics.compare(statistics.add_foreground(cases[~cases["run"].isin(["base1", "base2"])]), "base")
    assert table[["runs_ci_low", "runs_ci_high", "runs_needed"]].isna().all(axis=None)
    assert table["detectable"].notna().all() and (table["margin"] == 0.01).all()


def test_verdicts():
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.5, 0.9, 60)
    trainers = {"base": 0.0, "better": 0.05, "worse": -0.05, "same": 0.0, "a little better": 0.004}
    spreads = {"same": 0.01, "a little better": 0.001}
    cases = frame(**{
        name: {f"c{k}": {"x": hard[k] + shift + rng.normal(0, spreads.get(name, 0.02))} for k in range(60)}
        for name, shift in trainers.items()
    })  # fmt: skip
    cases = pd.concat([cases, frame(unsure={f"c{k}": {"x": hard[k] + rng.normal(0, 0.2)} for k in range(60)})])
    found = statistics.compare(statistics.add_foreground(cases), "base").set_index(["trainer", "label"])["verdict"]
    assert found.xs("x", level="label").to_dict() == {
        "better": "better", "worse": "worse", "same": "equal", "a little better": "equal", "unsure": "not decided",
    }  # fmt: skip
    cases["metric"] = "HD95"
    cases["value"] *= 100
    found = statistics.compare(statistics.add_foreground(cases), "base").set_index(["trainer", "label"])["verdict"]
    assert found["better", "x"] == "worse" and found["worse", "x"] == "better"  # lower is better, in mm


def test_extremes():
    values = {f"c{i:02}": i / 100 for i in range(-6, 7)}
    cases = frame(base={c: {"x": 0.5} for c in values}, new={c: {"x": 0.5 + v} for c, v in values.items()})
    table = statistics.extremes(statistics.add_foreground(cases), "base", count=2)
    assert list(table["case"]) == ["c-6", "c-5", "c05", "c06"]
    assert table["difference"].to_numpy() == pytest.approx([-0.06, -0.05, 0.05, 0.06])


class TestRanks:
    def test_none_for_two(self):
        assert statistics.rank(random_cases()) is None

    def test_by_hand(self):
        cases = frame(
            a={"1": {"x": 0.9}, "2": {"x": 0.9}, "3": {"x": 0.5}},
            b={"1": {"x": 0.8}, "2": {"x": 0.9}, "3": {"x": 0.6}},
            c={"1": {"x": 0.7}, "2": {"x": 0.1}, "3": {"x": 0.4}},
        )
        table = statistics.rank(statistics.add_foreground(cases)).set_index("trainer")
        assert table["mean_rank"].to_dict() == pytest.approx({"a": (1 + 1.5 + 2) / 3, "b": (2 + 1.5 + 1) / 3, "c": 3})
        assert table.loc["c", ["rank_low", "rank_high", "first"]].tolist() == [3, 3, 0]
        assert table["first"].sum() == pytest.approx(1)
        assert 0.3 < table.loc["a", "first"] < 0.7
