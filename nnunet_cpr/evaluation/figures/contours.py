"""The cases that are shown: the contours of reference and segmentations over the image.

Legible in grayscale: the reference is dashed, segmentations are not.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunet_cpr.evaluation import formatting as numbers
from nnunet_cpr.evaluation.figures.drawing import Drawing, file_names, name_handles, short
from nnunet_cpr.evaluation.figures.slices import (
    Contours,
    dashes,
    draw_lines,
    find_contours,
    new_figure,
    settle_layout,
    show_image,
)
from nnunet_cpr.evaluation.results import SLICES, CaseSlice, Results
from nnunet_cpr.plotting import default_style

COLORS = ("#F0E442", "#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#D55E00", "#0072B2")
"""Of labels, the lighter ones first: they stand out from an image."""
PANEL_INCHES = 3.6
LEGEND_COLUMNS = 4


def draw_slices(results: Results) -> Iterator[Drawing]:
    """Draw every case that is to be shown."""
    names = file_names(results.datasets)
    for dataset, name in names.items():
        of_dataset = [shown for shown in results.slices if shown.dataset == dataset]
        for number, shown in enumerate(of_dataset, 1):
            title = f"{dataset}, {shown.case}: {'; '.join(shown.reasons)}"
            yield Drawing(f"slice-{name}-{number}", SLICES, title, _describe(shown), contour_picture(shown))


@default_style()
def contour_picture(shown: CaseSlice) -> Figure:
    """Draw each segmentation's contours and the reference's over the image, side by side."""
    rows, columns = shown.reference.shape
    planes = [shown.reference, *(one.plane for one in shown.segmentations)]
    labels = {name: value for name, value in shown.labels.items() if any(np.isin(one, value).any() for one in planes)}
    colors = [COLORS[position % len(COLORS)] for position in range(len(labels))]
    legend_rows = -(-(len(labels) + 1) // LEGEND_COLUMNS)
    height = PANEL_INCHES * shown.aspect * rows / columns + 0.5 + 0.22 * legend_rows
    figure = new_figure((PANEL_INCHES * len(shown.segmentations), height))
    axes = figure.subplots(1, len(shown.segmentations), squeeze=False)[0]
    truth = _once(find_contours(shown.reference, labels))
    for ax, one in zip(axes, shown.segmentations, strict=True):
        if shown.image is not None:
            show_image(ax, shown.image, shown.aspect)
        else:
            inside = np.any([np.isin(shown.reference, value) for value in shown.labels.values()], axis=0)
            ax.imshow(inside, cmap="Greys", vmin=0, vmax=4, origin="lower", aspect=shown.aspect, interpolation="none")
        contours = find_contours(one.plane, labels)
        draw_lines(ax, contours, ["black"] * len(contours), 2.4)
        draw_lines(ax, contours, colors, 1.4)
        for color, width in (("black", 1.8), ("white", 1.0)):
            draw_lines(ax, truth, [color] * len(truth), width, dashed=True)
        ax.set(xticks=[], yticks=[], xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
        ax.set_title(f"{short(one.trainer)}\nDice {numbers.value(one.dice, 'Dice')}", fontsize=10)
    _legend(figure, list(labels), colors)
    settle_layout(figure)
    return figure


def _describe(shown: CaseSlice) -> str:
    parts = [f"{shown.position} Solid lines: the segmentation; dashed lines: the reference"]
    parts[0] += ", filled in gray, because there is no image." if shown.image is None else "."
    parts += ["Dice above: foreground mean of the whole case.", *([shown.changes] if shown.changes else [])]
    runs = [f"{one.run} ({one.trainer})" for one in shown.segmentations if one.run is not None]
    parts += [f"Of several runs, those with a Dice near the mean are shown: {', '.join(runs)}."] if runs else []
    return " ".join(parts)


def _once(contours: Contours) -> Contours:
    """Where contours of two labels coincide keep one of them: dashes would fill each other's gaps."""
    seen: set[frozenset[tuple[float, float]]] = set()
    kept = []
    for of_label in contours:
        lines: list[list[tuple[float, float]]] = []
        for line in of_label:
            lines.append([])
            for start, end in pairwise(map(tuple, line.tolist())):
                if frozenset((start, end)) in seen:
                    lines.append([])
                    continue
                seen.add(frozenset((start, end)))
                lines[-1] += [end] if lines[-1] else [start, end]
        kept.append([np.array(line) for line in lines if line])
    return kept


def _legend(figure: Figure, labels: list[str], colors: list[str]) -> None:
    handles: list[Artist] = [Line2D([], [], color=color, linewidth=2.5) for color in colors]
    handles.append(Line2D([], [], color="black", linewidth=1.5, linestyle=dashes(1.5)))
    name_handles(figure, handles, [*(short(name, 20) for name in labels), "reference"], LEGEND_COLUMNS)
