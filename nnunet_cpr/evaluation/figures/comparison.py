"""Figures of a comparison over many cases: differences with intervals, pairs of cases, and distributions per label.

Legible in grayscale and for color-blind readers: trainers differ in color (Okabe and Ito's), in marker and in order.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_cpr.evaluation import formatting as numbers
from nnunet_cpr.evaluation.figures.drawing import Drawing, file_names, legend, present, short, slug, style
from nnunet_cpr.evaluation.margins import widest_interval
from nnunet_cpr.evaluation.metrics import metric as metric_of
from nnunet_cpr.evaluation.results import FOREGROUND, Results, rows_by_key
from nnunet_cpr.plotting import default_style

FEW_CASES = 60  # so few are drawn one by one over their box


def draw_comparison(results: Results) -> Iterator[Drawing]:
    """Draw every figure, the first metric's first."""
    comparisons = rows_by_key(results.comparisons)
    names = file_names(results.datasets)
    for metric in results.metrics:
        rows = [
            (dataset, trainer, comparisons[key])
            for dataset in results.datasets
            for trainer in results.others
            if (key := (dataset, trainer, FOREGROUND, metric)) in comparisons
        ]
        if rows:
            yield Drawing(
                f"differences-{slug(metric)}",
                metric,
                f"Foreground mean {metric}: difference to {results.baseline}",
                "Forest plot: one row per dataset and trainer; mean paired difference with its 95 % interval, which "
                f"the numbers beside it repeat.{_over_runs(results)} An interval that crosses the line at 0 shows no "
                "evidence of a difference; one inside the gray band, the margin, shows equality within it.",
                forest(results, rows, metric),
            )
        for dataset, name in names.items():
            rows = [
                (label, trainer, comparisons[key])
                for label in results.labels(dataset)
                for trainer in results.others
                if (key := (dataset, trainer, label, metric)) in comparisons
            ]
            if len({label for label, _, _ in rows}) > 1:
                yield Drawing(
                    f"labels-{slug(metric)}-{name}",
                    metric,
                    f"{dataset}: difference in {metric} per label",
                    "Forest plot: one row per label and trainer; mean paired difference to the baseline with its 95 % "
                    f"interval.{_over_runs(results)} The intervals are not corrected for the number of labels. The "
                    "gray band is the margin.",
                    forest(results, rows, metric),
                )
            cases = results.cases[(results.cases["dataset"] == dataset) & (results.cases["metric"] == metric)]
            pairs = _per_case(cases[cases["label"] == FOREGROUND])
            directed = metric_of(metric).lower_is_better is not None
            if directed and results.baseline in pairs and any(trainer in pairs for trainer in results.others):
                yield Drawing(
                    f"cases-{slug(metric)}-{name}",
                    metric,
                    f"{dataset}: foreground mean {metric} case by case",
                    "Above, each case's value with the trainer over its value with the baseline; on the line both are "
                    "equal. Below, the differences of all cases in order. Repeated trainings are averaged per case.",
                    paired_cases(results, pairs, metric),
                )
            if cases["value"].notna().any():
                yield Drawing(
                    f"distribution-{slug(metric)}-{name}",
                    metric,
                    f"{dataset}: {metric} of the cases per label and trainer",
                    "Box plots over cases: box from the lower to the upper quartile, line at the median, whiskers to "
                    "the farthest case within 1.5 box lengths, dots for cases (all where they are few, otherwise those "
                    "beyond the whiskers). Repeated trainings are averaged per case.",
                    distribution(results, dataset, cases, metric),
                )


def draw_test_set(results: Results) -> Iterator[Drawing]:
    """Draw the first metric's figures of a test set, whose names and titles say so."""
    first = results.metrics[0]
    for drawing in draw_comparison(results):
        if drawing.topic == first:
            yield replace(drawing, name=f"test-set-{drawing.name}", title=f"Test set: {drawing.title}")


@default_style()
def forest(results: Results, rows: Sequence[tuple[str, str, Any]], metric: str) -> Figure:
    """Draw differences with intervals: rows of group (dataset or label), trainer and comparison."""
    trainers = present(results, {trainer for _, trainer, _ in rows})
    groups = list(dict.fromkeys(group for group, _, _ in rows))
    figure = Figure(figsize=(8.5, 1.3 + 0.24 * len(rows) + 0.12 * len(groups)), layout="constrained")
    ax = figure.subplots()
    y, ticks = 0.0, []
    for number, group in enumerate(groups):
        top = y
        for _, trainer, row in (one for one in rows if one[0] == group):
            color, marker = style(results, trainer)
            if not math.isnan(row.difference):
                ax.plot([row.ci_low, row.ci_high], [y, y], color=color, linewidth=1.8, solid_capstyle="butt")
                if not math.isnan(row.runs_ci_low):
                    ax.plot([row.runs_ci_low, row.runs_ci_high], [y, y], color=color, linewidth=0.8)
                ax.plot(row.difference, y, marker, color=color, markersize=6, markeredgecolor="white", mew=0.6)
            interval = numbers.interval(*widest_interval(row), metric)
            ax.annotate(
                f"{numbers.difference(row.difference, metric)} {interval}, n = {row.n}",
                (1.02, y),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
            )
            y += 1
        ticks.append((top + y - 1) / 2)
        if number % 2 == 0:
            ax.axhspan(top - 0.75, y - 0.25, color="0.94", zorder=0)
        y += 0.5
    margin = rows[0][2].margin
    ax.axvspan(-margin, margin, color="0.85", zorder=0.5)
    ax.axvline(0, color="black", linewidth=1)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_yticks(ticks, [short(group) for group in groups])
    ax.set(ylim=(y - 0.75, -0.75))
    unit, better = numbers.unit(metric), "left" if metric_of(metric).lower_is_better else "right"
    ax.set_xlabel(f"difference in {metric}{unit}, trainer minus baseline; {better} of 0: better than the baseline")
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    legend(figure, results, trainers)
    return figure


@default_style()
def paired_cases(results: Results, pairs: pd.DataFrame, metric: str) -> Figure:
    """Draw each trainer's cases against the baseline's, and the sorted differences."""
    trainers = present(results, set(pairs.columns) - {results.baseline})
    figure = Figure(figsize=(max(5.0, 3.4 * len(trainers)), 6.4), layout="constrained")
    axes = figure.subplots(2, len(trainers), squeeze=False, height_ratios=[3, 2])
    unit, lower = numbers.unit(metric), metric_of(metric).lower_is_better
    known = pairs[[results.baseline, *trainers]].to_numpy()
    low, high = (np.nanmin(known), np.nanmax(known)) if np.isfinite(known).any() else (0.0, 1.0)
    pad = 0.03 * (high - low) or 0.01
    for (above, below), trainer in zip(axes.T, trainers, strict=True):
        color, marker = style(results, trainer)
        both = pairs[[results.baseline, trainer]].dropna()
        above.plot([low - pad, high + pad], [low - pad, high + pad], color="black", linewidth=0.8)
        above.plot(both[results.baseline], both[trainer], marker, color=color, alpha=0.6, markersize=4, mew=0)
        above.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad), aspect="equal")
        above.set_title(short(trainer), fontsize=10)
        above.set_xlabel(f"{metric}{unit}, baseline")
        above.set_ylabel(f"{metric}{unit}, trainer")
        side = ("lower", "right") if lower else ("upper", "left")
        x, y = (0.97, 0.04) if side[1] == "right" else (0.03, 0.96)
        above.text(
            x, y, "trainer better", transform=above.transAxes, fontsize=8, ha=side[1], va="bottom" if x > 0.5 else "top"
        )
        differences = np.sort((both[trainer] - both[results.baseline]).to_numpy())
        below.vlines(
            np.arange(1, len(differences) + 1),
            0,
            differences,
            color=color,
            linewidth=max(0.5, 120 / max(len(differences), 30)),
        )
        below.axhline(0, color="black", linewidth=0.8)
        below.set_xlabel(f"{len(differences)} cases in order")
        below.set_ylabel(f"difference{unit}\n({'below' if lower else 'above'} 0: better)")
    largest = max((np.abs(ax.get_ylim()).max() for ax in axes[1]), default=1.0)
    for ax in axes[1]:
        ax.set(ylim=(-largest, largest))
    for ax in axes.flat:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


@default_style()
def distribution(results: Results, dataset: str, cases: pd.DataFrame, metric: str) -> Figure:
    """Draw box plots of the metric over cases, per label and trainer."""
    trainers = present(results, set(cases["trainer"].unique()))
    present_labels = set(cases["label"].unique())
    shown = [label for label in results.labels(dataset) if label in present_labels]
    figure = Figure(figsize=(8.5, 1.2 + 0.2 * len(shown) * (len(trainers) + 0.6)), layout="constrained")
    ax = figure.subplots()
    jitter = np.random.default_rng(0)
    slot = len(trainers) + 0.6
    for number, label in enumerate(shown):
        values = _per_case(cases[cases["label"] == label])
        if number % 2 == 0:
            ax.axhspan(number * slot - 0.8, number * slot + slot - 0.8, color="0.94", zorder=0)
        for offset, trainer in enumerate(trainers):
            y = number * slot + offset
            known = values[trainer].dropna().to_numpy() if trainer in values else np.array([])
            color, marker = style(results, trainer)
            few = len(known) <= FEW_CASES
            if few:
                ax.plot(
                    known,
                    y + jitter.uniform(-0.25, 0.25, len(known)),
                    marker,
                    color=color,
                    alpha=0.6,
                    markersize=3.5,
                    mew=0,
                )
            if len(known):
                ax.boxplot(
                    known,
                    positions=[y],
                    orientation="horizontal",
                    widths=0.7,
                    showfliers=not few,
                    patch_artist=True,
                    manage_ticks=False,
                    boxprops={
                        "facecolor": "none" if few else matplotlib.colors.to_rgba(color, 0.35),
                        "edgecolor": color,
                    },
                    medianprops={"color": "black", "linewidth": 1.8},
                    whiskerprops={"color": color},
                    capprops={"color": color},
                    flierprops={
                        "marker": marker,
                        "markersize": 2.5,
                        "markerfacecolor": color,
                        "markeredgewidth": 0,
                        "alpha": 0.6,
                    },
                )
    ax.set_yticks(
        [number * slot + (len(trainers) - 1) / 2 for number in range(len(shown))], [short(label) for label in shown]
    )
    ax.set(ylim=(len(shown) * slot - 0.8, -0.8))
    ax.set_xlabel(numbers.metric_name(metric))
    ax.grid(axis="x", alpha=0.3)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    legend(figure, results, trainers)
    return figure


def _over_runs(results: Results) -> str:
    if results.comparisons["runs_ci_low"].isna().all():
        return ""
    return " Thick: over cases; thin, and in numbers: over runs and cases, where both trainers have several runs."


def _per_case(cases: pd.DataFrame) -> pd.DataFrame:
    """A row a case and a column a trainer; repeats (runs) of a trainer are averaged."""
    return cases.pivot_table(index="case", columns="trainer", values="value", aggfunc="mean", observed=True)
