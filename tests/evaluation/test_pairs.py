"""All pairs of trainers, and means over datasets: against SciPy and by hand, and as they are shown."""

import numpy as np
import pandas as pd
import pytest
from evaluation_helpers import frame
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nnunet_cpr.evaluation import statistics
from nnunet_cpr.evaluation.figures.pairs import critical_differences, draw_pairs
from nnunet_cpr.evaluation.report.paragraph import paragraph
from nnunet_cpr.evaluation.report.tables import across_tables, pairs_tables
from nnunet_cpr.evaluation.results import FOREGROUND, PAIRS, Results

NAMES = ["base", "a $x$", "b_{y}", "far"]


def several(datasets=("D",), seed=0):
    rng = np.random.default_rng(seed)
    parts = []
    for number, dataset in enumerate(datasets):
        hard = rng.uniform(0.4, 0.8, 25)
        shifts = dict(zip(NAMES, (0.0, 0.003, 0.01 * number, -0.1), strict=True))
        trainers = {
            name: {f"c{k}": {"x": hard[k] + shift + rng.normal(0, 0.01), "y": hard[k]} for k in range(25)}
            for name, shift in shifts.items()
        }
        parts.append(frame(dataset, **trainers))
    return statistics.add_foreground(pd.concat(parts, ignore_index=True))


def results(cases):
    comparisons = statistics.compare(cases, "base")
    return Results(
        title="", baseline="base", trainers=NAMES, cases=cases, summary=statistics.summarize(cases),
        trainings=pd.DataFrame(), comparisons=comparisons, extremes=pd.DataFrame(), ranks=statistics.rank(cases),
        facts={}, pairs=statistics.compare_all(cases, NAMES), across=statistics.over_datasets(comparisons),
    )  # fmt: skip


def test_all_pairs_with_their_own_correction():
    cases = several(("D", "E"))
    pairs = statistics.compare_all(cases, NAMES)
    assert len(pairs) == 2 * 6 and set(pairs["label"]) == {FOREGROUND}
    for dataset, part in pairs.groupby("dataset"):
        wide = cases[(cases["dataset"] == dataset) & (cases["label"] == FOREGROUND)].pivot(
            index="case", columns="trainer", values="value"
        )
        expected = [stats.wilcoxon(wide[row.trainer] - wide[row.baseline]).pvalue for row in part.itertuples()]
        assert part["p"].to_numpy() == pytest.approx(expected, rel=1e-9)
        assert part["p_holm"].to_numpy() == pytest.approx(multipletests(expected, method="holm")[1])
        for row in part.itertuples():
            assert row.difference == pytest.approx((wide[row.trainer] - wide[row.baseline]).mean())
            assert NAMES.index(row.baseline) < NAMES.index(row.trainer)
    against_base = pairs[pairs["baseline"] == "base"].set_index(["dataset", "trainer"])
    usual = statistics.compare(cases, "base")
    usual = usual[usual["label"] == FOREGROUND].set_index(["dataset", "trainer"])
    for column in ("difference", "ci_low", "ci_high", "p", "detectable"):
        assert against_base[column].to_numpy() == pytest.approx(usual[column].to_numpy())
    assert set(pairs[pairs["trainer"] == "far"]["verdict"]) == {"worse"}


def test_two_trainers_are_one_pair():
    cases = several()
    assert statistics.compare_all(cases[cases["trainer"].isin(NAMES[:2])], NAMES[:2]) is None


def test_a_trainer_that_is_not_in_every_dataset():
    cases = several(("D", "E"))
    cases = cases[~((cases["dataset"] == "E") & (cases["trainer"] == "base"))]
    pairs = statistics.compare_all(cases, NAMES)
    assert pairs.groupby("dataset").size().to_dict() == {"D": 6, "E": 3}


@pytest.mark.filterwarnings("error")
def test_trainers_that_never_meet():
    cases = several(("D", "E"))
    apart = {("D", "b_{y}"), ("D", "far"), ("E", "a $x$")}
    cases = cases[[pair not in apart for pair in zip(cases["dataset"], cases["trainer"], strict=True)]]
    pairs = statistics.compare_all(cases, NAMES)
    found = set(zip(pairs["dataset"], pairs["baseline"], pairs["trainer"], strict=True))
    assert found == {("D", "base", "a $x$"), ("E", "base", "b_{y}"), ("E", "base", "far"), ("E", "b_{y}", "far")}


def test_pairs_that_share_no_case_are_not_an_error():
    cases = several()
    gone = (cases["trainer"] == "far") & (cases["case"] != "c0") | (cases["trainer"] == "b_{y}") & (
        cases["case"] == "c0"
    )
    cases.loc[gone, "value"] = np.nan
    pairs = statistics.compare_all(cases, NAMES).set_index(["baseline", "trainer"])
    assert pairs.loc[("b_{y}", "far"), "n"] == 0 and pairs.loc[("b_{y}", "far"), "verdict"] == "not decided"


def test_over_datasets_the_datasets_are_the_units():
    comparisons = statistics.compare(several(("D", "E", "F")), "base")
    across = statistics.over_datasets(comparisons).set_index("trainer")
    for trainer, row in across.iterrows():
        part = comparisons[(comparisons["trainer"] == trainer) & (comparisons["label"] == FOREGROUND)]
        values = part["difference"].to_numpy()
        interval = stats.ttest_1samp(values, 0).confidence_interval()
        assert (row.n, row.difference) == (3, pytest.approx(values.mean()))
        assert (row.ci_low, row.ci_high) == pytest.approx(interval)
    assert across.loc["far", ["better", "worse"]].tolist() == [0, 3]
    assert statistics.over_datasets(statistics.compare(several(), "base")).empty


def test_the_matrix_is_antisymmetric():
    found = results(several())
    (table,) = pairs_tables(found, found.pairs)
    numbers = np.array([[np.nan if cell.number is None else cell.number for cell in row[1:]] for row in table.rows])
    assert np.array_equal(numbers, -numbers.T, equal_nan=True) and np.isnan(np.diag(numbers)).all()
    mean = found.comparisons[found.comparisons["label"] == FOREGROUND].set_index("trainer")["difference"]
    assert numbers[3, 0] == pytest.approx(mean["far"])
    assert table.rows[1][0].text == "a $x$"
    assert not any(table.rows for table in across_tables(found))


def test_bars_join_what_does_not_differ():
    ranks = pd.Series({"base": 1.5, "a $x$": 1.75, "b_{y}": 2.75, "far": 4.0})
    pairs = pd.DataFrame(
        [("base", "a $x$", 0.4), ("base", "b_{y}", 0.03), ("base", "far", 0.001), ("a $x$", "b_{y}", 0.2),
         ("a $x$", "far", 0.001), ("b_{y}", "far", float("nan"))],
        columns=["baseline", "trainer", "p_holm"],
    )  # fmt: skip
    figure = critical_differences(results(several()), ranks, pairs)
    (ax,) = figure.axes
    bars = {tuple(sorted(line.get_xdata())) for line in ax.lines if len(set(line.get_ydata())) == 1}
    assert bars == {(1.5, 1.75), (1.75, 2.75), (2.75, 4.0)}
    assert [text.get_text() for text in ax.texts] == [r"base (1.50)", r"a \$x\$ (1.75)", "b_{y} (2.75)", "far (4.00)"]


def test_a_diagram_for_each_dataset():
    drawings = list(draw_pairs(results(several(("D", "E e")))))
    assert [drawing.name for drawing in drawings] == ["critical-difference-Dice-D", "critical-difference-Dice-E-e"]
    assert {drawing.topic for drawing in drawings} == {PAIRS}


def test_the_paragraph_for_a_paper():
    found = results(several(("D", "E")))
    text, references = paragraph(found)
    assert "Segmentations of 25 cases (D), 25 cases (E) were compared by the Dice" in text
    assert "compared with base, paired by case" in text and "a margin of ±0.01 (Dice)" in text
    assert f"over all {2 * 3 * 3} comparisons" in text and "seeds" not in text and "two-level" not in text
    assert "Demsar" in references and "Satterthwaite" not in references
    found.comparisons[["runs_ci_low", "runs_ci_high"]] = -0.1, 0.1
    found.summary["runs"] = 3
    text, references = paragraph(found)
    assert "Each method has 3 runs" in text and "two-level bootstrap over runs and cases" in text
    assert "Satterthwaite" in references
