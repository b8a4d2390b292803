"""The report of a comparison: a folder with a page, tables and figures."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nnunet_cpr.evaluation.figures.comparison import draw_comparison, draw_test_set
from nnunet_cpr.evaluation.figures.constraints import draw_constraints
from nnunet_cpr.evaluation.figures.contours import draw_slices
from nnunet_cpr.evaluation.figures.drawing import save_both
from nnunet_cpr.evaluation.figures.pairs import draw_pairs
from nnunet_cpr.evaluation.figures.training import draw_training
from nnunet_cpr.evaluation.report.csv import csv_table
from nnunet_cpr.evaluation.report.html import html_page
from nnunet_cpr.evaluation.report.latex import latex_table
from nnunet_cpr.evaluation.report.layout import REPORT, TEST_SET
from nnunet_cpr.evaluation.report.markdown import markdown_page
from nnunet_cpr.evaluation.report.sections import Section, make_sections
from nnunet_cpr.evaluation.report.short_names import with_short_names
from nnunet_cpr.evaluation.report.terminal import terminal_table
from nnunet_cpr.evaluation.results import ACROSS_COLUMNS, CASE_COLUMNS, COST_COLUMNS, Results
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
    """Write the report's files into a folder that has none yet; `closing` sections come last.

    What is read by people has short names for trainers (short_names.py), what is read by programs the full ones.
    """
    figures = folder / "figures"
    figures.mkdir()
    shown = with_short_names(results)
    texts = _tables(results) | {"table.tex": latex_table(shown)}
    if not results.cost.empty:
        texts["costs.csv"] = csv_table(results.cost[COST_COLUMNS])
    if results.test_set is not None:
        texts |= {f"{TEST_SET}{name}": text for name, text in _tables(results.test_set).items()}
    if shown.test_set is not None:
        texts[f"{TEST_SET}table.tex"] = latex_table(shown.test_set)
    for name, text in texts.items():
        write_text(folder / name, text)
    drawings = [*draw_comparison(shown), *draw_slices(shown), *draw_training(shown), *draw_constraints(shown)]
    drawings += draw_pairs(shown)
    of_test_set = [] if shown.test_set is None else list(draw_test_set(shown.test_set))
    svgs = {drawing.name: save_both(drawing, figures) for drawing in [*drawings, *of_test_set]}
    sections = [*make_sections(shown, drawings, of_test_set), *closing]
    pages = {"report.md": markdown_page(shown, sections), "report.html": html_page(shown, sections, svgs)}
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
    return {name: csv_table(frame[columns]) for name, frame, columns in tables}
