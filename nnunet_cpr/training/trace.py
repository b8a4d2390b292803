"""The CPR trace of a training: R, kappa and lambda of every regularized tensor at the end of every epoch.

A tensor has no rows for the epochs in which it is frozen.
"""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nnunet_cpr.files import write_whole
from nnunet_cpr.plotting import default_style

if TYPE_CHECKING:  # reading a trace needs no torch
    from nnunet_cpr.optim import Constraint

TRACE_FILE = "cpr_trace.csv"
FIGURE_FILE = "cpr_progress.png"
SMALLEST, LARGEST = 1e-100, 1e100
"""Far below and above the positive numbers of a float32. Matplotlib cannot draw axes to the ends of float64."""


class Panel(NamedTuple):
    """How a quantity of the trace is drawn."""

    label: str
    title: str
    scale: str


MULTIPLIER = Panel(r"$\lambda$", "Multiplier: 0 while the bound holds by itself", "linear")
RATIO = Panel(r"$R\;/\;\kappa$", "Regularizer over its bound: above 1 it is violated", "linear")
REGULARIZER = Panel(r"$R(\theta)$", "Regularizer", "log")


class Row(NamedTuple):
    """One tensor at the end of one epoch; `step` counts the training steps done by then."""

    epoch: int
    step: int
    tensor: str
    reg: float
    kappa: float
    lagmul: float


class Trace:
    """The rows of `cpr_trace.csv` in one fold's folder."""

    def __init__(self, folder: str | Path, first_epoch: int) -> None:
        """Keep what the folder has of the epochs before `first_epoch`; what comes after is about to be done again."""
        self.folder = Path(folder)
        self.rows = [row for row in read_trace(self.folder / TRACE_FILE) if row.epoch < first_epoch]

    def add(self, epoch: int, step: int, constraints: "Iterable[Constraint]") -> None:
        """Note the state at the end of an epoch."""
        self.rows += [Row(epoch, step, c.name, c.reg, c.kappa, c.lagmul) for c in constraints]

    def save(self) -> None:
        """Write table and figure, each whole or not at all."""
        with (
            write_whole(self.folder / TRACE_FILE) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows(
                (*row[:3], *(f"{number:.9g}" for number in row[3:]))  # 9 digits are a float32 exactly
                for row in self.rows
            )
        with write_whole(self.folder / FIGURE_FILE) as temporary:
            _save_figure(draw(self.rows), temporary)


def read_trace(path: str | Path) -> list[Row]:
    """The rows of a `cpr_trace.csv`; none if there is no such file. Raises ValueError where it is damaged."""
    if not Path(path).is_file():
        return []
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            return [
                Row(
                    int(row["epoch"]),
                    int(row["step"]),
                    row["tensor"],
                    float(row["reg"]),
                    float(row["kappa"]),
                    float(row["lagmul"]),
                )
                for row in csv.DictReader(file)
            ]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({error!r})") from error


def implausible(numbers: np.ndarray) -> np.ndarray:
    """Tell which values of R, kappa and lambda no training writes, also none that diverges."""
    size = np.abs(numbers)
    wrong: np.ndarray = (numbers < 0) | ((size > LARGEST) & np.isfinite(size)) | ((size < SMALLEST) & (size > 0))
    return wrong


@default_style()  # nnU-Net's progress.png changes the global style
def draw(rows: list[Row]) -> Figure:
    """Lambda, R / kappa and R over the epochs: a thin line per tensor, colored by depth, and their median."""
    epochs = sorted({row.epoch for row in rows})
    tensors = _in_order(rows)
    column, line = {e: i for i, e in enumerate(epochs)}, {t: i for i, t in enumerate(tensors)}
    reg, kappa, lagmul = np.full((3, len(tensors), len(epochs)), math.nan)
    for row in rows:
        at = line[row.tensor], column[row.epoch]
        reg[at], kappa[at], lagmul[at] = row.reg, row.kappa, row.lagmul
    for values in (reg, kappa, lagmul):
        values[implausible(values)] = math.nan
    kappa[(kappa == 0) | np.isinf(kappa)] = math.nan
    figure = Figure(figsize=(10, 10), layout="constrained")
    axes = figure.subplots(3, sharex=True)
    colors = matplotlib.colormaps["viridis"]
    depth = Normalize(0, max(1, len(tensors) - 1))
    panels = [(lagmul, MULTIPLIER), (reg / kappa, RATIO), (np.where(reg > 0, reg, math.nan), REGULARIZER)]
    for ax, (values, panel) in zip(axes, panels, strict=True):
        for i, series in enumerate(values):
            ax.plot(epochs, series, color=colors(depth(i)), linewidth=0.8, marker=_marker(epochs), markersize=2)
        ax.plot(epochs, _median(values), color="crimson", linewidth=2.2, label="median", marker=_marker(epochs))
        ax.set_ylabel(panel.label)
        set_scale([ax], panel)
        ax.set_title(panel.title, loc="left", fontsize=10)
        ax.grid(alpha=0.3)
    scale_multipliers(axes[0], lagmul)
    axes[1].axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes[0].legend(loc="upper left", frameon=False)
    axes[2].set_xlabel("epoch")
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    bar = figure.colorbar(matplotlib.cm.ScalarMappable(depth, colors), ax=axes, aspect=60, pad=0.01)
    bar.set_label(f"tensor, in the network's order (0 to {len(tensors) - 1})")
    return figure


@default_style()
def _save_figure(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)


def _in_order(rows: list[Row]) -> list[str]:
    """Return the tensors in the network's order, also those that were frozen in the first epochs."""
    order: list[str] = []
    known: set[str] = set()
    before: Row | None = None
    for row in rows:
        if row.tensor not in known:
            at = order.index(before.tensor) + 1 if before and before.epoch == row.epoch else 0
            order.insert(at, row.tensor)
            known.add(row.tensor)
        before = row
    return order


def _marker(epochs: list[int]) -> str:
    return "o" if len(epochs) == 1 else ""  # a line of one point shows nothing


def _median(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values).any(axis=0)
    median = np.full(values.shape[1], math.nan)
    median[known] = np.nanmedian(values[:, known], axis=0)
    return median


def set_scale(axes: Sequence[Axes], panel: Panel) -> None:
    """Scale axes that share y as the panel says; a logarithmic scale needs a positive value, or matplotlib refuses."""
    drawable = any(math.isfinite(ax.dataLim.minposy) for ax in axes)
    axes[0].set_yscale(panel.scale if drawable else "linear")


def scale_multipliers(ax: Axes, lagmul: np.ndarray) -> None:
    """Make the axis linear from 0 to about a thousandth of the largest multiplier, logarithmic above."""
    largest = np.max(lagmul, where=np.isfinite(lagmul), initial=0.0)
    if largest > 0:
        ax.set_yscale("symlog", linthresh=10.0 ** (math.floor(math.log10(largest)) - 3))  # a tick, so that 0 has room
        ax.set_ylim(bottom=0)
    else:
        ax.set_yscale("linear")
        ax.text(0.5, 0.5, "no multiplier is active yet", transform=ax.transAxes, ha="center", va="center", color="gray")
