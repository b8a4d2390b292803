"""The orders in which a report shows things, and the rows of its tables by their keys."""

from typing import Any

import pandas as pd

from nnunet_cpr.evaluation.metrics import METRICS
from nnunet_cpr.evaluation.results import FOREGROUND, Results

Key = tuple[str, str, str, str]  # dataset, trainer, label, metric


def rows_by_key(frame: pd.DataFrame) -> dict[Key, Any]:
    """Return the rows of a summary or of comparisons by dataset, trainer, label and metric."""
    return {(row.dataset, row.trainer, row.label, row.metric): row for row in frame.itertuples(index=False)}


def datasets(results: Results) -> list[str]:
    """Return the datasets in the order of the summary."""
    return list(results.summary["dataset"].unique())


def metrics(results: Results) -> list[str]:
    """Return the metrics in the order of METRICS, then any other."""
    present = list(results.summary["metric"].unique())
    return [metric for metric in METRICS if metric in present] + [metric for metric in present if metric not in METRICS]


def labels(results: Results, dataset: str) -> list[str]:
    """Return the dataset's labels, the foreground mean first."""
    present = results.summary.loc[results.summary["dataset"] == dataset, "label"].unique()
    return [FOREGROUND, *(label for label in present if label != FOREGROUND)]


def others(results: Results) -> list[str]:
    """Return the trainers that are compared with the baseline."""
    return [trainer for trainer in results.trainers if trainer != results.baseline]
