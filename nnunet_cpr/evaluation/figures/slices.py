"""One slice of a case: the image, and segmentations filled or as contours. Labels differ in lightness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from contourpy import contour_generator
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nnunet_cpr.evaluation.figures.drawing import name_handles, short
from nnunet_cpr.evaluation.readers.volumes import open_image, open_segmentation
from nnunet_cpr.plotting import default_style

LABEL_COLORS = ("#0072B2", "#F0E442", "#CC79A7", "#009E73", "#E69F00", "#56B4E9", "#D55E00")
_DASHES = (3.0, 2.5)
"""In points: length of a dash, and of a gap."""

Labels = Mapping[str, int | tuple[int, ...]]
Contours = list[list[npt.NDArray[np.floating]]]
"""By label, lines of points (column, row)."""


@dataclass(frozen=True)
class Prediction:
    """A method's segmentation of the case, and its Dice per label in the order of the labels."""

    name: str
    path: Path
    dice: Sequence[float]


@default_style()
def slice_picture(
    case: str, image: Path, reference: Path, predictions: Sequence[Prediction], labels: dict[str, int]
) -> Figure:
    """Draw the slice with most foreground, away from the border: image, reference, then each prediction.

    Labels are filled; over every prediction the reference's outline is drawn in black on white.
    """
    truth = open_segmentation(reference)
    axis, index = _fullest_slice(truth.labels() > 0)
    background, reference_slice = open_image(image).plane(axis, index), truth.plane(axis, index)
    aspect = truth.aspect(axis)
    foreground = {name: value for name, value in labels.items() if value}

    height = 3.1 * aspect * background.shape[0] / background.shape[1]
    panels = 2 + len(predictions)
    figure = new_figure((3.1 * panels, height + 0.9 + 0.17 * len(foreground)))
    axes = figure.subplots(1, panels)
    for ax in axes:
        show_image(ax, background, aspect)
        ax.set(xticks=[], yticks=[])
    axes[0].set_title("image", fontsize=10)
    axes[1].set_title("reference", fontsize=10)
    _fill(axes[1], reference_slice, foreground, aspect)
    _outline(axes[1], reference_slice, foreground)
    for ax, prediction in zip(axes[2:], predictions, strict=True):
        _fill(ax, open_segmentation(prediction.path).plane(axis, index), foreground, aspect)
        _outline(ax, reference_slice, foreground)
        dice = zip(foreground, prediction.dice, strict=True)
        scores = "\n".join(f"Dice {value:.3f} {short(name)}" for name, value in dice)
        ax.set_title(f"{short(prediction.name)}\n{scores}", fontsize=10)
    handles: list[Artist] = [Patch(facecolor=_label_color(i), edgecolor="black") for i in range(len(foreground))]
    handles.append(Line2D([], [], color="black", linewidth=1.5))
    name_handles(figure, handles, [*map(short, foreground), "outline of the reference"], min(6, len(handles)))
    figure.suptitle(f"{short(case, 60)}: {truth.plane_name(axis)} slice {index} (Dice of the whole case)", fontsize=11)
    settle_layout(figure)
    return figure


def new_figure(size: tuple[float, float]) -> Figure:
    """Return a figure for panels side by side, width and height in inches."""
    return Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=0.05))


def settle_layout(figure: Figure) -> None:
    """Make room for titles: where the shape of panels is fixed, the layout comes nearer to its end with each pass."""
    for _ in range(2):
        figure.draw_without_rendering()


def _fullest_slice(foreground: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """The axis and index of the slice with most foreground voxels, not counting the outer quarters of each axis."""
    best = (-1, 0, 0)
    for axis, size in enumerate(foreground.shape):
        counts = np.moveaxis(foreground, axis, 0).reshape(size, -1).sum(axis=1)
        inner = counts[size // 4 : size - size // 4]
        best = max(best, (int(inner.max()), axis, size // 4 + int(inner.argmax())), key=lambda found: found[0])
    return best[1], best[2]


def show_image(ax: Axes, image: npt.NDArray[Any], aspect: float) -> None:
    """Draw an image in gray, without the darkest and brightest 0.5 %; an SVG holds its own pixels."""
    low, high = np.percentile(image, [0.5, 99.5])
    ax.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect, interpolation="none")


def _label_color(position: int) -> str:
    return LABEL_COLORS[position % len(LABEL_COLORS)]


def _fill(ax: Axes, segmentation: npt.NDArray[np.integer], labels: dict[str, int], aspect: float) -> None:
    overlay = np.zeros((*segmentation.shape, 4))
    for position, value in enumerate(labels.values()):
        overlay[segmentation == value] = (*to_rgb(_label_color(position)), 0.55)
    ax.imshow(overlay, origin="lower", interpolation="nearest", aspect=aspect)


def _outline(ax: Axes, segmentation: npt.NDArray[np.integer], labels: Labels) -> None:
    contours = find_contours(segmentation, labels)
    for color, width in (("white", 2.2), ("black", 1.0)):
        draw_lines(ax, contours, [color] * len(contours), width)
    ax.set(xlim=(-0.5, segmentation.shape[1] - 0.5), ylim=(-0.5, segmentation.shape[0] - 0.5))


def find_contours(segmentation: npt.NDArray[np.integer], labels: Labels) -> Contours:
    """Return each label's contours."""
    rows, columns = (np.arange(-1, size + 1) for size in segmentation.shape)
    found = []
    for value in labels.values():
        mask = np.pad(np.isin(segmentation, value), 1, mode="edge").astype(float)  # no line along the image's border
        lines: Any = contour_generator(columns, rows, mask).lines(0.5)
        found.append(lines)
    return found


def draw_lines(ax: Axes, contours: Contours, colors: Sequence[str], width: float, dashed: bool = False) -> None:
    """Draw each label's contours in its color, `width` points wide."""
    lines = [line for of_label in contours for line in of_label]
    each = [color for of_label, color in zip(contours, colors, strict=True) for _ in of_label]
    if lines:
        style: Any = dashes(width) if dashed else "solid"
        ax.add_collection(LineCollection(lines, colors=each, linewidths=width, linestyles=[style]), autolim=False)


def dashes(width: float) -> tuple[float, tuple[float, ...]]:
    """Return dashes of the same length for every width: matplotlib multiplies by it."""
    return 0, tuple(length / width for length in _DASHES)
