"""What a comparison consists of: the tables and slices that the report's writers print and draw."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nnunet_cpr.evaluation.metrics import METRICS
from nnunet_cpr.labels import FOREGROUND as FOREGROUND

# Topics of figures that are not about a metric.
TRAINING, CONSTRAINTS, SLICES, PAIRS = "training", "constraints", "slices", "pairs"

# One row a case, label and metric. `trainer` is the name shown, shared by the repeats of a setting; `run` tells them
# apart (with nnU-Net: the trainer's full name, the seed included).
CASE_COLUMNS = ["dataset", "trainer", "fold", "case", "label", "metric", "value", "run"]


EPOCH_COLUMNS = ["dataset", "trainer", "run", "fold", "epoch", "step"]
EPOCH_COLUMNS += ["train_loss", "validation_loss", "pseudo_dice", "seconds"]
COST_COLUMNS = ["dataset", "trainer", "run", "fold", "epochs", "seconds_per_epoch", "total_hours"]
PAPER_COLUMNS = ["dataset", "setting", "dice", "source"]
ACROSS_COLUMNS = ["trainer", "metric", "n", "difference", "ci_low", "ci_high", "better", "worse"]
TRACE_COLUMNS = ["dataset", "trainer", "run", "fold", "tensor", "epoch", "step", "reg", "kappa", "lagmul"]

Plane = npt.NDArray[Any]
"""Of shape (rows from the lower edge upwards, columns)."""


@dataclass(frozen=True)
class SlicedSegmentation:
    """A trainer's segmentation in the slice that is shown, and the Dice of the whole case (foreground mean)."""

    trainer: str
    run: str | None
    """Which one this is, of a trainer with several runs."""
    dice: float
    plane: npt.NDArray[np.integer]


@dataclass(frozen=True)
class CaseSlice:
    """One slice of a case: image, reference and segmentations, cropped to the structures."""

    dataset: str
    case: str
    reasons: list[str]
    """Why this case is shown."""
    position: str
    """Which slice this is, and why this one."""
    changes: str
    """The labels whose Dice differ most between the two segmentations."""
    image: Plane | None
    reference: npt.NDArray[np.integer]
    segmentations: list[SlicedSegmentation]
    labels: dict[str, int | tuple[int, ...]]
    aspect: float
    """Height of a pixel over its width."""


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
    baseline_mean, trainer_mean, difference_std, effect_size (matched-pairs rank-biserial correlation, -1 to 1), margin,
    runs_ci_low, runs_ci_high, detectable, p_equivalence, p_not_worse, cases_needed, runs_needed, verdict: see
    :func:`nnunet_cpr.evaluation.statistics.compare`."""
    extremes: pd.DataFrame
    """The cases that gained and lost most: dataset, trainer, baseline, label, metric, case, fold, difference."""
    ranks: pd.DataFrame | None
    """With three trainers or more: dataset, metric, trainer, mean_rank, rank_low, rank_high, first (share of bootstrap
    samples in which the trainer is ranked first)."""
    facts: dict[str, str]
    """How it was computed: command, versions, bootstrap samples and seed, policy for empty masks, tolerance..."""
    pairs: pd.DataFrame | None = None
    """With three trainers or more: all pairs of them, rows as in comparisons, of foreground means."""
    across: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=ACROSS_COLUMNS))
    """With two datasets or more: trainer, metric, n (datasets), difference, ci_low, ci_high, better, worse (of n)."""
    cautions: list[str] = field(default_factory=list)
    """One sentence each: small n, one seed, undefined cases, cases left out. To be shown prominently."""
    cost: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COST_COLUMNS))
    """dataset, trainer, run, fold, epochs, seconds_per_epoch (median), total_hours. Empty for plain folders."""
    paper: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PAPER_COLUMNS))
    """The paper's own figures for these datasets: dataset, setting, dice (0 to 1), source. May be empty."""
    epochs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=EPOCH_COLUMNS))
    """A row an epoch of a training; `step` counts the optimizer steps done by its end."""
    traces: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=TRACE_COLUMNS))
    """R, kappa and lambda of CPR's tensors: a row a tensor and epoch of a training."""
    slices: list[CaseSlice] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """By topic: sentences on trainings or cases that its figures lack."""
    test_set: "Results | None" = None
    """The same tables of what fold ensembles have predicted of the datasets' test sets, if that was asked for."""

    @property
    def datasets(self) -> list[str]:
        """The datasets in the order of the summary."""
        return list(self.summary["dataset"].unique())

    @property
    def metrics(self) -> list[str]:
        """The metrics in the order of METRICS, then any other."""
        present = list(self.summary["metric"].unique())
        return [name for name in METRICS if name in present] + [name for name in present if name not in METRICS]

    @property
    def others(self) -> list[str]:
        """The trainers that are compared with the baseline."""
        return [trainer for trainer in self.trainers if trainer != self.baseline]

    def labels(self, dataset: str) -> list[str]:
        """Return the dataset's labels, the foreground mean first."""
        present = self.summary.loc[self.summary["dataset"] == dataset, "label"].unique()
        return [FOREGROUND, *(label for label in present if label != FOREGROUND)]


Key = tuple[str, str, str, str]
"""Dataset, trainer, label and metric."""


def rows_by_key(frame: pd.DataFrame) -> dict[Key, Any]:
    """Return the rows of a summary or of comparisons by dataset, trainer, label and metric."""
    return {(row.dataset, row.trainer, row.label, row.metric): row for row in frame.itertuples(index=False)}
