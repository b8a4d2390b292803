"""The comparison of the foreground mean as plain text for a terminal."""

from nnunet_cpr.evaluation import formatting as numbers
from nnunet_cpr.evaluation.margins import widest_interval
from nnunet_cpr.evaluation.report.short_names import legend, with_short_names
from nnunet_cpr.evaluation.results import FOREGROUND, Results, rows_by_key

NAME_WIDTH = 42
HEADER_REST = ["difference [95 % CI]", "p (Holm)", "verdict"]
OVER_RUNS = "* over runs and cases, where both trainers have several runs"


def terminal_table(results: Results) -> str:
    """Return the table in ASCII (but for names), at most 110 columns wide: a block a dataset, a line a trainer.

    A second table is that of the test set, if that was compared, too. Short names are explained below the tables.
    """
    shown = with_short_names(results)
    text = _table(shown)
    if shown.test_set is not None:
        text = f"Cross-validation\n{text}\n\nTest set (fold ensembles)\n{_table(shown.test_set)}"
    names = {} if shown is results else legend(shown)
    return "\n".join([text, *([""] if names else []), *(f"{name}: {runs}" for name, runs in names.items())])


def _table(results: Results) -> str:
    metric = results.metrics[0]
    summary, comparisons = rows_by_key(results.summary), rows_by_key(results.comparisons)
    unit = numbers.unit(metric)
    header = ["", "n", f"{metric}{unit}", *HEADER_REST]
    over_runs = bool(results.comparisons["runs_ci_low"].notna().any())
    if over_runs:
        header[3] = "difference [95 % CI*]"
    lines: list[list[str] | str] = [header]
    for dataset in results.datasets:
        lines.append(_shorten(dataset, 100))
        for trainer in results.trainers:
            key = (dataset, trainer, FOREGROUND, metric)
            if key not in summary:
                continue
            own, compared = summary[key], comparisons.get(key)
            line = [f"  {_shorten(trainer, NAME_WIDTH)}", numbers.name(own.n), numbers.value(own.mean, metric)]
            if compared is None:
                line += ["baseline" if trainer == results.baseline else numbers.UNDEFINED, "", ""]
            else:
                interval = numbers.interval(*widest_interval(compared), metric)
                line[1] = numbers.name(compared.n)
                line += [
                    f"{numbers.difference(compared.difference, metric)} {interval}",
                    numbers.p_value(compared.p_holm),
                    compared.verdict,
                ]
            lines.append(line)
    widths = [max(len(line[column]) for line in lines if isinstance(line, list)) for column in range(len(header))]
    text = "\n".join(line if isinstance(line, str) else _align(line, widths) for line in lines)
    text += f"\n{OVER_RUNS}" if over_runs else ""
    return text.replace(numbers.MINUS, "-").replace(numbers.UNDEFINED, "-")


def _align(line: list[str], widths: list[int]) -> str:
    first, *rest = (
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def _shorten(name: str, width: int) -> str:
    """Cut long names in their middle: trainers of a family differ at the end."""
    name = numbers.name(name)
    return name if len(name) <= width else f"{name[: width // 2 - 2]}...{name[-(width - width // 2 - 1) :]}"
