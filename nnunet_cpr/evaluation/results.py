"""What a comparison consists of: the tables that the statistics make and that the report's writers print."""

from dataclasses import dataclass, field

import pandas as pd

FOREGROUND = "foreground mean"

# One row a case, label and metric. `trainer` is the name shown, shared by the repeats of a setting; `run` tells them
# apart (with nnU-Net: the trainer's full name, the seed included).
CASE_COLUMNS = ["dataset", "trainer", "fold", "case", "label", "metric", "value", "run"]


@dataclass
class Results:
    """The tables of one comparison. Values of Dice and NSD lie in [0, 1]; HD95 and MASD are in mm; NaN: undefined."""

    title: str
    baseline: str
    """The trainer that the others are compared with."""
    trainers: list[str]
    """Names in the order to show them, the baseline first."""
    cases: pd.DataFrame
    """CASE_COLUMNS. Foreground means of cases are rows with the label FOREGROUND."""
    summary: pd.DataFrame
    """dataset, trainer, label, metric, n, mean, std, median, min, max, undefined (number of NaN cases), folds, runs,
    mean_over_folds (the paper's), runs_std (between the means of runs; NaN for one run)."""
    trainings: pd.DataFrame
    """Each training by itself: dataset, trainer, run, fold, label, metric, n, mean."""
    comparisons: pd.DataFrame
    """dataset, trainer, baseline, label, metric, n, difference, ci_low, ci_high, p, p_holm, wins, ties, losses,
    baseline_mean, trainer_mean, difference_std, effect_size (matched-pairs rank-biserial correlation, -1 to 1)."""
    extremes: pd.DataFrame
    """The cases that gained and lost most: dataset, trainer, baseline, label, metric, case, fold, difference."""
    ranks: pd.DataFrame | None
    """With three trainers or more: dataset, metric, trainer, mean_rank, rank_low, rank_high, first (share of bootstrap
    samples in which the trainer is ranked first)."""
    cost: pd.DataFrame
    """dataset, trainer, run, fold, epochs, seconds_per_epoch (median), total_hours. Empty for plain folders."""
    paper: pd.DataFrame
    """The paper's own figures for these datasets: dataset, setting, dice (0 to 1), source. May be empty."""
    facts: dict[str, str]
    """How it was computed: command, versions, bootstrap samples and seed, policy for empty masks, tolerance..."""
    cautions: list[str] = field(default_factory=list)
    """One sentence each: small n, one seed, undefined cases, cases left out. To be shown prominently."""
