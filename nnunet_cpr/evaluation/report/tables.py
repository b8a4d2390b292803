"""The tables of the report as text with sort keys: HTML and Markdown print the same ones."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nnunet_cpr.evaluation import formatting as numbers
from nnunet_cpr.evaluation.metrics import metric as metric_of
from nnunet_cpr.evaluation.results import FOREGROUND, Results, rows_by_key


@dataclass(frozen=True)
class Cell:
    """A cell: its text and, in a column of numbers, the number to sort by."""

    text: str
    number: float | None = None


@dataclass(frozen=True)
class Column:
    """A column; `heading` marks cells that name their row."""

    name: str
    numeric: bool = True
    heading: bool = False


@dataclass(frozen=True)
class Table:
    """A caption, columns and rows."""

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]


def _compared(runs: bool) -> list[Column]:
    """The columns that :func:`_comparison` fills; with `runs`, the interval over runs and cases is one."""
    return [
        Column("Difference [95 % CI]"),
        *([Column("[95 % CI, runs and cases]")] if runs else []),
        Column("p (Holm)"),
        Column("Verdict", numeric=False),
        Column("Effect size"),
        Column("Wins / ties / losses"),
        Column("Detectable"),
    ]


def main_tables(results: Results) -> list[Table]:
    """For every metric each trainer's foreground mean on every dataset, and its difference to the baseline."""
    summary, comparisons = rows_by_key(results.summary), rows_by_key(results.comparisons)
    repeated = (results.summary["runs"] > 1).any()
    over_runs = _over_runs(results)
    compared_columns = _compared(over_runs)
    columns = [
        *_headings("Dataset", "Trainer"),
        Column("Runs"),
        Column("n"),
        Column("Mean ± SD"),
        *([Column("SD between runs")] if repeated else []),
        *compared_columns,
    ]
    tables = []
    for metric in results.metrics:
        rows = []
        for dataset in results.datasets:
            for trainer in results.trainers:
                key = (dataset, trainer, FOREGROUND, metric)
                if key not in summary:
                    continue
                own, compared = summary[key], comparisons.get(key)
                spread = f"{numbers.value(own.mean, metric)} ± {numbers.value(own.std, metric)}"
                row = [_name(dataset), _name(f"{trainer} (baseline)" if trainer == results.baseline else trainer)]
                row += [_count(own.runs), _count(own.n if compared is None else compared.n), Cell(spread, own.mean)]
                row += [Cell(numbers.value(own.runs_std, metric), own.runs_std)] if repeated else []
                empty = [Cell("")] * len(compared_columns)
                rows.append([*row, *(empty if compared is None else _comparison(compared, over_runs))])
        caption = f"Foreground mean {numbers.metric_name(metric)} and difference to {results.baseline}"
        tables.append(_of_datasets(caption, columns, rows))
    return tables


def label_tables(results: Results) -> list[Table]:
    """For every metric and dataset the comparisons per label."""
    comparisons, over_runs = rows_by_key(results.comparisons), _over_runs(results)
    columns = [
        *_headings("Label", "Trainer"),
        Column("n"),
        Column("Baseline"),
        Column("Trainer's mean"),
        *_compared(over_runs),
    ]
    tables = []
    for metric in results.metrics:
        for dataset in results.datasets:
            rows = [
                [
                    _name(label),
                    _name(trainer),
                    _count(row.n),
                    Cell(numbers.value(row.baseline_mean, metric), row.baseline_mean),
                    Cell(numbers.value(row.trainer_mean, metric), row.trainer_mean),
                    *_comparison(row, over_runs),
                ]
                for label in results.labels(dataset)
                for trainer in results.others
                if (row := comparisons.get((dataset, trainer, label, metric))) is not None
            ]
            if rows:
                tables.append(Table(f"{numbers.metric_name(metric)} per label: {dataset}", columns, rows))
    return tables


def summary_tables(results: Results) -> list[Table]:
    """For every metric and dataset the distribution over cases of every label and trainer."""
    summary = rows_by_key(results.summary)
    statistics = ("mean", "std", "median", "min", "max", "mean_over_folds", "runs_std")
    named = ("Mean", "SD", "Median", "Minimum", "Maximum", "Mean over folds", "SD between runs")
    columns = [
        *_headings("Label", "Trainer"),
        *(Column(name) for name in ("n", "Undefined", "Folds", "Runs", *named)),
    ]
    tables = []
    for metric in results.metrics:
        for dataset in results.datasets:
            rows = [
                [
                    _name(label),
                    _name(trainer),
                    *(_count(count) for count in (row.n, row.undefined, row.folds, row.runs)),
                    *(Cell(numbers.value(getattr(row, one), metric), getattr(row, one)) for one in statistics),
                ]
                for label in results.labels(dataset)
                for trainer in results.trainers
                if (row := summary.get((dataset, trainer, label, metric))) is not None
            ]
            if rows:
                tables.append(Table(f"{numbers.metric_name(metric)} over cases: {dataset}", columns, rows))
    return tables


def extremes_tables(results: Results) -> list[Table]:
    """For every metric the cases that gained and lost most."""
    folds = results.extremes["fold"].notna().any()
    columns = [
        *_headings("Dataset", "Trainer", "Case"),
        *([Column("Fold")] if folds else []),
        Column("Label", numeric=False),
        Column("Difference"),
        Column("Against the baseline", numeric=False),
    ]
    tables = []
    for metric in results.metrics:
        rows = []
        for row in results.extremes[results.extremes["metric"] == metric].itertuples(index=False):
            better = (row.difference < 0) == metric_of(metric).lower_is_better
            rows.append(
                [
                    *(_name(text) for text in (row.dataset, row.trainer, row.case)),
                    *([_count(row.fold)] if folds else []),
                    _name(row.label),
                    Cell(numbers.difference(row.difference, metric), row.difference),
                    Cell("equal" if row.difference == 0 else "better" if better else "worse"),
                ]
            )
        caption = f"{numbers.metric_name(metric)}: cases that gained and lost most against {results.baseline}"
        tables.append(_of_datasets(caption, columns, rows))
    return tables


def across_tables(results: Results) -> list[Table]:
    """For every metric the mean differences over datasets."""
    columns = [
        *_headings("Trainer"),
        Column("Datasets"),
        Column("Difference [95 % CI]"),
        Column("Better / worse, datasets"),
    ]
    tables = []
    for metric in results.metrics:
        rows = []
        for row in results.across[results.across["metric"] == metric].itertuples(index=False):
            interval = numbers.interval(row.ci_low, row.ci_high, metric)
            difference = Cell(f"{numbers.difference(row.difference, metric)} {interval}", row.difference)
            rows.append(
                [_name(row.trainer), _count(row.n), difference, Cell(f"{row.better} / {row.worse}", row.better)]
            )
        caption = f"Foreground mean {numbers.metric_name(metric)}, mean difference to {results.baseline} over datasets"
        tables.append(Table(caption, columns, rows))
    return tables


def pairs_tables(results: Results, pairs: pd.DataFrame) -> list[Table]:
    """For every metric and dataset a matrix: the row's trainer minus the column's."""
    tables = []
    for metric in results.metrics:
        for dataset in results.datasets:
            part = pairs[(pairs["metric"] == metric) & (pairs["dataset"] == dataset)]
            found = {(row.trainer, row.baseline): row for row in part.itertuples(index=False)}
            names = [name for name in results.trainers if any(name in pair for pair in found)]
            rows = []
            for one in names:
                cells = [_name(one)]
                for other in names:
                    row, sign = found.get((one, other)), 1
                    if row is None:
                        row, sign = found.get((other, one)), -1
                    if row is None:
                        cells.append(Cell(""))
                    else:
                        difference = numbers.difference(sign * row.difference, metric)
                        cells.append(Cell(f"{difference} (p {numbers.p_value(row.p_holm)})", sign * row.difference))
                rows.append(cells)
            if rows:
                columns = [*_headings("Row minus column"), *(Column(numbers.name(name)) for name in names)]
                tables.append(Table(f"{numbers.metric_name(metric)} of all pairs: {dataset}", columns, rows))
    return tables


def ranks_tables(results: Results, ranks: pd.DataFrame) -> list[Table]:
    """For every metric the mean ranks of the trainers, and how stable they are under resampling of the cases."""
    columns = [
        *_headings("Dataset", "Trainer"),
        Column("Mean rank [95 % CI]"),
        Column("Ranked first in bootstrap samples"),
    ]
    tables = []
    for metric in results.metrics:
        rows = []
        for row in ranks[ranks["metric"] == metric].itertuples(index=False):
            mean, low, high = (numbers.fixed(rank, 2) for rank in (row.mean_rank, row.rank_low, row.rank_high))
            first = numbers.UNDEFINED if math.isnan(row.first) else f"{100 * row.first:.0f} %"
            rank, share = Cell(f"{mean} [{low}, {high}]", row.mean_rank), Cell(first, row.first)
            rows.append([_name(row.dataset), _name(row.trainer), rank, share])
        tables.append(_of_datasets(f"Ranks by the cases' foreground mean {metric} (1: best)", columns, rows))
    return tables


def paper_table(results: Results) -> Table:
    """The paper's figures, each dataset's followed by ours, computed as the paper does: means over folds."""
    summary = rows_by_key(results.summary)
    columns = [
        *_headings("Dataset", "Setting"),
        Column("Foreground mean Dice"),
        Column("Folds"),
        Column("Whose figure", numeric=False),
    ]
    rows = []
    for dataset in results.paper["dataset"].unique():
        for row in results.paper[results.paper["dataset"] == dataset].itertuples(index=False):
            printed = Cell(numbers.value(row.dice, "Dice"), row.dice)
            rows.append([_name(dataset), _name(row.setting), printed, Cell(""), Cell(f"the paper's: {row.source}")])
        for trainer in results.trainers:
            own = summary.get((dataset, trainer, FOREGROUND, "Dice"))
            if own is not None:
                mean = Cell(numbers.value(own.mean_over_folds, "Dice"), own.mean_over_folds)
                rows.append(
                    [
                        _name(dataset),
                        _name(trainer),
                        mean,
                        _count(own.folds),
                        Cell("this comparison's, mean over folds"),
                    ]
                )
    return _of_datasets("Figures printed in the paper, and this comparison's", columns, rows)


def cost_table(results: Results) -> Table:
    """Training time of every trainer on every dataset."""
    columns = [
        *_headings("Dataset", "Trainer"),
        Column("Trainings"),
        Column("Epochs of each"),
        Column("Seconds per epoch, median"),
        Column("Relative to the baseline"),
        Column("Fastest and slowest training"),
        Column("Hours in all"),
    ]
    rows = []
    for dataset, of_dataset in results.cost.groupby("dataset", sort=False):
        per_epoch = of_dataset.groupby("trainer")["seconds_per_epoch"].median()
        for trainer in results.trainers:
            frame = of_dataset[of_dataset["trainer"] == trainer]
            if frame.empty:
                continue
            seconds, hours = frame["seconds_per_epoch"], frame["total_hours"].sum(min_count=1)
            epochs = sorted({numbers.name(count) for count in frame["epochs"]}, key=lambda text: (len(text), text))
            ratio = per_epoch[trainer] / per_epoch.get(results.baseline, float("nan"))
            fastest, slowest = (numbers.fixed(number, 2) for number in (seconds.min(), seconds.max()))
            rows.append(
                [
                    _name(dataset),
                    _name(trainer),
                    _count(len(frame)),
                    Cell(", ".join(epochs), frame["epochs"].max()),
                    Cell(numbers.fixed(per_epoch[trainer], 2), per_epoch[trainer]),
                    Cell(numbers.fixed(ratio, 2), ratio),
                    Cell(f"{fastest} to {slowest}", seconds.min()),
                    Cell(numbers.fixed(hours, 2), hours),
                ]
            )
    return _of_datasets("Training time, from nnU-Net's logs", columns, rows)


def _of_datasets(caption: str, columns: list[Column], rows: list[list[Cell]]) -> Table:
    """Make a table whose first column holds datasets; a single one is named in the caption, to save the room."""
    names = {row[0].text for row in rows}
    if len(names) != 1:
        return Table(caption, columns, rows)
    return Table(f"{caption}: {names.pop()}", columns[1:], [row[1:] for row in rows])


def _over_runs(results: Results) -> bool:
    return bool(results.comparisons["runs_ci_low"].notna().any())


def _comparison(row: Any, over_runs: bool) -> list[Cell]:
    metric = row.metric
    interval = numbers.interval(row.ci_low, row.ci_high, metric)
    of_runs = Cell(numbers.interval(row.runs_ci_low, row.runs_ci_high, metric), row.runs_ci_low)
    return [
        Cell(f"{numbers.difference(row.difference, metric)} {interval}", row.difference),
        *([of_runs] if over_runs else []),
        Cell(numbers.p_value(row.p_holm), row.p_holm),
        Cell(row.verdict),
        Cell(numbers.fixed(row.effect_size, 2), row.effect_size),
        Cell(f"{row.wins} / {row.ties} / {row.losses}", row.wins),
        Cell(numbers.value(row.detectable, metric), row.detectable),
    ]


def _headings(*names: str) -> Iterable[Column]:
    return (Column(name, numeric=False, heading=True) for name in names)


def _name(text: Any) -> Cell:
    return Cell(numbers.name(text))


def _count(count: Any) -> Cell:
    return Cell(numbers.name(count), float(count) if isinstance(count, (int, float)) else None)
