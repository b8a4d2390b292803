"""Training curves: one line per trainer, the mean of its trainings, with their range."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from nnunet_cpr.evaluation.figures.drawing import (
    Drawing,
    averaged,
    count_trainings,
    draw_steps,
    epochs_per_point,
    file_names,
    legend,
    present,
    style,
)
from nnunet_cpr.evaluation.results import TRAINING, Results
from nnunet_cpr.plotting import default_style

PANELS = {
    "train_loss": "training loss",
    "validation_loss": "validation loss",
    "pseudo_dice": "mean foreground pseudo Dice",
}


@dataclass(frozen=True)
class Curve:
    """The trainings of one trainer: `epochs` has the columns run, fold, epoch, step and those of PANELS.

    Curves with a name are named in the figure.
    """

    epochs: pd.DataFrame
    color: str
    marker: str
    name: str = ""


def draw_training(results: Results) -> Iterator[Drawing]:
    """Draw the curves of every dataset."""
    names = file_names(results.datasets)
    for dataset, epochs in results.epochs.groupby("dataset", sort=False):
        trainers = present(results, set(epochs["trainer"]))
        curves = [Curve(epochs[epochs["trainer"] == trainer], *style(results, trainer)) for trainer in trainers]
        figure = training_curves(curves)
        legend(figure, results, trainers)
        yield Drawing(
            f"curves-{names[str(dataset)]}",
            TRAINING,
            f"{dataset}: training curves",
            f"Loss on training and validation patches, and the pseudo Dice that nnU-Net estimates from validation "
            f"patches, mean over labels (the tables hold the real one). Lines: mean over a trainer's trainings (folds "
            f"and repeats); bands: their range, from the lowest to the highest. {count_trainings(epochs, trainers)}"
            + averaged(epochs_per_point(epochs["epoch"])),
            figure,
        )


@default_style()
def training_curves(curves: Sequence[Curve], warm_start: int | None = None) -> Figure:
    """Draw losses and pseudo Dice over steps; a vertical line marks the end of CPR's warm start."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[1].sharey(axes[0])
    width = max((epochs_per_point(curve.epochs["epoch"]) for curve in curves), default=1)
    for curve in curves:
        table = _over_trainings(curve.epochs, width)
        every = max(1, len(table) // 10)
        for ax, value in zip(axes, PANELS, strict=True):
            low, mean, high = (table[value, one] for one in ("min", "mean", "max"))
            if (low < high).any():
                ax.fill_between(table.index, low, high, color=curve.color, alpha=0.2, linewidth=0)
            ax.plot(
                table.index, mean, color=curve.color, linewidth=1.6, label=curve.name,
                marker=curve.marker, markersize=4.5, markeredgecolor="white", mew=0.5, markevery=every,
            )  # fmt: skip
    for ax, title in zip(axes, PANELS.values(), strict=True):
        ax.set_title(title, loc="left", fontsize=10)
        draw_steps(ax)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
        if warm_start is not None:
            ax.axvline(warm_start, color="0.35", linewidth=1, linestyle="--", label="CPR's bounds are set")
    axes[2].set_ylim(bottom=0)
    if any(curve.name for curve in curves):
        axes[2].legend(loc="lower right", fontsize=8, frameon=False)
    return figure


def _over_trainings(epochs: pd.DataFrame, width: int) -> pd.DataFrame:
    """Return (value, mean or min or max) over trainings by step, after averaging `width` epochs of each training."""
    columns = ["run", "fold"]
    block = epochs["epoch"] // width
    means = epochs.groupby([*columns, block])[["step", *PANELS]].agg({"step": "max", **dict.fromkeys(PANELS, "mean")})
    found: pd.DataFrame = means.groupby("step")[list(PANELS)].agg(["mean", "min", "max"])
    return found
