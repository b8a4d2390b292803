"""`nnunet-cpr compare` from nnU-Net's folders to a report."""

import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from evaluation_helpers import frame, write_training

from nnunet_cpr.cli import main
from nnunet_cpr.evaluation.comparison import apply_policy, check_cases
from nnunet_cpr.evaluation.results import CASE_COLUMNS, FOREGROUND

LABELS = {"background": 0, "left": 1, "right": 2}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two trainers (one with two seeds), two folds of 12 cases."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    rng = np.random.default_rng(0)
    for run, gain in (("Base", 0.0), ("New_seed0", 0.05), ("New_seed1", 0.04)):
        for fold in range(2):
            cases = {
                f"c{fold}{i:02}": {"1": rng.uniform(0.7, 0.9) + gain, "2": rng.uniform(0.7, 0.9)} for i in range(12)
            }
            write_training(tmp_path / "results", run, fold, cases, LABELS)
    return tmp_path / "results"


def arguments(out, *more):
    trainers = ["-tr", "Base", "New=New_seed0,New_seed1"]
    return ["compare", "-d", "Dataset004_Tiny", "-f", "0", "1", *trainers, "-o", str(out), *more]


def test_from_folders_to_a_report(results, tmp_path, capsys):
    out = tmp_path / "report"
    assert main(arguments(out)) == 0
    said = capsys.readouterr().out
    assert "report.html" in said and "only 24 cases" in said and "one run (seed) of Base" in said
    cases = pd.read_csv(out / "cases.csv", dtype={"fold": str})
    assert list(cases.columns) == CASE_COLUMNS
    assert len(cases) == 3 * 24 * 3
    stored = json.loads(
        (results / "Dataset004_Tiny/New_seed1__nnUNetPlans__3d_fullres/fold_1/validation/summary.json").read_text()
    )["metric_per_case"]
    for case in stored:
        name = case["prediction_file"].split("/")[-1].removesuffix(".nii.gz")
        row = cases[(cases["run"] == "New_seed1") & (cases["case"] == name) & (cases["label"] == "left")]
        assert row["value"].item() == pytest.approx(case["metrics"]["1"]["Dice"], abs=1e-12)
    table = pd.read_csv(out / "comparisons.csv").set_index("label")
    assert list(table.index) == ["left", "right", FOREGROUND]
    assert (table["n"] == 24).all() and (table["trainer"] == "New").all() and (table["baseline"] == "Base").all()
    assert 0.02 < table.loc["left", "difference"] < 0.08
    for name in ("report.html", "report.md", "summary.csv", "table.tex"):
        assert (out / name).stat().st_size > 100
    assert len(list((out / "figures").glob("*.svg"))) == len(list((out / "figures").glob("*.png"))) > 0


def test_the_same_request_as_yaml(results, tmp_path):
    (tmp_path / "study.yaml").write_text(
        "datasets: [Dataset004_Tiny]\nfolds: [0, 1]\noutput: b\n"
        "trainers:\n  Base: Base\n  New: [New_seed0, New_seed1]\n"
    )
    assert main(arguments(tmp_path / "a")) == 0
    assert main(["compare", "--config", str(tmp_path / "study.yaml")]) == 0
    for name in ("cases.csv", "summary.csv", "comparisons.csv", "table.tex"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["-f", "4"], "3 of 9 trainings have no validation result"),
        (["-tr", "Unknown"], "2 of 8 trainings have no validation result"),
        (["-d", "999"], "999 is not a dataset"),
        (["--baseline", "Nobody"], "the baseline Nobody is not among"),
    ],
)
def test_mistakes_write_nothing(results, tmp_path, capsys, change, message):
    assert main(arguments(tmp_path / "report", *change)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_unequal_cases_are_an_error_or_intersected(results, tmp_path, capsys):
    path = results / "Dataset004_Tiny/Base__nnUNetPlans__3d_fullres/fold_0/validation/summary.json"
    summary = json.loads(path.read_text())
    summary["metric_per_case"] = summary["metric_per_case"][2:]
    path.write_text(json.dumps(summary))
    assert main(arguments(tmp_path / "report")) == 2
    assert "Base lacks c000, c001; --intersect" in capsys.readouterr().err
    assert main(arguments(tmp_path / "report", "--intersect")) == 0
    assert "2 of 24 cases are left out" in capsys.readouterr().out
    assert (pd.read_csv(tmp_path / "report" / "comparisons.csv")["n"] == 22).all()


def test_other_labels_are_an_error():
    cases = pd.concat([frame(a={"1": {"x": 1.0}}), frame(b={"1": {"y": 1.0}})])
    with pytest.raises(ValueError, match=r"D: b has the labels \['y'\], but a has \['x'\]"):
        check_cases(cases, intersect=True)


def test_a_case_counts_once():
    cases = pd.concat([frame(fold="0", a={"1": {"x": 1.0}}), frame(fold="1", a={"1": {"x": 1.0}})])
    with pytest.raises(ValueError, match="a validated 1 in several folds"):
        check_cases(cases, intersect=False)


def test_no_common_case():
    with pytest.raises(ValueError, match="no case in common"):
        check_cases(frame(a={"1": {"x": 1.0}}, b={"2": {"x": 1.0}}), intersect=True)


@pytest.mark.parametrize(("policy", "expected"), [("nan", math.nan), ("0", 0.0), ("1", 1.0)])
def test_empty_masks(policy, expected):
    cases = pd.concat([frame(a={"1": {"x": math.nan, "y": 0.5}}), frame(metric="HD95", a={"1": {"x": math.nan}})])
    kept, touched = apply_policy(cases, policy)
    assert touched == 1
    assert kept["value"].tolist() == pytest.approx([expected, 0.5, math.nan], nan_ok=True)


def test_parsing_imports_nothing_heavy():
    code = (
        "import sys; from nnunet_cpr.cli import main\ntry: main(['compare', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'pandas', 'scipy', 'nnunetv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
