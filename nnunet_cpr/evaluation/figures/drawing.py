"""What the figures share: how they are named, styled and written.

Legible in grayscale and for color-blind readers: trainers differ in color (Okabe and Ito's), in marker and in order.
"""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image

from nnunet_cpr.evaluation import formatting as numbers
from nnunet_cpr.evaluation.results import Results
from nnunet_cpr.files import write_text, write_whole
from nnunet_cpr.plotting import default_style, drawable

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
BASELINE_STYLE = ("0.35", "d")
LEGEND_ROWS = 4
"""More names than these are set in columns, as many as fit."""
POINTS = 200
"""Of a curve."""


@dataclass(frozen=True)
class Drawing:
    """A figure with the name of its files, what it shows in words, and its topic: a metric, or one of results.py."""

    name: str
    topic: str
    title: str
    text: str
    figure: Figure


def save_both(drawing: Drawing, folder: Path) -> str:
    """Write the figure as SVG and PNG and return the SVG."""
    text = io.StringIO()
    # Text stays text (searchable, small); ids and metadata do not change from one run to the next.
    with default_style({"svg.fonttype": "none", "svg.hashsalt": drawing.name}):
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        drawing.figure.savefig(text, format="svg", metadata=metadata)
    svg = _compact(text.getvalue())
    write_text(folder / f"{drawing.name}.svg", svg)
    save_figure(drawing.figure, folder / f"{drawing.name}.png")
    return svg


def _compact(svg: str) -> str:
    """Halve an SVG of matplotlib's: two of six decimals of a point, and gray images with one channel of four."""
    svg = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)
    return re.sub(r"(?<=data:image/png;base64,)[^\"]+", lambda found: _in_gray(found[0]), svg)


def _in_gray(png: str) -> str:
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    red, green, blue, opacity = image.convert("RGBA").split()
    if red != green or green != blue or opacity.getextrema() != (255, 255):
        return png
    small = io.BytesIO()
    red.save(small, format="PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


@default_style()
def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure, whole or not at all."""
    with write_whole(path) as temporary:
        figure.savefig(temporary, dpi=150)


def file_names(names: Sequence[str]) -> dict[str, str]:
    """Return a name for files for each name, all different."""
    slugs = [slug(name) for name in names]
    lowered = [slug.lower() for slug in slugs]  # some file systems do not tell case
    return {
        name: slug if lowered.count(slug.lower()) == 1 else f"{slug}-{number}"
        for number, (name, slug) in enumerate(zip(names, slugs, strict=True), 1)
    }


def slug(name: str) -> str:
    """Return the name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:80] or "unnamed"


def present(results: Results, trainers: set[str]) -> list[str]:
    """Return the trainers in the order of the report."""
    return [trainer for trainer in results.trainers if trainer in trainers]


def epochs_per_point(epochs: pd.Series) -> int:
    """Return over how many epochs a point of a curve is averaged, so that there are POINTS at most."""
    return -(-(int(epochs.max()) + 1) // POINTS)


def averaged(width: int) -> str:
    """Say over how many epochs points are averaged, if over several."""
    return f" Each point is the mean over {width} epochs." if width > 1 else ""


def draw_steps(ax: Axes) -> None:
    """Prepare an axis of optimizer steps, which go up to hundreds of thousands."""
    ax.set(xlabel="optimizer steps", xlim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def count_trainings(rows: pd.DataFrame, trainers: Sequence[str]) -> str:
    """Say how many trainings (folds and repeats) of each trainer have rows in a table of one dataset."""
    found = rows[["trainer", "run", "fold"]].drop_duplicates()["trainer"]
    return f"Trainings: {', '.join(f'{trainer} {(found == trainer).sum()}' for trainer in trainers)}."


def style(results: Results, trainer: str) -> tuple[str, str]:
    """Return color and marker of a trainer, the same in every figure."""
    if trainer == results.baseline:
        return BASELINE_STYLE
    again, number = divmod(results.others.index(trainer), len(COLORS))
    return COLORS[number], MARKERS[(number + again) % len(MARKERS)]  # colors that come again have other markers


@default_style()
def legend(figure: Figure, results: Results, trainers: Sequence[str]) -> None:
    """Name the trainers below the figure, which becomes taller by that."""
    handles = []
    for trainer in trainers:
        color, marker = style(results, trainer)
        handles.append(Line2D([], [], color=color, marker=marker, linewidth=1.8, markeredgecolor="white", mew=0.6))
    names = [short(trainer, 90) for trainer in trainers]
    columns = -(-len(names) // LEGEND_ROWS)
    made = name_handles(figure, handles, names, columns)
    while columns > 1 and made.get_window_extent().width > figure.bbox.width:
        columns -= 1
        made.remove()
        made = name_handles(figure, handles, names, columns)
    figure.set_figheight(figure.get_figheight() + made.get_window_extent().height / figure.dpi)


def name_handles(
    figure: Figure, handles: Sequence[Artist], names: Sequence[str], columns: int, handlelength: float = 2
) -> Legend:
    """Put a legend below the figure; names are shown as they are, also where they begin with an underscore."""
    legend = figure.legend(
        handles, ["x"] * len(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=9,
        handlelength=handlelength,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)  # not as a label: matplotlib hides those that begin with an underscore
    return legend


def short(name: str, width: int = 30) -> str:
    """Return the name on two lines at most, broken after spaces and underscores; dollars are no formulas."""
    lines = [""]
    for part in re.findall(r"[^_ ]*[_ ]|[^_ ]+", drawable(numbers.name(name))):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    lines = [line if len(line) <= width + 10 else f"{line[:width]}…" for line in lines]
    if len(lines) > 2:
        lines = [lines[0], f"…{lines[-1]}"]
    return literal("\n".join(line.strip() for line in lines))


def literal(text: str) -> str:
    """Return the text so that matplotlib draws it as it is: no formula between dollars, no boxes for characters."""
    return drawable(text).replace("$", r"\$")
