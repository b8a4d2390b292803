"""The report of a comparison: a folder with a page, tables and figures."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nnunet_cpr.evaluation.comparison_figures import draw_comparison, draw_test_set
from nnunet_cpr.evaluation.constraint_figures import draw_constraints
from nnunet_cpr.evaluation.contour_figures import draw_slices
from nnunet_cpr.evaluation.figures import save_both
from nnunet_cpr.evaluation.pair_figures import draw_pairs
from nnunet_cpr.evaluation.report_csv import csv_table
from nnunet_cpr.evaluation.report_html import html_page
from nnunet_cpr.evaluation.report_latex import latex_table
from nnunet_cpr.evaluation.report_layout import REPORT, TEST_SET
from nnunet_cpr.evaluation.report_markdown import markdown_page
from nnunet_cpr.evaluation.report_sections import Section, make_sections
from nnunet_cpr.evaluation.report_terminal import terminal_table
from nnunet_cpr.evaluation.results import ACROSS_COLUMNS, CASE_COLUMNS, COST_COLUMNS, Results
from nnunet_cpr.evaluation.training_figures import draw_training
from nnunet_cpr.files import write_text
from nnunet_cpr.output_folder import replace_folder

__all__ = ["terminal_table", "write_files", "write_report"]

_KEYS = ["label", "metric", "n"]
SUMMARY_COLUMNS = ["dataset", "trainer", *_KEYS, "mean", "std", "median", "min", "max", "undefined", "folds", "runs"]
SUMMARY_COLUMNS += ["mean_over_folds", "runs_std"]
TRAINING_COLUMNS = ["dataset", "trainer", "run", "fold", *_KEYS, "mean"]
COMPARISON_COLUMNS = ["dataset", "trainer", "baseline", *_KEYS, "difference", "ci_low", "ci_high", "p", "p_holm"]
COMPARISON_COLUMNS += ["wins", "ties", "losses", "baseline_mean", "trainer_mean", "difference_std", "effect_size"]
COMPARISON_COLUMNS += ["margin", "runs_ci_low", "runs_ci_high", "detectable", "p_equivalence", "p_not_worse"]
COMPARISON_COLUMNS += ["cases_needed", "runs_needed", "verdict"]


def write_report(results: Results, folder: Path) -> None:
    """Write report.html, report.md, the tables as CSV, table.tex, figures/ and manifest.json into the folder.

    An earlier report in it is replaced as a whole: see :func:`nnunet_cpr.output_folder.replace_folder`.
    """
    with replace_folder(folder, REPORT) as new:
        write_files(results, new)


def write_files(results: Results, folder: Path, closing: Sequence[Section] = ()) -> None:
    """Write the report's files into a folder that has none yet; `closing` sections come last."""
    figures = folder / "figures"
    figures.mkdir()
    texts = _tables(results)
    if not results.cost.empty:
        texts["costs.csv"] = csv_table(results.cost[COST_COLUMNS])
    if results.test_set is not None:
        texts |= {f"{TEST_SET}{name}": text for name, text in _tables(results.test_set).items()}
    for name, text in texts.items():
        write_text(folder / name, text)
    drawings = [*draw_comparison(results), *draw_slices(results), *draw_training(results), *draw_constraints(results)]
    drawings += draw_pairs(results)
    of_test_set = [] if results.test_set is None else list(draw_test_set(results.test_set))
    svgs = {drawing.name: save_both(drawing, figures) for drawing in [*drawings, *of_test_set]}
    sections = [*make_sections(results, drawings, of_test_set), *closing]
    pages = {"report.md": markdown_page(results, sections), "report.html": html_page(results, sections, svgs)}
    for name, text in pages.items():
        write_text(folder / name, text)


def _tables(results: Results) -> dict[str, str]:
    tables: list[tuple[str, pd.DataFrame, list[str]]] = [
        ("cases.csv", results.cases, CASE_COLUMNS),
        ("summary.csv", results.summary, SUMMARY_COLUMNS),
        ("trainings.csv", results.trainings, TRAINING_COLUMNS),
        ("comparisons.csv", results.comparisons, COMPARISON_COLUMNS),
    ]
    if results.pairs is not None:
        tables.append(("pairs.csv", results.pairs, COMPARISON_COLUMNS))
    if not results.across.empty:
        tables.append(("datasets.csv", results.across, ACROSS_COLUMNS))
    return {name: csv_table(frame[columns]) for name, frame, columns in tables} | {"table.tex": latex_table(results)}
