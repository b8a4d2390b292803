"""Trainers' names as a report shows them."""

import pandas as pd
import pytest
from evaluation_helpers import frame

from nnunet_cpr.evaluation import statistics
from nnunet_cpr.evaluation.report.short_names import short_names
from nnunet_cpr.evaluation.report.write import terminal_table, write_report
from nnunet_cpr.evaluation.results import CaseSlice, Results, SlicedSegmentation

SGD, CPR = "nnUNetTrainerSGD_wd3e-5_100epochs", "nnUNetTrainerCPR_ws2000_100epochs"


@pytest.mark.parametrize(
    ("trainers", "expected"),
    [
        ([SGD, CPR], {SGD: "SGD_wd3e-5", CPR: "CPR_ws2000"}),
        (["nnUNetTrainer", "nnUNetTrainerCPR_ws2000"], {}),  # short enough
        (["baseline", CPR], {CPR: "CPR_ws2000_100epochs"}),
        (["nnUNetTrainer_100epochs", CPR], {"nnUNetTrainer_100epochs": "nnUNetTrainer_100epochs", CPR: "CPR_ws2000"}),
        ([CPR, f"{CPR}_seed1"], {CPR: "CPR", f"{CPR}_seed1": "CPR_seed1"}),
        (
            ["nnUNetTrainer:2d:nnUNetPlans", "nnUNetTrainer:3d_fullres:nnUNetPlans"],
            {
                "nnUNetTrainer:2d:nnUNetPlans": "nnUNetTrainer:2d",
                "nnUNetTrainer:3d_fullres:nnUNetPlans": "nnUNetTrainer:3d_fullres",
            },
        ),
        (
            ["nnUNetTrainer", "nnUNetTrainer:2d+nnUNetTrainer", f"{CPR}:2d+{CPR}:3d_fullres"],
            {
                "nnUNetTrainer": "nnUNetTrainer",
                "nnUNetTrainer:2d+nnUNetTrainer": "nnUNetTrainer:2d+nnUNetTrainer",
                f"{CPR}:2d+{CPR}:3d_fullres": "CPR_ws2000_100epochs:2d+CPR_ws2000_100epochs:3d_fullres",
            },
        ),
        (["SGD_wd3e-5", SGD, CPR], {}),  # one of them would be another's name
        (["a name that somebody has chosen with care", "nnUNetTrainer"], {}),
    ],
)
def test_short_names(trainers, expected):
    assert short_names(trainers) == expected


@pytest.fixture
def results() -> Results:
    values = {SGD: {"a": {"1": 0.8}, "b": {"1": 0.7}}, CPR: {"a": {"1": 0.9}, "b": {"1": 0.9}}}
    cases = statistics.add_foreground(frame(**values))
    shown = [SlicedSegmentation(name, None, 0.8, pd.DataFrame([[1]]).to_numpy()) for name in (SGD, CPR)]
    plane = shown[0].plane
    reasons, changes = [f"gained most with {CPR} (+0.200)"], f"Dice, {SGD} and {CPR}: 1 0.8 and 0.9."
    pictures = CaseSlice("D", "a", reasons, "Axial.", changes, None, plane, shown, {"1": 1}, 1.0)
    return Results(
        title="T",
        baseline=SGD,
        trainers=[SGD, CPR],
        cases=cases,
        summary=statistics.summarize(cases),
        trainings=statistics.per_training(cases),
        comparisons=statistics.compare(cases, SGD),
        extremes=statistics.extremes(cases, SGD),
        ranks=None,
        facts={},
        slices=[pictures],
    )


def test_pages_have_short_names_and_say_what_they_stand_for(results, tmp_path):
    write_report(results, tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text().replace("\\", "")
    assert f"- SGD_wd3e-5: {SGD}\n- CPR_ws2000: {CPR}\n" in page
    assert page.count(SGD) == page.count(CPR) == 1
    assert "gained most with CPR_ws2000 (+0.200)" in page and "Dice, SGD_wd3e-5 and CPR_ws2000: 1" in page
    html = (tmp_path / "report" / "report.html").read_text().replace("<wbr>", "")
    assert html.count(SGD) == html.count(CPR) == 1
    assert SGD in (tmp_path / "report" / "comparisons.csv").read_text()
    latex = (tmp_path / "report" / "table.tex").read_text().replace("\\_", "_")
    assert f"% CPR_ws2000: {CPR}\n" in latex and "CPR_ws2000 &" in latex
    table = terminal_table(results).splitlines()
    assert table[-2:] == [f"SGD_wd3e-5: {SGD}", f"CPR_ws2000: {CPR}"]
    assert any(line.startswith("  CPR_ws2000 ") for line in table)
