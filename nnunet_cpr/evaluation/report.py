"""The report of a comparison: a folder with a page, tables and figures."""

from pathlib import Path

import pandas as pd

from nnunet_cpr.evaluation.comparison_figures import draw_comparison, save_both
from nnunet_cpr.evaluation.report_html import html_page
from nnunet_cpr.evaluation.report_latex import latex_table
from nnunet_cpr.evaluation.report_markdown import markdown_page
from nnunet_cpr.evaluation.report_sections import make_sections
from nnunet_cpr.evaluation.report_terminal import terminal_table
from nnunet_cpr.evaluation.results import CASE_COLUMNS, Results
from nnunet_cpr.files import write_text

__all__ = ["terminal_table", "write_report"]

_KEYS = ["label", "metric", "n"]
SUMMARY_COLUMNS = ["dataset", "trainer", *_KEYS, "mean", "std", "median", "min", "max", "undefined", "folds", "runs"]
SUMMARY_COLUMNS += ["mean_over_folds", "runs_std"]
TRAINING_COLUMNS = ["dataset", "trainer", "run", "fold", *_KEYS, "mean"]
COMPARISON_COLUMNS = ["dataset", "trainer", "baseline", *_KEYS, "difference", "ci_low", "ci_high", "p", "p_holm"]
COMPARISON_COLUMNS += ["wins", "ties", "losses", "baseline_mean", "trainer_mean", "difference_std", "effect_size"]


def write_report(results: Results, folder: Path) -> None:
    """Write report.html, report.md, cases.csv, summary.csv, trainings.csv,
    comparisons.csv, table.tex and figures/ into the folder.

    Every file is written whole or not at all, the page last: it is self-contained, the others stand beside it.
    """
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    tables: list[tuple[str, pd.DataFrame, list[str]]] = [
        ("cases.csv", results.cases, CASE_COLUMNS),
        ("summary.csv", results.summary, SUMMARY_COLUMNS),
        ("trainings.csv", results.trainings, TRAINING_COLUMNS),
        ("comparisons.csv", results.comparisons, COMPARISON_COLUMNS),
    ]
    for name, frame, columns in tables:
        write_text(folder / name, frame[columns].to_csv(index=False))
    write_text(folder / "table.tex", latex_table(results))
    drawings = list(draw_comparison(results))
    svgs = {drawing.name: save_both(drawing, figures) for drawing in drawings}
    sections = make_sections(results, drawings)
    write_text(folder / "report.md", markdown_page(results, sections))
    write_text(folder / "report.html", html_page(results, sections, svgs))
