"""The figures of a comparison, after the paper's: curves (Figure 1), a heatmap (Figure 3), constraints (Figure 5)."""

import math
from collections.abc import Sequence
from itertools import cycle, product
from typing import Any

import numpy as np
import pandas as pd
from harness.records import METRICS_FILE, read_table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunet_cpr.evaluation.figures.drawing import BASELINE_STYLE, COLORS, draw_steps, literal, name_handles
from nnunet_cpr.labels import escaped
from nnunet_cpr.optim.bounds import RULES
from nnunet_cpr.plotting import default_style
from nnunet_cpr.training.trace import LARGEST, SMALLEST
from run_comparison.runs import Run
from run_comparison.settings import number, rule_title
from run_comparison.statistics import Comparison, lower_is_better, written

START = 0.2
"""The share of the steps whose values may lie outside the axis: perplexities fall from thousands."""
TENSORS = 4
"""How many are drawn unless they are named."""


@default_style()
def curves(comparison: Comparison, runs: Sequence[Run], names: Sequence[str], reach: float | None) -> Figure:
    """Draw the metric over the steps: a thin line a counted run, a thick one for the mean of a setting's runs.

    Evaluated accuracy on training data, where a run has it, is dotted.
    """
    metric = comparison.metric
    training = metric.replace("val_", "train_", 1)
    counts = {row.setting: row.n for row in comparison.settings.itertuples() if row.n}
    looks = _looks(list(counts), comparison.baseline)
    figure = Figure(figsize=(8, 4.8 + 0.2 * math.ceil(len(counts) / 2)), layout="constrained")
    ax = figure.subplots()
    shown: list[pd.Series] = []
    dotted = ""
    for name, look in looks.items():
        chosen = zip(runs, names, comparison.runs["counted"], strict=True)
        own = [_drawable(run.evaluations) for run, setting, counted in chosen if setting == name and counted]
        for evaluations in own:
            thin = {"linewidth": 0.8, "alpha": 0.5} if len(own) > 1 else {}
            ax.plot(evaluations[metric], **{**look, **thin})
            shown.append(evaluations[metric])
            if training != metric and training in evaluations:
                ax.plot(evaluations[training], color=look["color"], linestyle=":", linewidth=0.9)
                dotted = f" (dotted: {training})"
        if len(own) > 1:
            # Where all runs were evaluated: a mean over fewer would jump.
            values = pd.concat([evaluations[metric] for evaluations in own], axis=1, join="inner")
            ax.plot(values.mean(axis=1, skipna=False), **look)
    handles = [Line2D([], [], **look) for look in looks.values()]
    levels = []
    if comparison.baseline in counts:
        final = comparison.settings.set_index("setting")["mean"][comparison.baseline]
        levels.append((final, "--", "last value of the baseline"))
    if reach is not None:
        levels.append((reach, "-.", f"{number(reach)}, to be reached"))
    levels = [level for level in levels if abs(level[0]) <= LARGEST]
    for value, style, _ in levels:
        handles.append(ax.axhline(value, color="black", linewidth=0.9, linestyle=style))
    cut = _scale(ax, shown, [value for value, _, _ in levels], metric)
    ax.set_ylabel(literal(metric + dotted))
    draw_steps(ax)
    ax.set_xlabel("optimizer steps" + (" (the first values lie outside the axis)" if cut else ""))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    labels = [*(literal(f"{name} (n = {counts[name]})") for name in looks), *(label for _, _, label in levels)]
    name_handles(figure, handles, labels, 2, handlelength=3)
    if max(counts.values()) > 1:
        ax.set_title("thick: mean over seeds; thin: one seed", loc="left", fontsize=9)
    return figure


@default_style()
def constraints(runs: Sequence[Run], names: Sequence[str], tensors: Sequence[str] | None) -> Figure:
    """Draw a column a tensor: R with its bound, its slope, lambda, and beneath them the training loss.

    They are of the first run that has a trace.

    Raises:
        ValueError: no run has one; it has no such tensor.
    """
    traces = ((run, name, run.trace()) for run, name in zip(runs, names, strict=True))
    found = next((found for found in traces if len(found[2])), None)
    if found is None:
        raise ValueError("--constraints: none of the runs has a trace of CPR's constraints")
    run, name, trace = found
    known = list(trace["tensor"].unique())
    if tensors is None:
        chosen = np.linspace(0, len(known) - 1, min(TENSORS, len(known))).round().astype(int)
        tensors = [known[index] for index in chosen]
    if unknown := [tensor for tensor in tensors if tensor not in known]:
        raise ValueError(f"the trace of {run.folder} has no tensor {unknown[0]}; it has {', '.join(known)}")
    loss = pd.DataFrame(read_table(run.folder / METRICS_FILE)["train_loss"], columns=["step", "loss"])
    figure = Figure(figsize=(max(4.5, 3.1 * len(tensors)), 8.6), layout="constrained")
    axes = figure.subplots(4, len(tensors), squeeze=False, sharex=True)
    for column, tensor in zip(axes.T, tensors, strict=True):
        own = trace[trace["tensor"] == tensor].set_index("step")
        marker = "o" if len(own) == 1 else ""
        column[0].plot(own["reg"], color=COLORS[0], linewidth=1.6, marker=marker)
        column[0].plot(own["kappa"].where(np.isfinite(own["kappa"])), color="black", linewidth=1.1, linestyle="--")
        if len(own) > 1:
            column[1].plot(own.index, np.gradient(own["reg"], own.index), color=COLORS[2], linewidth=1.3)
        column[1].axhline(0, color="gray", linewidth=0.7)
        column[2].plot(own["lagmul"], color=COLORS[1], linewidth=1.3, marker=marker)
        column[2].set_ylim(bottom=0)
        column[3].plot(loss["step"], loss["loss"], color="0.35", linewidth=1.1)
        column[0].set_title(literal(_broken(escaped(tensor))), fontsize=9)
        draw_steps(column[3])
    labels = (r"$R$ (dashed: $\kappa$)", r"slope of $R$ per step", r"$\lambda$", "training loss")
    for row, label in zip(axes, labels, strict=True):
        row[0].set_ylabel(label)
    for ax in axes.flat:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        if ax not in axes[3]:
            ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useMathText=True)
    figure.suptitle(literal(f"{name}, seed {run.seed}"), fontsize=11)
    return figure


@default_style()
def heatmap(comparison: Comparison, runs: Sequence[Run], names: Sequence[str]) -> Figure:
    """Draw the mean final metric over learning rate and strength of regularization, a panel an optimizer and rule.

    Raises:
        ValueError: no panel has two learning rates and two strengths, or settings differ in something else.
    """
    means = dict(zip(comparison.settings["setting"], comparison.settings["mean"], strict=True))
    grid: dict[str, dict[tuple[float, float], str]] = {}
    for run, name in zip(runs, names, strict=True):
        panel, strength = _panel(run.settings)
        cell = grid.setdefault(panel, {}).setdefault((strength, run.settings["lr"]), name)
        if cell != name:
            raise ValueError(f"a heatmap has one setting a cell, but {cell} and {name} have the same; name fewer runs")
    if not any(len({s for s, _ in cells}) > 1 and len({lr for _, lr in cells}) > 1 for cells in grid.values()):
        raise ValueError(
            "the runs are no grid: a heatmap needs two or more learning rates and two or more weight decays or "
            "parameters of kappa of one optimizer"
        )
    rates = sorted({lr for cells in grid.values() for _, lr in cells})
    rows = {panel: sorted({s for s, _ in cells}, reverse=True) for panel, cells in grid.items()}
    values = [means[name] for cells in grid.values() for name in cells.values() if not math.isnan(means[name])]
    low, high = (min(values), max(values)) if values else (0, 1)
    figure = Figure(
        figsize=(max(5.0, len(grid) * (1.3 + 0.8 * len(rates)) + 1), 1.9 + 0.5 * max(map(len, rows.values()))),
        layout="constrained",
    )
    axes = figure.subplots(1, len(grid), squeeze=False)[0]
    colors = "viridis_r" if lower_is_better(comparison.metric) else "viridis"
    for ax, (panel, cells) in zip(axes, grid.items(), strict=True):
        table = [[means.get(cells.get((s, lr)), math.nan) for lr in rates] for s in rows[panel]]
        image = ax.imshow(table, cmap=colors, vmin=low, vmax=high, aspect="auto")
        for (i, line), j in product(enumerate(table), range(len(rates))):
            if not math.isnan(line[j]):
                red, green, blue, _ = image.cmap(image.norm(line[j]))
                dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
                ax.text(
                    j,
                    i,
                    written(line[j], comparison.metric),
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if dark else "black",
                )
        ax.set_xticks(range(len(rates)), [number(lr) for lr in rates])
        ax.set_yticks(range(len(rows[panel])), ["" if math.isnan(s) else number(s) for s in rows[panel]])
        label, _, of_strength = panel.partition("|")
        ax.set(xlabel="learning rate", ylabel=of_strength)
        ax.set_title(literal(label), fontsize=10)
    figure.colorbar(image, ax=axes, label=literal(f"{comparison.metric}, mean over seeds"))
    return figure


def _looks(order: Sequence[str], baseline: str | None) -> dict[str, dict[str, Any]]:
    """Color (gray is the baseline's), style and width of each setting's line, in the order of drawing."""
    styles = product(("-", "-.", (0, (5, 1)), (0, (1, 1))), COLORS)  # further styles when colors run out
    others = zip((name for name in order if name != baseline), cycle(styles))
    found = {name: {"color": color, "linestyle": style} for name, (style, color) in others}
    if baseline is not None and baseline in order:
        found = {baseline: {"color": BASELINE_STYLE[0], "linestyle": "-"}, **found}
    # Each is a little thinner than the one below it, so that equal curves do not hide each other.
    return {
        name: {**look, "linewidth": w}
        for (name, look), w in zip(found.items(), np.linspace(3, 1.6, len(found)), strict=True)
    }


def _drawable(evaluations: dict[str, pd.Series]) -> dict[str, pd.Series]:
    """Return what matplotlib can draw: values beyond a float32's are gaps as infinite ones are, or 0."""
    sizes = {name: series.abs() for name, series in evaluations.items()}
    return {
        name: series.where(sizes[name] <= LARGEST).mask(sizes[name] < SMALLEST, 0.0)
        for name, series in evaluations.items()
    }


def _scale(ax: Axes, shown: Sequence[pd.Series], levels: Sequence[float], metric: str) -> bool:
    """Fit the axis to what comes after the start, logarithmic over more than a decade; tell if it cuts anything.

    The start belongs to it, too, where that does not more than double the axis.
    """
    end = max(series.index[-1] for series in shown)
    late = _range([*(series[series.index >= START * end] for series in shown), levels])
    whole = _range([*shown, levels])
    if late is None or whole is None:
        return False
    low, high = whole if whole[1] - whole[0] <= 2 * (late[1] - late[0]) else late
    if low > 0 and high / low > 10 and not metric.endswith("accuracy"):
        ax.set_yscale("log")
        low, high = low / 1.2, high * 1.2
    else:
        margin = 0.05 * (high - low or abs(high) or 1)
        low, high = low - margin, high + margin
    ax.set_ylim(low, high)
    return bool(whole[0] < low or whole[1] > high)


def _range(parts: Sequence[Any]) -> tuple[float, float] | None:
    values = np.concatenate(parts)
    values = values[np.abs(values) <= LARGEST]
    return (values.min(), values.max()) if len(values) else None


def _panel(settings: dict[str, Any]) -> tuple[str, float]:
    """The panel's title and name of its strength, and the run's strength; NaN where there is none to choose."""
    rule = settings.get("kappa_init_method")
    if rule:
        label = RULES[rule].parameter.removeprefix("the ") if rule in RULES else ""
        strength = settings.get("kappa_init_param")
        title = f"{settings['optimizer']} {rule_title(rule)}"
    else:
        strength, label, title = settings.get("weight_decay"), "weight decay", settings["optimizer"]
    if strength is None:
        return f"{title}|", math.nan
    return f"{title}|{label}", strength


def _broken(tensor: str) -> str:
    """The tensor's name on lines of some 28 characters, broken at its dots."""
    lines = [""]
    for part in tensor.replace(".", ".\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(part) > 28:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
