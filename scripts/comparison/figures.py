"""The figures of a comparison, after the paper's: curves (Figure 1), a heatmap (Figure 3), constraints (Figure 5)."""

import math
from collections.abc import Sequence
from itertools import cycle, product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from comparison.runs import Run
from comparison.settings import RULES, number
from comparison.statistics import Comparison, lower_is_better
from nnunet_cpr.evaluation.figures import ALL_COLOURS, draw_steps

START = 0.2
"""The share of the steps whose values may lie outside the axis: perplexities fall from thousands."""
TENSORS = 4
"""How many are drawn unless they are named."""


def curves(comparison: Comparison, runs: Sequence[Run], names: Sequence[str], reach: float | None) -> Figure:
    """Draw the metric over the steps: a thin line a counted run, a thick one for the mean of a setting's runs."""
    metric = comparison.metric
    order = list(comparison.settings["setting"][comparison.settings["n"] > 0])
    counted = [(run, name) for run, name in zip(runs, names, strict=True) if name in order]
    counted = [
        pair for pair, kept in zip(zip(runs, names, strict=True), comparison.runs["counted"], strict=True) if kept
    ]
    looks = _looks(order, comparison.baseline)
    figure = Figure(figsize=(8, 4.6 + 0.2 * math.ceil(len(order) / 2)), layout="constrained")
    ax = figure.subplots()
    shown = []
    training = metric.replace("val_", "train_", 1)
    for name in order:
        own = [run.evaluations for run, setting in counted if setting == name]
        for evaluations in own:
            series = evaluations[metric]
            ax.plot(series, **looks[name], linewidth=0.8 if len(own) > 1 else 1.8, alpha=0.5 if len(own) > 1 else 1)
            if training != metric and training in evaluations:
                ax.plot(evaluations[training], color=looks[name]["color"], linestyle=":", linewidth=0.9)
            shown.append(series)
        if len(own) > 1:
            # Where all runs were evaluated: a mean over fewer would jump.
            mean = pd.concat([evaluations[metric] for evaluations in own], axis=1, join="inner").mean(
                axis=1, skipna=False
            )
            ax.plot(mean, **looks[name], linewidth=2)
    lines = {"baseline's final value": (_final(comparison), "--")} if comparison.baseline in order else {}
    if reach is not None:
        lines[number(reach)] = (reach, ":")
    for value, style in lines.values():
        ax.axhline(value, color="black", linewidth=0.9, linestyle=style)
    cut = _scale(ax, shown, [value for value, _ in lines.values()], metric)
    dotted = (
        " (dotted: training)" if any(training in run.evaluations and training != metric for run, _ in counted) else ""
    )
    ax.set_ylabel(metric + dotted)
    draw_steps(ax)
    ax.set_xlabel("optimizer steps" + (", the first values lie outside the axis" if cut else ""))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    counts = dict(zip(comparison.settings["setting"], comparison.settings["n"], strict=True))
    handles = [Line2D([], [], **looks[name], linewidth=2, label=f"{name} (n = {counts[name]})") for name in order]
    handles += [Line2D([], [], color="black", linewidth=0.9, linestyle=s, label=t) for t, (_, s) in lines.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    if max(counts.values()) > 1:
        ax.set_title("thick: mean over seeds; thin: one seed", loc="left", fontsize=9)
    return figure


def constraints(run: Run, name: str, tensors: Sequence[str] | None) -> Figure:
    """Draw a column a tensor: R with its bound, its slope, lambda, and beneath them the training loss.

    Raises:
        ValueError: the run has no such tensor.
    """
    from common.records import METRICS_FILE, read_table

    trace = run.trace()
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
        column[0].plot(own["reg"], color=ALL_COLOURS[1], linewidth=1.6, marker=marker)
        column[0].plot(own["kappa"].where(np.isfinite(own["kappa"])), color="black", linewidth=1.1, linestyle="--")
        if len(own) > 1:
            column[1].plot(own.index, np.gradient(own["reg"], own.index), color=ALL_COLOURS[3], linewidth=1.3)
        column[1].axhline(0, color="grey", linewidth=0.7)
        column[2].plot(own["lagmul"], color=ALL_COLOURS[2], linewidth=1.3, marker=marker)
        column[2].set_ylim(bottom=0)
        column[3].plot(loss["step"], loss["loss"], color="0.35", linewidth=1.1)
        column[0].set_title(_broken(tensor), fontsize=9)
        draw_steps(column[3])
    labels = (r"$R$ (dashed: $\kappa$)", r"slope of $R$ per step", r"$\lambda$", "training loss")
    for row, label in zip(axes, labels, strict=True):
        row[0].set_ylabel(label)
    for ax in axes.flat:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        if ax not in axes[3]:
            ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useMathText=True)
    figure.suptitle(f"{name}, seed {run.seed}", fontsize=11)
    return figure


def heatmap(comparison: Comparison, runs: Sequence[Run], names: Sequence[str]) -> Figure:
    """Draw the mean final metric over learning rate and strength of regularisation, a panel an optimizer and rule.

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
    colours = "viridis_r" if lower_is_better(comparison.metric) else "viridis"
    for ax, (panel, cells) in zip(axes, grid.items(), strict=True):
        table = [[means.get(cells.get((s, lr)), math.nan) for lr in rates] for s in rows[panel]]
        image = ax.imshow(table, cmap=colours, vmin=low, vmax=high, aspect="auto")
        for (i, line), j in product(enumerate(table), range(len(rates))):
            if not math.isnan(line[j]):
                red, green, blue, _ = image.cmap(image.norm(line[j]))
                dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
                ax.text(
                    j, i, f"{line[j]:.4g}", ha="center", va="center", fontsize=9, color="white" if dark else "black"
                )
        ax.set_xticks(range(len(rates)), [number(lr) for lr in rates])
        ax.set_yticks(range(len(rows[panel])), ["" if math.isnan(s) else number(s) for s in rows[panel]])
        label, _, strength = panel.partition("|")
        ax.set(xlabel="learning rate", ylabel=strength)
        ax.set_title(label, fontsize=10)
    figure.colorbar(image, ax=axes, label=f"{comparison.metric}, mean over seeds")
    return figure


def _looks(order: Sequence[str], baseline: str | None) -> dict[str, dict[str, Any]]:
    """A colour and, where these do not suffice, a line style for each setting; grey is the baseline's."""
    looks = zip(
        cycle(ALL_COLOURS[1:]), (style for style in ("-", "-.", (0, (5, 1)), (0, (1, 1))) for _ in ALL_COLOURS[1:])
    )
    others = [name for name in order if name != baseline]
    found = {name: {"color": colour, "linestyle": style} for name, (colour, style) in zip(others, cycle(looks))}
    return {**found, **({baseline: {"color": ALL_COLOURS[0], "linestyle": "-"}} if baseline is not None else {})}


def _final(comparison: Comparison) -> float:
    settings = comparison.settings
    return float(settings["mean"][settings["setting"] == comparison.baseline].iloc[0])


def _scale(ax: Axes, shown: Sequence[pd.Series], lines: Sequence[float], metric: str) -> bool:
    """Fit the axis to all values but those of the start, logarithmic over more than a decade; tell if it cuts any."""
    end = max(series.index[-1] for series in shown)
    late = [series[series.index >= START * end] for series in shown]
    values = np.concatenate([*late, lines])
    values = values[np.isfinite(values)]
    if not len(values):
        return False
    low, high = values.min(), values.max()
    if metric.endswith("accuracy"):
        low, high = min(low, *(series.min() for series in shown)) if high - low > 0.5 else low, high
    elif low > 0 and high / low > 10:
        ax.set_yscale("log")
        ax.set_ylim(low / 1.2, high * 1.2)
        return any(series.max() > high * 1.2 for series in shown)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    ax.set_ylim(low - margin, high + margin)
    return any(series.max() > high + margin or series.min() < low - margin for series in shown)


def _panel(settings: dict[str, Any]) -> tuple[str, float]:
    """The panel's title and name of its strength, and the run's strength; NaN where there is none to choose."""
    rule = settings.get("kappa_init_method")
    if rule:
        label = {"warm_start": "warm start (steps)", "dependent": "k", "uniform": "kappa"}.get(rule, "")
        strength = settings.get("kappa_init_param")
        title = f"{settings['optimizer']} {RULES.get(rule, rule)}"
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
