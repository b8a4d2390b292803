"""A comparison as text: the cells of its table, the sentences that belong to it, on the terminal and as Markdown."""

from collections.abc import Sequence

import pandas as pd

from comparison.paper import published
from comparison.runs import Run
from comparison.settings import different_measurements, number
from comparison.statistics import Comparison, lower_is_better

Rows = list[list[str]]


def cells(comparison: Comparison, runs: Sequence[Run], reach: float | None) -> Rows:
    """Return the header and a row a setting; columns in which no row has anything are left out."""
    metric = comparison.metric
    one_of = dict(zip(comparison.runs["setting"], runs, strict=True))
    rows = []
    for row in comparison.settings.itertuples():
        run = one_of[row.setting]
        paper = published(run.script, run.settings, metric)
        cell = {
            "setting": row.setting,
            "n": str(row.n),
            metric: _value(row.mean, metric) if row.n else "-",
            "std": _value(row.std, metric) if row.n > 1 else "-",
            "unfinished": str(row.unfinished) if row.unfinished else "",
        }
        if row.setting == comparison.baseline:
            cell["difference"] = "baseline"
        elif comparison.baseline is not None:
            cell["difference"] = _difference(row.difference, metric) if row.pairs else "-"
            cell["its std"] = _value(row.difference_std, metric) if row.pairs > 1 else ""
            cell["pairs"] = str(row.pairs)
            if row.pairs >= 3:
                cell["95 % interval"] = f"[{_difference(row.ci_low, metric)}, {_difference(row.ci_high, metric)}]"
        if comparison.baseline is not None:
            cell["reached baseline"] = _reached(row.baseline_reached, row.baseline_of)
            cell["at step"] = _span(row.baseline_first_step, row.baseline_last_step)
            share = _span(round(100 * row.share_low, 1), round(100 * row.share_high, 1))
            cell["of its budget"] = f"{share} %" if share else ""
        if reach is not None:
            cell[f"reached {number(reach)}"] = _reached(row.value_reached, row.value_of)
            cell["at step "] = _span(row.value_first_step, row.value_last_step)
        cell["paper"] = f"{_published(paper.value, metric)} ({paper.model})" if paper else ""
        rows.append(cell)
    # In the order of the fullest row: the baseline's has no difference's spread.
    table = pd.DataFrame(rows, columns=max((list(row) for row in rows), key=len)).fillna("")
    table = table.loc[:, (table != "").any()]
    return [[name.strip() for name in table.columns], *table.to_numpy().tolist()]


def notes(comparison: Comparison, runs: Sequence[Run]) -> list[str]:
    """Return what a reader must know of the table."""
    metric, baseline = comparison.metric, comparison.baseline
    better = "lower" if lower_is_better(metric) else "higher"
    found = [f"{metric}: of the last evaluation, mean and std (ddof = 1) over n seeds; {better} is better."]
    if baseline is None:
        found.append("No baseline: there is no counted run of adamw, sgd or adam. --baseline names one.")
    else:
        chosen = ""
        if comparison.chosen_among > 1:
            chosen = (
                f", chosen after the fact: the best of {comparison.chosen_among} such settings on the validation data "
                "that is compared here, which favours it"
            )
        found.append(f"Baseline: {baseline}{chosen}.")
        found.append(
            "Difference: setting minus baseline over the pairs with the same seed; interval: Student's t. Reached "
            "baseline: runs with a value at least as good as the baseline's final one (of the same seed, or the mean), "
            "first at which evaluated step, and which share of the baseline's steps that is."
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
    every = sorted({run.settings.get("eval_every") for run in runs})
    if len(every) > 1:
        found.append(
            f"eval_every is {' or '.join(map(str, every))}: steps to reach a value are known only to that, and later "
            "where evaluations are rarer"
        )
    return found


def terminal(rows: Rows) -> str:
    """Return the rows in aligned columns, text to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)


def markdown(rows: Rows, sentences: Sequence[str]) -> str:
    """Return a Markdown table with the sentences below it."""
    header, *body = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    rule = ["---", *["---:"] * (len(header) - 1)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *body))
    return table + "\n\n" + "\n".join(f"- {sentence}" for sentence in sentences) + "\n"


def _value(value: float, metric: str) -> str:
    return f"{value:.{3 if metric.endswith('perplexity') else 4}f}"


def _published(value: float, metric: str) -> str:
    return f"{value:.{2 if metric.endswith('perplexity') else 4}f}"


def _difference(value: float, metric: str) -> str:
    return ("+" if value > 0 else "") + _value(value, metric)


def _reached(count: int, of: int) -> str:
    if not of:
        return "-"
    return f"{count} of {of}" if count else f"not reached (0 of {of})"


def _span(low: float, high: float) -> str:
    if pd.isna(low):
        return ""
    return number(low) if low == high else f"{number(low)}-{number(high)}"
