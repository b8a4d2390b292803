"""CPR's constraints over the training: lambda, R / kappa and R of all tensors, and how many are bounded and active."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogFormatter, PercentFormatter

from nnunet_cpr.evaluation.figures.drawing import (
    Drawing,
    averaged,
    count_trainings,
    draw_steps,
    epochs_per_point,
    file_names,
    present,
    short,
    style,
)
from nnunet_cpr.evaluation.results import CONSTRAINTS, Results
from nnunet_cpr.plotting import default_style
from nnunet_cpr.training.trace import MULTIPLIER, RATIO, REGULARIZER, Panel, scale_multipliers, set_scale

COLUMNS = 3
"""Trainers side by side in one figure."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BANDS = ((0.05, 0.95, 0.15), (0.25, 0.75, 0.3))
"""Lower and upper quantile, and opacity."""
_SINGLE: Any = {"color": "black", "linewidth": 0.5, "alpha": 0.4}
_SHARES: dict[str, Literal["-", ":"]] = {"bounded": "-", "active": ":"}


def draw_constraints(results: Results) -> Iterator[Drawing]:
    """Draw the constraints of every dataset's CPR trainers."""
    names = file_names(results.datasets)
    for dataset, traces in results.traces.groupby("dataset", sort=False, observed=True):
        trainers = present(results, set(traces["trainer"]))
        for number, start in enumerate(range(0, len(trainers), COLUMNS)):
            shown = trainers[start : start + COLUMNS]
            parts = [traces[traces["trainer"] == trainer] for trainer in shown]
            yield Drawing(
                f"constraints-{names[str(dataset)]}" + (f"-{number + 1}" if len(trainers) > COLUMNS else ""),
                CONSTRAINTS,
                f"{dataset}: CPR's constraints",
                "For each CPR trainer, over all regularized tensors of all its trainings (folds and repeats): median "
                "(line), middle half (dark band) and middle 90 % (light band) of the multiplier lambda, of R over its "
                "bound kappa once that is set, and of R. Thin lines: the medians of single trainings. Below, the share "
                "of tensors whose bound is set, and of those on which the constraint acts. "
                + count_trainings(traces, shown)
                + averaged(max(epochs_per_point(part["epoch"]) for part in parts)),
                constraints(results, shown, parts),
            )


@default_style()
def constraints(results: Results, trainers: Sequence[str], traces: Sequence[pd.DataFrame]) -> Figure:
    """Draw a column a trainer from its rows of the traces."""
    figure = Figure(figsize=(max(7.0, 3.4 * len(trainers) + 0.6), 9.6), layout="constrained")
    axes = figure.subplots(4, len(trainers), squeeze=False, sharex="col", sharey="row", height_ratios=[1, 1, 1, 0.8])
    for column, trainer, trace in zip(axes.T, trainers, traces, strict=True):
        color, _ = style(results, trainer)
        table = _quantities(trace)
        for ax, quantity in zip(column, ("lambda", "ratio", "reg"), strict=False):
            _draw_spread(ax, table, quantity, color)
        column[1].axhline(1, color="black", linewidth=0.8, linestyle="--")
        for name, line in _SHARES.items():
            column[3].plot(table.groupby("step")[name].mean(), line, color=color, linewidth=1.8, marker=_marker(table))
        column[0].set_title(f"{short(trainer)}\n", fontsize=10, fontweight="bold")
        draw_steps(column[3])
    several = any(trace[["run", "fold"]].drop_duplicates().shape[0] > 1 for trace in traces)
    panels = (MULTIPLIER, RATIO, REGULARIZER, Panel("tensors", "Share of tensors bounded and active", "linear"))
    for row, panel in zip(axes, panels, strict=True):
        row[0].set_title(panel.title, loc="left", fontsize=9)
        row[0].set_ylabel(panel.label)
        set_scale(row, panel)
    scale_multipliers(axes[0, 0], np.concatenate([trace["lagmul"] for trace in traces]))
    if axes[2, 0].get_yscale() == "log":
        axes[2, 0].yaxis.set_major_formatter(LogFormatter())
        axes[2, 0].yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes[3, 0].set_ylim(-0.03, 1.03)
    axes[3, 0].yaxis.set_major_formatter(PercentFormatter(1))
    for ax in axes.flat:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    _explain(figure, several)
    return figure


def _quantities(trace: pd.DataFrame) -> pd.DataFrame:
    """What is drawn, a row a tensor, training and point, averaged over the epochs of the point."""
    bounded = np.isfinite(trace["kappa"])
    values = {
        "lambda": trace["lagmul"],
        "ratio": trace["reg"] / trace["kappa"].where(bounded & (trace["kappa"] > 0)),
        "reg": trace["reg"].where(trace["reg"] > 0),
        "bounded": bounded,
        "active": trace["lagmul"] > 0,
    }
    block = trace["epoch"] // epochs_per_point(trace["epoch"])
    groups = trace.assign(**values, block=block).groupby(["run", "fold", "tensor", "block"], observed=True)
    return groups.agg({"step": "max", **dict.fromkeys(values, "mean")}).reset_index()


def _draw_spread(ax: Axes, table: pd.DataFrame, quantity: str, color: str) -> None:
    spread = table.groupby("step")[quantity].quantile(list(QUANTILES)).unstack()
    for low, high, opacity in _BANDS:
        ax.fill_between(spread.index, spread[low], spread[high], color=color, alpha=opacity, linewidth=0)
    medians = table.groupby(["run", "fold", "step"], observed=True)[quantity].median().unstack(["run", "fold"])
    if medians.shape[1] > 1:
        ax.plot(medians, **_SINGLE)
    ax.plot(spread[0.5], color=color, linewidth=2, marker=_marker(table))


def _marker(table: pd.DataFrame) -> str:
    return "o" if table["step"].nunique() == 1 else ""  # a line of one point shows nothing


def _explain(figure: Figure, several: bool) -> None:
    gray = "0.3"
    handles = [
        Line2D([], [], color=gray, linewidth=2, label="median"),
        Patch(facecolor=gray, alpha=0.45, label="middle 50 %"),
        Patch(facecolor=gray, alpha=0.15, label="middle 90 %"),
        *([Line2D([], [], **_SINGLE, label="median of one training")] if several else []),
        *(Line2D([], [], color=gray, linewidth=1.8, linestyle=line, label=name) for name, line in _SHARES.items()),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
