"""Figures of a comparison: training curves, and one slice with reference and predictions.

Legible in greyscale and for colour-blind readers: methods differ in colour (Okabe and Ito's) and in marker, labels in
lightness.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nnunet_cpr.files import write_whole

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D")
LABEL_COLOURS = ("#0072B2", "#F0E442", "#CC79A7", "#009E73", "#E69F00", "#56B4E9", "#D55E00")


@dataclass(frozen=True)
class Curves:
    """One training's values per epoch, and the optimizer steps of an epoch."""

    name: str
    steps_per_epoch: int
    train_loss: Sequence[float]
    validation_loss: Sequence[float]
    pseudo_dice: Sequence[float]


def read_curves(checkpoint: Path, name: str, steps_per_epoch: int) -> Curves:
    """Read the values that nnU-Net logged into its checkpoint. Imports torch."""
    import torch

    logged = torch.load(checkpoint, map_location="cpu", weights_only=False)["logging"]
    return Curves(name, steps_per_epoch, logged["train_losses"], logged["val_losses"], logged["mean_fg_dice"])


def training_curves(runs: Sequence[Curves], warm_start: int | None = None) -> Figure:
    """Draw loss and pseudo Dice over steps; a vertical line marks the end of CPR's warm start."""
    figure = _figure((10, 3.8))
    loss, dice = figure.subplots(1, 2)
    for run, colour, marker in zip(runs, COLOURS, MARKERS, strict=False):
        steps = run.steps_per_epoch * np.arange(1, len(run.train_loss) + 1)
        style = {"color": colour, "marker": marker, "markersize": 4, "markevery": max(1, len(steps) // 20)}
        loss.plot(steps, run.train_loss, label=f"{run.name}, training", **style)
        loss.plot(steps, run.validation_loss, label=f"{run.name}, validation", **style, linestyle=":", mfc="white")
        dice.plot(steps, run.pseudo_dice, label=run.name, **style)
    loss.set(ylabel="loss (Dice + cross-entropy)")
    dice.set(ylabel="mean foreground pseudo Dice", ylim=(0, 1))
    for ax, corner in ((loss, "upper right"), (dice, "lower right")):
        ax.set(xlabel="optimizer steps", xlim=(0, None))
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
        if warm_start is not None:
            ax.axvline(warm_start, color="0.35", linewidth=1, linestyle="--", label="CPR's bounds are set")
        ax.legend(loc=corner, fontsize=8, frameon=False)
    return figure


@dataclass(frozen=True)
class Prediction:
    """A method's segmentation of the case, and its Dice per label in the order of the labels."""

    name: str
    path: Path
    dice: Sequence[float]


def slice_picture(
    case: str, image: Path, reference: Path, predictions: Sequence[Prediction], labels: dict[str, int]
) -> Figure:
    """Draw the slice with most foreground, away from the border: image, reference, then each prediction.

    Labels are filled; over every prediction the reference's outline is drawn in black on white.
    """
    truth = _canonical(reference)
    axis, index = _fullest_slice(truth.get_fdata() > 0)
    background = _slice(_canonical(image).get_fdata(), axis, index)
    reference_slice = _slice(truth.get_fdata(), axis, index)
    aspect = _aspect(truth, axis)
    foreground = {name: value for name, value in labels.items() if value}

    height = 3.1 * aspect * background.shape[0] / background.shape[1]
    panels = 2 + len(predictions)
    figure = _figure((3.1 * panels, height + 0.9 + 0.17 * len(foreground)))
    axes = figure.subplots(1, panels)
    low, high = np.percentile(background, [0.5, 99.5])
    for ax in axes:
        ax.imshow(background, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
        ax.set(xticks=[], yticks=[])
    axes[0].set_title("image", fontsize=10)
    axes[1].set_title("reference", fontsize=10)
    _fill(axes[1], reference_slice, foreground, aspect)
    _outline(axes[1], reference_slice, foreground)
    for ax, prediction in zip(axes[2:], predictions, strict=True):
        _fill(ax, _slice(_canonical(prediction.path).get_fdata(), axis, index), foreground, aspect)
        _outline(ax, reference_slice, foreground)
        scores = "\n".join(f"Dice {value:.3f} {name}" for name, value in zip(foreground, prediction.dice, strict=True))
        ax.set_title(f"{prediction.name}\n{scores}", fontsize=10)
    handles: list[Artist] = [
        Patch(facecolor=_label_colour(i), edgecolor="black", label=name) for i, name in enumerate(foreground)
    ]
    handles.append(Line2D([], [], color="black", linewidth=1.5, label="outline of the reference"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False, fontsize=9)
    plane = ("sagittal", "coronal", "axial")[axis]
    figure.suptitle(f"{case}: {plane} slice {index} (Dice of the whole case)", fontsize=11)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure, whole or not at all."""
    with write_whole(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _figure(size: tuple[float, float]) -> Figure:
    return Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=0.05))


def _canonical(path: Path) -> nib.Nifti1Image:
    image: nib.Nifti1Image = nib.as_closest_canonical(nib.load(path))
    return image


def _fullest_slice(foreground: np.ndarray) -> tuple[int, int]:
    """The axis and index of the slice with most foreground voxels, not counting the outer quarters of each axis."""
    best = (-1, 0, 0)
    for axis, size in enumerate(foreground.shape):
        counts = np.moveaxis(foreground, axis, 0).reshape(size, -1).sum(axis=1)
        inner = counts[size // 4 : size - size // 4]
        best = max(best, (int(inner.max()), axis, size // 4 + int(inner.argmax())), key=lambda found: found[0])
    return best[1], best[2]


def _slice(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """The slice with the patient's up, or front, at the top of an image drawn from its lower edge."""
    plane: np.ndarray = np.take(volume, index, axis=axis).T
    return plane


def _aspect(image: nib.Nifti1Image, axis: int) -> float:
    across, up = np.delete(image.header.get_zooms()[:3], axis)
    return float(up / across)


def _label_colour(position: int) -> str:
    return LABEL_COLOURS[position % len(LABEL_COLOURS)]


def _fill(ax: Axes, segmentation: np.ndarray, labels: dict[str, int], aspect: float) -> None:
    overlay = np.zeros((*segmentation.shape, 4))
    for position, value in enumerate(labels.values()):
        overlay[segmentation == value] = (*to_rgb(_label_colour(position)), 0.55)
    ax.imshow(overlay, origin="lower", interpolation="nearest", aspect=aspect)


def _outline(ax: Axes, segmentation: np.ndarray, labels: dict[str, int]) -> None:
    for value in labels.values():
        mask = np.pad(segmentation == value, 1, mode="edge").astype(float)  # no line along the image's border
        if mask.any() and not mask.all():
            rows, columns = (np.arange(-1, size + 1) for size in segmentation.shape)
            ax.contour(columns, rows, mask, levels=[0.5], colors="white", linewidths=2.2)
            ax.contour(columns, rows, mask, levels=[0.5], colors="black", linewidths=1.0)
    ax.set(xlim=(-0.5, segmentation.shape[1] - 0.5), ylim=(-0.5, segmentation.shape[0] - 0.5))
