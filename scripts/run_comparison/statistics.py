"""The numbers of a comparison: final values over seeds, paired differences, steps needed to reach a value.

The interval is Student's, not the bootstrap of `nnunet_cpr.evaluation`: there are a few seeds here, not many cases.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from nnunet_cpr.labels import escaped
from run_comparison.runs import Run

BASELINES = ("adamw", "sgd", "adam")
"""Optimizers among whose settings the baseline is chosen: of the first that is there."""


@dataclass(frozen=True)
class Comparison:
    """One row per run and one per setting, and what they were compared with."""

    metric: str
    runs: pd.DataFrame
    settings: pd.DataFrame
    baseline: str | None
    chosen_among: int
    """From how many settings the baseline was chosen by its results; 0 where it was named by the user."""


def lower_is_better(metric: str) -> bool:
    """Tell whether a lower value is the better one: of losses and perplexities."""
    return metric.endswith(("loss", "perplexity"))


def written(value: float, metric: str) -> str:
    """Return a value of the metric with as many decimals as are worth reading."""
    return f"{value:.{3 if metric.endswith('perplexity') else 4}f}"


def compare(
    runs: Sequence[Run],
    names: Sequence[str],
    metric: str,
    baseline: str | None = None,
    reach: float | None = None,
    unfinished: bool = False,
) -> Comparison:
    """Compare the settings of runs.

    Args:
        runs: the runs.
        names: the name of each run's setting.
        metric: what is compared. The value of a run is that of its last evaluation, never the best one.
        baseline: the name of a setting; default: the best of `BASELINES`, on the very values that are compared.
        reach: also report when each run first had a value as good as this.
        unfinished: count runs that are not finished, with the value that they have; otherwise only say that they exist.

    Returns:
        `runs` has setting, seed, folder, step, max_steps, finished, counted; for counted runs also value, difference,
        target, steps_to_baseline, share_of_budget; for all steps_to_value. `settings` has, best first, setting, n,
        unfinished, mean, std (over seeds, ddof = 1), pairs, difference, difference_std, ci_low, ci_high (95 % interval
        of Student's t, of 3 pairs or more), and for `baseline_` and `value_`: reached, of (runs), first_step, last_step
        (among those that reached it); shares are of the baseline's steps. Differences are setting minus baseline, of
        the same seed.

    Raises:
        ValueError: a run has no such metric; no setting has this name; no run counts.
    """
    for run in runs:
        if metric not in run.evaluations:
            raise ValueError(f"{run.folder} has no metric {metric}; it has {', '.join(run.evaluations)}")
    table = pd.DataFrame(
        {
            "setting": name, "seed": run.seed, "folder": escaped(str(run.folder)), "step": run.last_step,
            "max_steps": run.settings["max_steps"], "finished": run.finished, "counted": run.finished or unfinished,
            "value": run.evaluations[metric].iloc[-1],
        }
        for run, name in zip(runs, names, strict=True)
    )  # fmt: skip
    if not table["counted"].any():
        raise ValueError(f"no run is finished ({table['folder'][0]} is at step {table['step'][0]} of "
                         f"{table['max_steps'][0]}); --unfinished takes them as they are")  # fmt: skip
    table["value"] = table["value"].where(table["counted"])
    lower = lower_is_better(metric)
    optimizers = {name: run.settings["optimizer"] for run, name in zip(runs, names, strict=True)}
    among = 0
    if baseline is None:
        baseline, among = _best_baseline(table[table["counted"]], optimizers, lower)
    elif baseline not in optimizers:
        raise ValueError(f"no setting is called {baseline!r}; there are: {'; '.join(dict.fromkeys(names))}")
    elif not table["counted"][table["setting"] == baseline].any():
        raise ValueError(f"no run of the baseline {baseline} is finished; --unfinished takes them as they are")
    series = [run.evaluations[metric] for run in runs]
    _add_baseline(table, baseline, series, lower)
    if reach is not None:
        table["steps_to_value"] = [_first_step(s, reach, lower) for s in series]
    rows = [_summary(name, part, reach is not None) for name, part in table.groupby("setting", sort=False)]
    settings = pd.DataFrame(rows).sort_values("mean", ascending=lower, ignore_index=True, kind="stable")
    return Comparison(metric, table, settings, baseline, among)


def _best_baseline(counted: pd.DataFrame, optimizers: dict[str, str], lower: bool) -> tuple[str | None, int]:
    """The setting with the best mean among those of the first optimizer that is there, and among how many."""
    means = counted.groupby("setting", sort=False)["value"].apply(lambda values: values.mean(skipna=False))
    for optimizer in BASELINES:
        own = means[[optimizers[name] == optimizer for name in means.index]].dropna()
        if len(own):
            return str(own.idxmin() if lower else own.idxmax()), len(own)
    return None, 0


def _add_baseline(table: pd.DataFrame, baseline: str | None, series: Sequence[pd.Series], lower: bool) -> None:
    """Add differences to the baseline, its final value and when it was reached: of the same seed, else of the mean."""
    base = table[(table["setting"] == baseline) & table["counted"]].set_index("seed")
    table["difference"] = (table["value"] - table["seed"].map(base["value"])).where(table["setting"] != baseline)
    paired = table["seed"].isin(base.index)
    for column, source in (("target", "value"), ("budget", "step")):
        same_seed = table["seed"].map(base[source])
        table[column] = same_seed.where(paired, base[source].mean(skipna=False)).where(table["counted"])
    table["paired"] = paired & table["counted"] & (table["setting"] != baseline)
    table["steps_to_baseline"] = [
        _first_step(s, target, lower) for s, target in zip(series, table["target"], strict=True)
    ]
    table["share_of_budget"] = table["steps_to_baseline"] / table["budget"]


def _first_step(series: pd.Series, target: float, lower: bool) -> float:
    """The first evaluated step with a value at least as good, or NaN."""
    reached = series.index[series <= target if lower else series >= target]
    return float(reached[0]) if len(reached) else math.nan


def _summary(name: str, runs: pd.DataFrame, reach: bool) -> dict[str, object]:
    counted, pairs = runs[runs["counted"]], runs.loc[runs["paired"], "difference"]
    values = counted["value"]
    half = math.nan
    if len(pairs) >= 3:
        half = stats.t.ppf(0.975, len(pairs) - 1) * pairs.std(ddof=1, skipna=False) / math.sqrt(len(pairs))
    # skipna: a run whose value is not a number diverged; a mean over the others would hide it.
    row = {
        "setting": name, "n": len(counted), "unfinished": int((~runs["finished"]).sum()),
        "mean": values.mean(skipna=False), "std": values.std(ddof=1, skipna=False),
        "pairs": len(pairs), "difference": pairs.mean(skipna=False), "difference_std": pairs.std(ddof=1, skipna=False),
        "ci_low": pairs.mean(skipna=False) - half, "ci_high": pairs.mean(skipna=False) + half,
    }  # fmt: skip
    asked = counted if counted["target"].notna().all() else counted.head(0)
    row |= _reached("baseline", asked["steps_to_baseline"])
    row |= {
        "baseline_first_share": asked["share_of_budget"].min(), "baseline_last_share": asked["share_of_budget"].max(),
    }  # fmt: skip
    if reach:
        row |= _reached("value", counted["steps_to_value"])
    return row


def _reached(what: str, steps: pd.Series) -> dict[str, object]:
    """How many runs reached it, and the first and last step at which one did. A mean would leave out the others."""
    return {
        f"{what}_reached": int(steps.notna().sum()), f"{what}_of": len(steps),
        f"{what}_first_step": steps.min(), f"{what}_last_step": steps.max(),
    }  # fmt: skip
