"""Statistics of a comparison: summaries, paired comparisons with a baseline, and ranks.

Cases are the units. Several runs (seeds) of a trainer are averaged per case first, so that the spread between cases and
the spread between runs are never mixed; the latter is in the summary as `runs_std`.

Values that are equal on paper may differ in their last digits, because they are computed in another order. Wherever
values are ranked, counted or compared with 0, such values count as equal: see :func:`snap`.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nnunet_cpr.evaluation.intervals import mean_intervals
from nnunet_cpr.evaluation.margins import margin_of, verdict
from nnunet_cpr.evaluation.metrics import metric as of_metric
from nnunet_cpr.evaluation.results import ACROSS_COLUMNS, FOREGROUND
from nnunet_cpr.evaluation.uncertainty import LEVEL, two_level_interval, uncertainty


def add_foreground(cases: pd.DataFrame) -> pd.DataFrame:
    """Return `cases` with a row FOREGROUND for each case: the mean over the labels that are defined in it."""
    keys = ["dataset", "trainer", "fold", "case", "metric", "run"]
    means = cases.groupby(keys, sort=False, as_index=False)["value"].mean().assign(label=FOREGROUND)
    return pd.concat([cases, means[cases.columns]], ignore_index=True)


def summarize(cases: pd.DataFrame) -> pd.DataFrame:
    """Return one row per dataset, trainer, label and metric; `cases` as :func:`add_foreground` returns them.

    `mean` is over all cases of all folds and runs. For FOREGROUND it is nnU-Net's: the mean over labels of their means;
    labels without any defined case are left out of it. `mean_over_folds` is the paper's: that mean of each training,
    averaged over the trainings. `std`, `median`, `min` and `max` are over cases, `runs_std` is over the runs' means.
    """
    rows = []
    for (dataset, trainer, metric), part in cases.groupby(["dataset", "trainer", "metric"], sort=False):
        per_training = part.groupby(["run", "fold", "label"], sort=False)["value"].mean().unstack("label")
        per_run = part.groupby(["run", "label"], sort=False)["value"].mean().unstack("label")
        for table in (per_training, per_run):
            table[FOREGROUND] = table.drop(columns=FOREGROUND).mean(axis=1)
        labels = list(part["label"].unique())
        pooled = part.groupby("label", sort=False)["value"].mean()
        pooled[FOREGROUND] = pooled.drop(FOREGROUND).mean()
        for label in labels:
            values = part.loc[part["label"] == label].groupby("case", sort=False)["value"].mean()
            rows.append(
                {
                    "dataset": dataset,
                    "trainer": trainer,
                    "label": label,
                    "metric": metric,
                    "n": int(values.notna().sum()),
                    "mean": pooled[label],
                    "std": values.std(ddof=1),
                    "median": values.median(),
                    "min": values.min(),
                    "max": values.max(),
                    "undefined": int(values.isna().sum()),
                    "folds": part["fold"].nunique(),
                    "runs": part["run"].nunique(),
                    "mean_over_folds": per_training[label].mean(),
                    "runs_std": per_run[label].std(ddof=1),
                }
            )
    return pd.DataFrame(rows)


def per_training(cases: pd.DataFrame) -> pd.DataFrame:
    """Return n and mean of every training by itself; the foreground mean is nnU-Net's, over labels of their means."""
    keys = ["dataset", "trainer", "run", "fold", "metric"]
    table = cases.groupby([*keys, "label"], sort=False)["value"].agg(n="count", mean="mean").reset_index()
    foreground = table["label"] == FOREGROUND
    over_labels = table[~foreground].groupby(keys, sort=False)["mean"].mean()
    table.loc[foreground, "mean"] = over_labels.loc[pd.MultiIndex.from_frame(table.loc[foreground, keys])].to_numpy()
    return table


def compared_metrics(cases: pd.DataFrame) -> pd.DataFrame:
    """Return the cases without the metrics of which neither more nor less is better."""
    return cases[[of_metric(name).lower_is_better is not None for name in cases["metric"]]]


def differences(cases: pd.DataFrame, baseline: str, trainer: str) -> pd.DataFrame:
    """Return trainer minus baseline of one dataset and metric: one row per case, one column per label, FOREGROUND last.

    A case's difference is NaN where either is undefined. FOREGROUND is the mean of the case's differences, so that both
    trainers are compared on the same labels. Differences that are equal but for rounding are made equal.
    """
    labels = [label for label in cases["label"].unique() if label != FOREGROUND]
    table = cases.pivot_table(index="case", columns=["trainer", "label"], values="value", sort=False, dropna=False)
    found: pd.DataFrame = table[trainer].reindex(columns=labels) - table[baseline].reindex(columns=labels)
    found[FOREGROUND] = found.mean(axis=1)
    rounding = _rounding(cases)
    return found.apply(lambda values: snap(values.to_numpy(), rounding))


def snap(values: np.ndarray, rounding: float) -> np.ndarray:
    """Return the values, made equal where their sizes differ by `rounding` or less, and 0 where they are no larger.

    Sizes are compared with their neighbors. Cutting them off after a digit would separate equal values at its edge. NaN
    stays.
    """
    sizes = np.abs(values)
    order = np.argsort(sizes)  # NaN last
    ordered = np.insert(sizes[order], 0, 0.0)
    begins = np.diff(ordered) > rounding
    first = np.maximum.accumulate(np.where(begins, np.arange(1, len(ordered)), 0))
    snapped = np.empty_like(sizes)
    snapped[order] = ordered[first]
    snapped[np.isnan(sizes)] = np.nan
    signed: np.ndarray = np.copysign(snapped, values) + 0.0  # without -0.0
    return signed


def _rounding(cases: pd.DataFrame) -> float:
    """Return which differences mean nothing among the values of one metric."""
    return float(of_metric(cases["metric"].iloc[0]).rounding * np.nan_to_num(cases["value"].abs().max()))


def compare(
    cases: pd.DataFrame, baseline: str, seed: int = 0, margins: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Compare every trainer with the baseline, paired by case: a row a dataset, trainer, label and metric.

    `difference` is the mean of trainer minus baseline, with its BCa bootstrap 95 % interval (Efron 1987; `seed`), the
    Wilcoxon signed-rank test and, over all rows, Holm's correction. `effect_size` is the matched-pairs rank-biserial
    correlation. `wins` counts the cases in which the trainer is better, so lower for HD95 and MASD.

    `runs_ci_low` and `runs_ci_high` are the interval over runs and cases, NaN unless both have two runs or more.
    `detectable`, `p_equivalence`, `p_not_worse`, `cases_needed` and `runs_needed` are those of :class:`Uncertainty`
    with the metric's margin (by `margins`, else the default), over runs too where that is possible; `verdict` is that
    of margins.py.

    Raises:
        ValueError: no case has a value for both, in all that is compared.
    """
    result = _compared_pairs(cases, baseline, seed, margins)
    if not result["n"].any():
        first = result.iloc[0]
        raise ValueError(f"{first.dataset}: no case has a {first.metric} for both {baseline} and {first.trainer}")
    repeated = _repeated(result)
    tested = result["p"].notna() & ~repeated
    if tested.any():
        result.loc[tested, "p_holm"] = multipletests(result.loc[tested, "p"], method="holm")[1]
    result["p_holm"] = result["p_holm"].where(~repeated, result["p_holm"].shift())
    result["verdict"] = [verdict(row) for row in result.itertuples()]
    return result


def number_of_tests(comparisons: pd.DataFrame) -> int:
    """Return how many tests Holm's correction covers."""
    return int((comparisons["p"].notna() & ~_repeated(comparisons)).sum())


def _repeated(comparisons: pd.DataFrame) -> pd.Series:
    """With one label the foreground mean is that label: one test, not two."""
    single = comparisons.groupby(["dataset", "trainer", "metric"], sort=False)["label"].transform("size") == 2
    return single & (comparisons["label"] == FOREGROUND)


def _compared_pairs(
    cases: pd.DataFrame, baseline: str, seed: int, margins: Mapping[str, float] | None, only: str | None = None
) -> pd.DataFrame:
    """Return the rows of :func:`compare` without correction and verdict, of one label if `only` names it."""
    rows, samples, roundings = [], [], []
    for (dataset, metric), part in compared_metrics(cases).groupby(["dataset", "metric"], sort=False):
        means, rounding = part.groupby(["trainer", "label"], sort=False)["value"].mean(), _rounding(part)
        margin, runs = margin_of(str(metric), margins or {}), values_of_runs(part)
        for trainer in part["trainer"].unique():
            if trainer == baseline:
                continue
            table = differences(part, baseline, trainer)
            for label, values in table.items() if only is None else [(only, table[only])]:
                known = values.dropna().to_numpy()
                better = known < 0 if of_metric(str(metric)).lower_is_better else known > 0
                mean = _snapped(known.mean(), rounding) if len(known) else np.nan
                samples.append(known)
                roundings.append(rounding)
                base, ours = (_mean(means[name], str(label)) for name in (baseline, trainer))
                ours_by_run, base_by_run = (_matrix(runs[name], table, str(label)) for name in (trainer, baseline))
                row = {
                    "dataset": dataset,
                    "trainer": trainer,
                    "baseline": baseline,
                    "label": label,
                    "metric": metric,
                    "n": len(known),
                    "difference": mean,
                    "ci_low": np.nan,
                    "ci_high": np.nan,
                    "p": _wilcoxon(known),
                    "p_holm": np.nan,
                    "wins": int(better.sum()),
                    "ties": int((known == 0).sum()),
                    "losses": int(len(known) - better.sum() - (known == 0).sum()),
                    "baseline_mean": base,
                    "trainer_mean": ours,
                    "difference_std": known.std(ddof=1) if len(known) > 1 else np.nan,
                    "effect_size": _rank_biserial(known),
                    "margin": margin,
                }
                rows.append(row | _certainty(known, ours_by_run, base_by_run, mean, row, seed, only is None))
    for row, rounding, ends in zip(rows, roundings, mean_intervals(samples, seed), strict=True):
        row["ci_low"], row["ci_high"] = (_snapped(end, rounding) for end in ends)
    return pd.DataFrame(rows)


def _snapped(value: float, rounding: float) -> float:
    """Return 0 for a value that is only rounding."""
    return 0.0 if abs(value) <= rounding else value


def compare_all(
    cases: pd.DataFrame, trainers: Sequence[str], seed: int = 0, margins: Mapping[str, float] | None = None
) -> pd.DataFrame | None:
    """Compare the foreground means of all pairs of three or more trainers, None for fewer: rows as of :func:`compare`.

    Holm's correction is over the pairs of a dataset and metric. Of each pair, `baseline` is the one named first.
    """
    if len(trainers) < 3:
        return None
    found = []
    for number, first in enumerate(trainers):
        part = cases[cases["trainer"].isin(trainers[number:])]
        together = part.groupby("dataset")["trainer"].transform(lambda names, one=first: (names == one).any())
        if number < len(trainers) - 1 and together.any():
            found.append(_compared_pairs(part[together], first, seed, margins, FOREGROUND))
    if not found:
        return None
    pairs = pd.concat(found, ignore_index=True)
    for _, rows in pairs.groupby(["dataset", "metric"], sort=False):
        tested = rows.index[rows["p"].notna()]
        if len(tested):
            pairs.loc[tested, "p_holm"] = multipletests(pairs.loc[tested, "p"], method="holm")[1]
    pairs["verdict"] = [verdict(row) for row in pairs.itertuples()]
    return pairs


def over_datasets(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over datasets of the foreground differences: the datasets are the units, however few they are.

    A row a trainer and metric that were compared on two datasets or more: `n` datasets, `difference` with its 95 %
    t-interval, and in how many datasets the trainer's difference is `better`, or `worse`.
    """
    rows = []
    known = comparisons[(comparisons["label"] == FOREGROUND) & comparisons["difference"].notna()]
    for (trainer, metric), part in known.groupby(["trainer", "metric"], sort=False):
        values = part["difference"].to_numpy()
        if len(values) < 2:
            continue
        half = stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * stats.sem(values)
        better = values < 0 if of_metric(str(metric)).lower_is_better else values > 0
        equal = int((values == 0).sum())
        rows.append(
            {
                "trainer": trainer,
                "metric": metric,
                "n": len(values),
                "difference": values.mean(),
                "ci_low": values.mean() - half,
                "ci_high": values.mean() + half,
                "better": int(better.sum()),
                "worse": len(values) - int(better.sum()) - equal,
            }
        )
    return pd.DataFrame(rows, columns=ACROSS_COLUMNS)


def values_of_runs(cases: pd.DataFrame) -> dict[str, list[pd.DataFrame]]:
    """Return a table for each run of each trainer: a row a case, a column a label; cases of one dataset and metric."""
    of_labels = cases[cases["label"] != FOREGROUND]
    return {
        str(trainer): [
            part.pivot_table(index="case", columns="label", values="value", sort=False, dropna=False)
            for _, part in rows.groupby("run", sort=False)
        ]
        for trainer, rows in of_labels.groupby("trainer", sort=False)
    }


def _matrix(runs: list[pd.DataFrame], table: pd.DataFrame, label: str) -> np.ndarray:
    """Return the values of a label in each run (row) and case (column), of the cases and labels that are compared.

    What is undefined in some runs gets the mean of the others, so that the mean over all is that of the difference.
    """
    compared = table.index[table[label].notna()]
    names = list(table.columns.drop(FOREGROUND)) if label == FOREGROUND else [label]
    values = np.stack([run.reindex(compared)[names].to_numpy(dtype=float) for run in runs])
    defined = table.loc[compared, names].notna().to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing, which are not used
        values = np.where(np.isnan(values), np.nanmean(values, axis=0), values)
        return np.asarray(np.nanmean(np.where(defined, values, np.nan), axis=2))


def _certainty(
    known: np.ndarray,
    trainer: np.ndarray,
    baseline: np.ndarray,
    mean: float,
    row: dict[str, Any],
    seed: int,
    needed: bool,
) -> dict[str, float]:
    """Return what :class:`Uncertainty` says; how much is `needed` takes longer."""
    keys = ("runs_ci_low", "runs_ci_high", "detectable", "p_equivalence", "p_not_worse", "cases_needed", "runs_needed")
    found = dict.fromkeys(keys, np.nan)
    spread = uncertainty(known, trainer, baseline)
    if spread is None:
        return found
    if spread.runs:
        found["runs_ci_low"], found["runs_ci_high"] = two_level_interval(trainer, baseline, spread, seed)
    better = -mean if of_metric(row["metric"]).lower_is_better else mean
    found["detectable"], found["p_equivalence"] = spread.detectable(), spread.p_equivalence(mean, row["margin"])
    found["p_not_worse"] = spread.p_above(better, -row["margin"])
    for key, count in (("cases_needed", spread.cases_needed), ("runs_needed", spread.runs_needed)) if needed else ():
        number = count(mean, row["margin"])
        found[key] = np.nan if number is None else number
    return found


def extremes(cases: pd.DataFrame, baseline: str, count: int = 5) -> pd.DataFrame:
    """Return the cases whose foreground mean gained and lost most, `count` each, worst loss first."""
    rows = []
    for (dataset, metric), part in compared_metrics(cases).groupby(["dataset", "metric"], sort=False):
        folds = part.drop_duplicates("case").set_index("case")["fold"]
        for trainer in part["trainer"].unique():
            if trainer == baseline:
                continue
            values = differences(part, baseline, trainer)[FOREGROUND].dropna().sort_values(kind="stable")
            shown = values if len(values) <= 2 * count else pd.concat([values.iloc[:count], values.iloc[-count:]])
            rows += [
                (dataset, trainer, baseline, FOREGROUND, metric, case, folds[case], value)
                for case, value in shown.items()
            ]
    columns = ["dataset", "trainer", "baseline", "label", "metric", "case", "fold", "difference"]
    return pd.DataFrame(rows, columns=columns)


def rank(cases: pd.DataFrame, seed: int = 0, samples: int = 1000) -> pd.DataFrame | None:
    """Rank three or more trainers by each case's foreground mean (1 is best, ties share), None for fewer.

    `rank_low` and `rank_high` are the 2.5 and 97.5 percentiles of the mean rank when cases are drawn again, `first` is
    the share of these draws in which the trainer's mean rank is the lowest (shared in ties).
    """
    if cases["trainer"].nunique() < 3:
        return None
    rng = np.random.default_rng(seed)
    rows = []
    foreground = compared_metrics(cases[cases["label"] == FOREGROUND])
    for (dataset, metric), part in foreground.groupby(["dataset", "metric"], sort=False):
        table = part.pivot_table(index="case", columns="trainer", values="value", sort=False).dropna()
        if table.empty:
            continue
        rounding = _rounding(part)
        snapped = pd.DataFrame([snap(row, rounding) for row in table.to_numpy()])
        ranks = snapped.rank(axis=1, ascending=bool(of_metric(str(metric)).lower_is_better)).to_numpy()
        drawn = np.stack([ranks[rng.integers(len(ranks), size=len(ranks))].mean(axis=0) for _ in range(samples)])
        best = np.isclose(drawn, drawn.min(axis=1, keepdims=True))
        first = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        for column, trainer in enumerate(table.columns):
            row = (dataset, metric, trainer, ranks[:, column].mean(), low[column], high[column], first[column])
            rows.append(row)
    if not rows:
        return None
    return pd.DataFrame(
        rows, columns=["dataset", "metric", "trainer", "mean_rank", "rank_low", "rank_high", "first"]
    ).sort_values(["dataset", "metric", "mean_rank"], ignore_index=True)


def _mean(means: pd.Series, label: str) -> float:
    value = means.drop(FOREGROUND, errors="ignore").mean() if label == FOREGROUND else means.get(label, np.nan)
    return float(value)


def _wilcoxon(values: np.ndarray) -> float:
    if len(values) == 0:
        return np.nan
    return float(stats.wilcoxon(values).pvalue) if values.any() else 1.0


def _rank_biserial(values: np.ndarray) -> float:
    moved = values[values != 0]
    if len(moved) == 0:
        return 0.0 if len(values) else np.nan
    ranks = stats.rankdata(np.abs(moved))
    return float((ranks[moved > 0].sum() - ranks[moved < 0].sum()) / ranks.sum())
