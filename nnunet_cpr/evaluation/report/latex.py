"""The comparison of the foreground mean as a LaTeX table with booktabs."""

from nnunet_cpr.evaluation import formatting as numbers
from nnunet_cpr.evaluation.margins import widest_interval
from nnunet_cpr.evaluation.report.short_names import legend
from nnunet_cpr.evaluation.results import FOREGROUND, Results, rows_by_key

# In braces, brackets and stars: after \\ LaTeX would take them for an argument.
SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "|": r"\textbar{}",
    "<": "$<$",
    ">": "$>$",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    numbers.MINUS: "$-$",
    "±": r"$\pm$",
    numbers.UNDEFINED: "--",
    "…": r"\ldots{}",
}


def latex_table(results: Results) -> str:
    """Return a tabular, ready for \\input: dataset, trainer, n, mean and SD, difference with interval, p."""
    metric = results.metrics[0]
    summary, comparisons = rows_by_key(results.summary), rows_by_key(results.comparisons)
    unit = numbers.unit(metric)
    blocks = []
    for dataset in results.datasets:
        rows: list[str] = []
        for trainer in results.trainers:
            key = (dataset, trainer, FOREGROUND, metric)
            if key not in summary:
                continue
            own, compared = summary[key], comparisons.get(key)
            cells = [
                "" if rows else dataset,
                f"{trainer} (baseline)" if trainer == results.baseline else trainer,
                numbers.name(own.n if compared is None else compared.n),
                f"{numbers.value(own.mean, metric)} ± {numbers.value(own.std, metric)}",
            ]
            if compared is None:
                cells += ["", ""]
            else:
                interval = numbers.interval(*widest_interval(compared), metric)
                cells.append(f"{numbers.difference(compared.difference, metric)} {interval}")
                cells.append(numbers.p_value(compared.p_holm))
            rows.append(" & ".join(map(escape, cells)) + r" \\")
        blocks.append("\n".join(rows))
    return "\n".join(
        [
            "% Needs \\usepackage{booktabs}. Foreground mean; SD over cases; differences paired by case; intervals "
            "over cases, and over runs, too, where both trainers have several.",
            *(f"% {escape(name)}: {escape(runs)}" for name, runs in legend(results).items()),
            r"\begin{tabular}{llrrrr}",
            r"\toprule",
            rf"Dataset & Trainer & $n$ & {escape(metric + unit)}, mean $\pm$ SD & Difference [95\,\% CI] "
            r"& $p$ (Holm) \\",
            r"\midrule",
            "\n\\midrule\n".join(block for block in blocks if block),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Escape what LaTeX would not print as it is, on one line."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))
