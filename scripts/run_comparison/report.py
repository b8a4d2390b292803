"""A comparison as text: the cells of its table, the sentences that belong to it, on the terminal and as Markdown."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd

from nnunet_cpr.evaluation.report.csv import csv_table
from nnunet_cpr.evaluation.report.markdown import escape
from run_comparison.paper import STATEMENTS, published
from run_comparison.runs import Run
from run_comparison.settings import different_measurements, number
from run_comparison.statistics import Comparison, lower_is_better, written

Rows = list[list[str]]


def cells(comparison: Comparison, runs: Sequence[Run], reach: float | None) -> Rows:
    """Return the header and one row per setting; columns in which no row has anything are left out."""
    metric, baseline = comparison.metric, comparison.baseline
    one_of = dict(zip(comparison.runs["setting"], runs, strict=True))
    papers = {name: published(run.script, run.settings, metric) for name, run in one_of.items()}
    other = "" if any(paper and paper.same_size for paper in papers.values()) else " (another model)"
    rows = []
    for row in comparison.settings.itertuples():
        compared = baseline not in (None, row.setting)
        share = _span(round(100 * row.baseline_first_share, 1), round(100 * row.baseline_last_share, 1))
        paper = papers[row.setting]
        cell = {
            "setting": row.setting,
            "n": str(row.n),
            metric: written(row.mean, metric) if row.n else "-",
            "std": written(row.std, metric) if row.n > 1 else "-",
            "unfinished": str(row.unfinished) if row.unfinished else "",
            "difference": _difference(row.difference, metric) if row.pairs else "-" if compared else "",
            "its std": written(row.difference_std, metric) if row.pairs > 1 else "",
            "pairs": str(row.pairs) if compared else "",
            "95 % interval": _interval(row.ci_low, row.ci_high, metric) if row.pairs >= 3 else "",
            "reached baseline": _reached(row.baseline_reached, row.baseline_of) if baseline is not None else "",
            "at step": _span(row.baseline_first_step, row.baseline_last_step),
            "of its steps": f"{share} %" if share else "",
        }
        if row.setting == baseline:
            cell["difference"] = "baseline"
        if reach is not None:
            cell[f"reached {number(reach)}"] = _reached(row.value_reached, row.value_of)
            cell["at step "] = _span(row.value_first_step, row.value_last_step)
        cell["paper" + other] = f"{paper.model} {_published(paper.value, metric)}" if paper else ""
        rows.append(cell)
    table = pd.DataFrame(rows)
    table = table.loc[:, (table != "").any()]
    return [[name.strip() for name in table.columns], *table.to_numpy().tolist()]


def notes(comparison: Comparison, runs: Sequence[Run]) -> list[str]:
    """Return what a reader must know of the table."""
    metric, baseline = comparison.metric, comparison.baseline
    better = "lower" if lower_is_better(metric) else "higher"
    found = [
        f"{len(runs)} runs of {runs[0].script}.py. {metric}: of the last evaluation, mean and std (ddof = 1) over n "
        f"seeds; {better} is better."
    ]
    if baseline is None:
        found.append("No baseline: there is no counted run of adamw, sgd or adam. --baseline names one.")
    else:
        chosen = ""
        if comparison.chosen_among > 1:
            chosen = (
                f", chosen after the fact: the best of {comparison.chosen_among} such settings on the validation data "
                "that is compared here, which favors it"
            )
        found.append(f"Baseline: {baseline}{chosen}.")
        found.append(
            "Difference: setting minus baseline over the pairs with the same seed; interval: Student's t. Reached "
            "baseline: runs with a value at least as good as the baseline's final one (of the same seed, or "
            "the mean), first at which evaluated step, and which share of the baseline's steps that is; it may be "
            "lost again after."
        )
    papers = [published(run.script, run.settings, metric) for run in runs]
    known = [paper for paper in papers if paper]
    if known:
        text = "Paper: " + "; ".join(dict.fromkeys(paper.training for paper in known)) + "."
        if not all(paper.same_size for paper in known):
            text += (
                " Models of another size were trained here: compare the order of the settings, not the values "
                "(warm starts correspond by their length in warmups)."
            )
        found.append(text)
    if statement := STATEMENTS.get(runs[0].script):
        found.append(f"The paper also says: {statement}." if known else f"The paper says: {statement}.")
    return found


def warnings(comparison: Comparison, runs: Sequence[Run]) -> list[str]:
    """Return what may make the table misleading."""
    found = []
    open_runs = comparison.runs[~comparison.runs["finished"]]
    for row in open_runs.itertuples():
        what = "counted as it is" if row.counted else "left out (--unfinished counts it as it is)"
        found.append(f"{row.folder} is not finished (step {row.step} of {row.max_steps}): {what}")
    found += [
        f"the last {comparison.metric} of {row.folder} is {row.value}"
        for row in comparison.runs[comparison.runs["counted"]].itertuples()
        if not abs(row.value) < float("inf")
    ]
    if different := different_measurements(runs):
        found.append(
            f"the runs differ in {', '.join(different)}, so their {comparison.metric} is not of the same thing"
        )
    found_every = {run.settings.get("eval_every") for run in runs}
    every = sorted(found_every, key=lambda steps: math.inf if steps is None else steps)
    if len(every) > 1:
        found.append(
            f"eval_every is {' or '.join(map(str, every))}: steps to reach a value are known only to that, and later "
            "where evaluations are rarer"
        )
    return found


def settings_csv(comparison: Comparison, runs: Sequence[Run]) -> str:
    """Return all numbers of the table as CSV, with the paper's; shares are of 1."""
    one_of = dict(zip(comparison.runs["setting"], runs, strict=True))
    papers = [
        published(one_of[name].script, one_of[name].settings, comparison.metric) or (None, None, None)
        for name in comparison.settings["setting"]
    ]
    about: dict[str, Any] = {"metric": comparison.metric, "baseline": comparison.baseline}
    about |= {"paper": [paper[0] for paper in papers], "paper_is_of": [paper[2] for paper in papers]}
    return _csv(comparison.settings.assign(**about))


def runs_csv(comparison: Comparison, runs: Sequence[Run]) -> str:
    """Return one row per run: how far it is, the last value of every metric, and what it was compared with."""
    last = [{f"last_{name}": series.iloc[-1] for name, series in run.evaluations.items()} for run in runs]
    return _csv(comparison.runs.drop(columns=["value", "paired", "budget"]).join(pd.DataFrame(last)))


def terminal(rows: Rows, sentences: Sequence[str]) -> str:
    """Return the rows in aligned columns, the first to the left and all others to the right, and sentences below."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    )
    table = ["  ".join(line).rstrip() for line in lines]
    return "\n".join([*table, "", *(textwrap.fill(sentence, 110) for sentence in sentences)])


def markdown(rows: Rows, sentences: Sequence[str]) -> str:
    """Return a Markdown table with the sentences below it."""
    header, *body = ([escape(cell) for cell in row] for row in rows)
    rule = ["---", *["---:"] * (len(header) - 1)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *body))
    return table + "\n\n" + "\n".join(f"- {escape(sentence)}" for sentence in sentences) + "\n"


def _csv(table: pd.DataFrame) -> str:
    return csv_table(table, lineterminator="\n", float_format="%.9g")


def _published(value: float, metric: str) -> str:
    return f"{value:.{2 if metric.endswith('perplexity') else 4}f}"


def _difference(value: float, metric: str) -> str:
    return ("+" if value > 0 else "") + written(value, metric)


def _interval(low: float, high: float, metric: str) -> str:
    return f"[{_difference(low, metric)}, {_difference(high, metric)}]"


def _reached(count: int, of: int) -> str:
    if not of:
        return "-"
    return f"{count} of {of}" if count else f"not reached (0 of {of})"


def _span(low: float, high: float) -> str:
    if pd.isna(low):
        return ""
    return number(low) if low == high else f"{number(low)}-{number(high)}"
